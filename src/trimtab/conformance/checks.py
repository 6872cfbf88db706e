"""The checks: each a function of a backend, a model and what is expected, giving findings.

A finding is (check, passed, detail); a check that fails says where first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from trimtab.activations.positions import Generated, Last, LastPrompt, Positions, PromptTokens
from trimtab.conformance.cases import POSITIONS, cases, many
from trimtab.conformance.expectations import LIMIT, READ, Expected, answered
from trimtab.conformance.reference import Greedy
from trimtab.conformance.subjects import PREEMPTED, Subject
from trimtab.generation.rows import Answer, Item, Row
from trimtab.generation.sampling import Sampling
from trimtab.interventions import Add
from trimtab.models import LanguageModel, encode

Finding = tuple[str, bool, str]
_TIE = {torch.float32: 2e-3}  # a lead of less, in logits, may fall the other way by rounding
_TIE_OF_HALF = 0.3
_LONGER = 60  # tokens, where requests should be preempted
_CAPTURED = 1e-4
_CAPTURED_HALF = 0.1


@dataclass(frozen=True)
class Bench:
    """A backend, a model, and what is expected of them."""

    subject: Subject
    lm: LanguageModel
    expected: Expected

    @property
    def cases(self) -> dict[str, tuple[Item, ...]]:
        """The interventions of each case, made anew."""
        return cases(self.lm, self.expected.directions)

    def rows(self, items: tuple[Item, ...], key: int = 0) -> list[Row]:
        """One row a prompt."""
        return [Row(ids, items, key, LIMIT) for ids in self.ids()]

    def ids(self) -> list[tuple[int, ...]]:
        """The prompts' tokens."""
        return [tuple(encode(self.lm, text)) for text in self.expected.prompts]

    def grid(self, batch_size: int | None = None) -> dict[str, list[Answer]]:
        """The answers of all cases and prompts, made in one call."""
        named = self.cases
        rows = [row for items in named.values() for row in self.rows(items)]
        answers = self.subject.answers(self.lm, rows, batch_size=batch_size)
        k = len(self.expected.prompts)
        return {name: answers[i * k : (i + 1) * k] for i, name in enumerate(named)}


def greedy_equality(bench: Bench) -> Iterator[Finding]:
    """Each case's greedy tokens equal the reference's."""
    yield from _compared(bench, "greedy: ", bench.grid())


def _compared(bench: Bench, check: str, grid: dict[str, list[Answer]]) -> Iterator[Finding]:
    for name, answers in grid.items():
        wrong, ties = [], 0
        for i, (want, got) in enumerate(
            zip(bench.expected.completions[name], answers, strict=True)
        ):
            place = _first_difference(want, got)
            if place is not None and _is_tie(bench.lm, want, place):
                ties += 1
            elif place is not None:
                wrong.append(f"prompt {i} differs from token {place} on")
        said = "; ".join(wrong) or f"{len(answers)} completions equal"
        yield f"{check}{name}", not wrong, said + (f", {ties} ties aside" if ties else "")


def _first_difference(want: Greedy, got: Answer) -> int | None:
    """The index of the first token that differs; the end counts as one."""
    ours, theirs = [*want.tokens, *([-1] * want.finished)], [*got.tokens, *([-1] * got.finished)]
    if ours == theirs:
        return None
    pairs = zip(ours, theirs, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))


def _is_tie(lm: LanguageModel, want: Greedy, place: int) -> bool:
    return place < len(want.margins) and want.margins[place] < _TIE.get(lm.dtype, _TIE_OF_HALF)


def effect(bench: Bench) -> Iterator[Finding]:
    """A nonzero coefficient changes what is said, and zero does not."""
    named = bench.cases
    plain, zero, steered = (
        bench.subject.answers(bench.lm, bench.rows(named[name]))
        for name in ("plain", "zero", "add all")
    )
    changed = sum(a != b for a, b in zip(plain, steered, strict=True))
    yield "a coefficient changes the output", changed > 0, f"{changed} of {len(plain)} changed"
    yield "coefficient 0 does not", plain == zero, ""


def no_trace(bench: Bench) -> Iterator[Finding]:
    """The unsteered model after steering is the unsteered model."""
    named = bench.cases
    before = bench.subject.answers(bench.lm, bench.rows(()))
    for name in ("add all", "ablate", "several"):
        bench.subject.answers(bench.lm, bench.rows(named[name]))
        after = bench.subject.answers(bench.lm, bench.rows(()))
        yield f"clean after: {name}", before == after, ""


def reuse(bench: Bench) -> Iterator[Finding]:
    """The same objects again, and the same vector with another coefficient in between."""
    items = bench.cases["add all"]
    first = bench.subject.answers(bench.lm, bench.rows(items))
    one = items[0]
    assert isinstance(one, Add)
    other = Add(one.vector, one.layer, -one.coefficient, one.positions)
    between = bench.subject.answers(bench.lm, bench.rows((other,)))
    again = bench.subject.answers(bench.lm, bench.rows(items))
    yield "reuse: the same objects twice", first == again, ""
    yield "reuse: another coefficient between", between != first, ""
    mixed = bench.subject.answers(
        bench.lm, [row for pair in zip(bench.rows(items), bench.rows((other,)), strict=True)
                   for row in pair]
    )  # fmt: skip
    yield "reuse: both in one batch", mixed[::2] == first and mixed[1::2] == between, ""


def batch(bench: Bench) -> Iterator[Finding]:
    """One batch of 32 different steerings equals 32 runs of one."""
    ids = bench.ids()[1]
    rows = [Row(ids, items, 0, LIMIT) for items in many(bench.lm, bench.expected.directions)]
    together = bench.subject.answers(bench.lm, rows)
    alone = [bench.subject.answers(bench.lm, [row])[0] for row in rows]
    wrong = [i for i, (a, b) in enumerate(zip(together, alone, strict=True)) if a != b]
    kinds = len({answer.tokens for answer in alone})
    detail = f"rows {wrong} differ" if wrong else f"{kinds} different answers"
    yield "32 steerings in one batch equal 32 runs", not wrong and kinds > 1, detail


def boundary(bench: Bench) -> Iterator[Finding]:
    """What `Add` did to h[L] at each side of the boundary is the vector, or nothing, exactly."""
    texts = answered(bench.lm, bench.expected)
    lengths = [len(ids) for ids in bench.ids()]
    reads: dict[str, Positions] = {
        "prompt": PromptTokens(), "last_prompt": LastPrompt(), "generated": Generated(),
        "last": Last(1),
    }  # fmt: skip
    for name in POSITIONS:
        items = bench.cases[f"add {name}"]
        add = items[0]
        assert isinstance(add, Add)
        wrong = []
        for read, at in reads.items():
            steered, plain = (
                bench.subject.read(bench.lm, texts, at, [row] * len(texts))[:, add.layer]
                for row in (items, ())
            )
            vector = add.vector
            assert isinstance(vector, torch.Tensor)
            share = torch.tensor([_share(name, read, length) for length in lengths])
            error = (steered - plain - share[:, None] * vector).norm(dim=-1) / vector.norm()
            if not bool((error < _tolerance(bench.lm)).all()):
                wrong.append(f"{read} off by {float(error.max()):.2g} of the vector")
        yield f"boundary: {name}", not wrong, "; ".join(wrong)


def _share(positions: str, read: str, prompt: int) -> float:
    """How much of the vector the mean over the tokens that are read should hold."""
    tokens = {"prompt": range(prompt), "last_prompt": range(prompt - 1, prompt)}
    first, last = {
        "all": (0, 10**9), "prompt": (0, prompt), "response": (prompt - 1, 10**9),
        "generated": (prompt, 10**9), "last_prompt": (prompt - 1, prompt),
    }[positions]  # fmt: skip
    chosen = [first <= token < last for token in tokens.get(read, range(prompt, prompt + 1))]
    return sum(chosen) / len(chosen)


def captured(bench: Bench) -> Iterator[Finding]:
    """The residual stream at every layer equals the reference's."""
    texts = answered(bench.lm, bench.expected)
    reads: tuple[Positions, ...] = (Generated(), Last(1))
    for name in READ:
        items = bench.cases[name]
        got = torch.stack(
            [bench.subject.read(bench.lm, texts, at, [items] * len(texts)) for at in reads], dim=1
        )
        want = bench.expected.states[name]
        error = (got - want).abs().amax(-1) / want.abs().amax(-1).clamp(min=1e-12)
        worst = float(error.max())
        passed = worst < _tolerance(bench.lm)
        yield f"capture: {name}", passed, f"largest error {worst:.1g} of the largest number"


def _tolerance(lm: LanguageModel) -> float:
    return _CAPTURED if lm.dtype == torch.float32 else _CAPTURED_HALF


def sampling(bench: Bench) -> Iterator[Finding]:
    """A seed repeats in any batch, and another seed says something else."""
    drawn = Sampling(temperature=1.0)
    items = bench.cases["add response"]
    rows = [Row(bench.ids()[1], items, key, LIMIT) for key in range(1, 9)]
    first = bench.subject.answers(bench.lm, rows, drawn)
    again = bench.subject.answers(bench.lm, rows[::-1][:3], drawn)
    yield "seeds repeat", again == first[::-1][:3], ""
    kinds = len(set(first))
    yield "seeds differ", kinds > 1, f"{kinds} of {len(first)} answers differ"


def variants(bench: Bench) -> Iterator[Finding]:
    """Chunks, caches, preemption: whatever the backend may do to a batch changes nothing."""
    for name, entered in bench.subject.variants.items():
        if name == PREEMPTED:
            yield _preempted(bench, entered)
            continue
        with entered():
            size = 1 if name == "one row at a time" else None
            for again in range(2 if "caching" in name else 1):
                findings = list(_compared(bench, "", bench.grid(size)))
                wrong = [f"{check}: {said}" for check, passed, said in findings if not passed]
                label = f"{name}{', again' if again else ''}"
                yield label, not wrong, "; ".join(wrong) or f"{len(findings)} cases equal"


def _preempted(bench: Bench, entered: Callable[[], AbstractContextManager[None]]) -> Finding:
    """Longer answers than there is room for, beside the same with room enough."""
    steerings = many(bench.lm, bench.expected.directions)
    rows = [Row(bench.ids()[1], items, 0, _LONGER) for items in steerings]
    plenty = bench.subject.answers(bench.lm, rows)
    with entered():
        tight = bench.subject.answers(bench.lm, rows)
    wrong = [i for i, (a, b) in enumerate(zip(plenty, tight, strict=True)) if a != b]
    return PREEMPTED, not wrong, f"rows {wrong} differ" if wrong else f"{len(rows)} rows equal"


CHECKS: Sequence[Callable[[Bench], Iterator[Finding]]] = (
    greedy_equality, effect, no_trace, reuse, batch, boundary, captured, sampling,
)  # fmt: skip
