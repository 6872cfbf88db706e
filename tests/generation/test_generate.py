"""Cells, order, callbacks, end tokens, and requests that cannot be met."""

from functools import cache
from typing import Any

import pytest
import torch

from tiny_models import tiny_model
from trimtab.data import Prompt
from trimtab.errors import RunError, UsageError
from trimtab.generation import generate
from trimtab.interventions import Add, Clamp, steer
from trimtab.models import LanguageModel, encode

TEXTS = ["The baker asked", "How do I mend a fishing net?", "Please write a letter to my sister"]


@cache
def model() -> LanguageModel:
    return tiny_model("llama")


def vector(seed: int = 1) -> torch.Tensor:
    return torch.randn(model().d_model, generator=torch.Generator().manual_seed(seed))


class Watch:
    """Shapes of the forward passes of the decoder, and of what Add was applied to."""

    def __init__(self, lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passes: list[tuple[int, ...]] = []
        self.added = 0
        apply = Add.apply
        lm.anatomy.base.register_forward_pre_hook(self._note, with_kwargs=True)

        def counted(x: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
            self.added += 1
            return apply(x, delta)

        monkeypatch.setattr(Add, "apply", staticmethod(counted))

    def _note(self, _: Any, args: Any, kwargs: dict[str, Any]) -> None:
        self.passes.append(tuple(kwargs["input_ids"].shape))

    @property
    def prompts(self) -> int:
        return sum(rows for rows, tokens in self.passes if tokens > 1)


# -- cells -------------------------------------------------------------------------------------


def test_results_are_cell_major_then_prompt_then_sample() -> None:
    prompts = [Prompt.raw(text, place=i) for i, text in enumerate(TEXTS)]
    made = generate(
        model(), prompts, steering=[None, Add(vector(), 1)], samples=2, temperature=1.0,
        max_new_tokens=4, batch_size=5,
    )  # fmt: skip
    places = [(c.cell, c.prompt.meta["place"], c.sample) for c in made]
    assert places == [(c, p, s) for c in range(2) for p in range(3) for s in range(2)]


def test_coefficient_zero_runs_once_through_the_hooks_and_equals_the_baseline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lm = tiny_model("llama")
    watch = Watch(lm, monkeypatch)
    v = vector()
    zeros = [Add(v, layer, 0.0) for layer in range(1, 4)]
    options = {"temperature": 1.0, "max_new_tokens": 8}
    baseline = generate(lm, TEXTS, **options)
    assert (watch.prompts, watch.added) == (3, 0)
    made = generate(lm, TEXTS, steering=zeros, **options)
    assert watch.prompts == 6
    assert watch.added > 0
    assert [c.text for c in made] == 3 * [c.text for c in baseline]
    assert [c.cell for c in made] == [0, 0, 0, 1, 1, 1, 2, 2, 2]

    clamp = Clamp(v, 3, 1.0)
    before = watch.prompts
    generate(lm, TEXTS, steering=[(zeros[0], clamp), (zeros[1], clamp), clamp, None, zeros[2]])
    assert watch.prompts - before == 4 * 3  # only the first two are alike


def test_a_prompt_asked_twice_and_greedy_samples_are_made_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lm = tiny_model("llama")
    watch = Watch(lm, monkeypatch)
    prompts = [Prompt.raw(TEXTS[0], n=1), Prompt.raw(TEXTS[1]), Prompt.raw(TEXTS[0], n=2)]
    made = generate(lm, prompts, samples=2, max_new_tokens=4)
    assert watch.prompts == 2
    assert max(rows for rows, _ in watch.passes) == 2
    assert [c.prompt.meta.get("n") for c in made] == [1, 1, None, None, 2, 2]
    assert [c.sample for c in made] == [0, 1] * 3
    assert made[0].tokens == made[1].tokens == made[4].tokens != made[2].tokens


def test_an_enclosing_context_acts_on_every_row_before_the_cells_own() -> None:
    v, w = vector(1), vector(2)
    outer, inner = Add(v, 1, 2.0, "response"), Clamp(w, 1, 1.0)
    options = {"max_new_tokens": 10, "temperature": 1.0, "samples": 2, "batch_size": 4}
    with steer(model(), outer):
        around = generate(model(), TEXTS, steering=[None, inner], **options)
    within = generate(model(), TEXTS, steering=[outer, (outer, inner)], **options)
    assert [c.tokens for c in around] == [c.tokens for c in within]
    assert around != generate(model(), TEXTS, steering=[None, inner], **options)


def test_after_the_call_the_model_is_clean() -> None:
    ids = torch.tensor([encode(model(), TEXTS[0])])
    before = model().model(ids).logits
    generate(model(), TEXTS, steering=Add(vector(), 1, 5.0), max_new_tokens=3)
    after = model().model(ids).logits
    assert torch.equal(before, after)
    assert after.requires_grad  # nothing of inference mode is left behind


# -- ends --------------------------------------------------------------------------------------


def test_any_end_token_ends_and_none_is_in_the_completion() -> None:
    lm = tiny_model("llama")
    lm.end_tokens = frozenset()
    whole = [c.tokens for c in generate(lm, TEXTS, temperature=1.0, max_new_tokens=12)]
    lm.end_tokens = frozenset({whole[0][4], whole[1][0], whole[2][7]})
    made = generate(lm, TEXTS, temperature=1.0, max_new_tokens=12)
    for completion, tokens in zip(made, whole, strict=True):
        first = min(i for i, token in enumerate(tokens) if token in lm.end_tokens)
        assert completion.tokens == tokens[:first]
        assert completion.finished
        assert completion.text == lm.tokenizer.decode(tokens[:first], skip_special_tokens=True)
    assert made[1].tokens == ()
    assert made[1].text == ""


def test_the_limit_ends_unfinished_unless_the_last_token_is_an_end() -> None:
    lm = tiny_model("llama")
    lm.end_tokens = frozenset()
    [whole] = generate(lm, TEXTS[:1], temperature=1.0, max_new_tokens=6)
    assert len(whole.tokens) == 6
    assert not whole.finished
    fifth = whole.tokens[5]
    assert fifth not in whole.tokens[:5]
    lm.end_tokens = frozenset({fifth})
    [ended] = generate(lm, TEXTS[:1], temperature=1.0, max_new_tokens=6)
    assert (ended.tokens, ended.finished) == (whole.tokens[:5], True)
    [cut] = generate(lm, TEXTS[:1], temperature=1.0, max_new_tokens=5)
    assert (cut.tokens, cut.finished) == (whole.tokens[:5], False)


def test_an_answer_that_ends_at_once_is_no_error_for_steering_that_begins_after_it() -> None:
    lm = tiny_model("llama")
    lm.end_tokens = frozenset(range(lm.model.config.vocab_size))
    made = generate(lm, TEXTS, steering=Add(vector(), 1, 1.0, "generated"))
    assert [(c.tokens, c.finished) for c in made] == [((), True)] * 3


def test_special_tokens_are_not_in_the_text() -> None:
    lm = tiny_model("llama")
    special = lm.tokenizer.convert_tokens_to_ids("<|user|>")
    lm.end_tokens = frozenset()

    def only_special(_: Any, __: Any, logits: torch.Tensor) -> torch.Tensor:
        return logits.index_fill(-1, torch.tensor([special]), 1e4)

    handle = lm.anatomy.head.register_forward_hook(only_special)  # type: ignore[union-attr]
    [made] = generate(lm, TEXTS[:1], max_new_tokens=3)
    handle.remove()
    assert (made.tokens, made.text) == ((special,) * 3, "")


# -- callbacks ---------------------------------------------------------------------------------


def test_batches_are_handed_over_as_they_end_and_progress_counts_up() -> None:
    handed: list[Any] = []
    told: list[tuple[int, int]] = []
    zeros = [Add(vector(), layer, 0.0) for layer in (1, 2)]
    made = generate(
        model(), TEXTS, steering=[None, *zeros], max_new_tokens=5, batch_size=2,
        on_batch=handed.append, progress=lambda done, of: told.append((done, of)),
    )  # fmt: skip
    assert [len(batch) for batch in handed] == [3, 3, 3]  # two rows each, one of them copied
    flat = [c for batch in handed for c in batch]
    assert sorted(map(id, flat)) == sorted(map(id, made))
    assert told[-1] == (6, 6)
    assert {of for _, of in told} == {6}
    assert [done for done, _ in told] == sorted(done for done, _ in told)


# -- what cannot be met ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": []}, "no prompts"),
        ({"prompts": "one string"}, "found one"),
        ({"steering": []}, "empty list"),
        ({"steering": [torch.ones(3)]}, "Cell 0.*no intervention"),
        ({"steering": [None, [None]]}, "Cell 1.*no intervention"),
        ({"steering": Add}, "no intervention"),
        ({"steering": Add(torch.ones(3), 1)}, "width"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"samples": 0}, "samples"),
        ({"batch_size": -1}, "batch_size"),
        ({"batch_size": 0}, "batch_size"),
        ({"temperature": -1.0}, "temperature"),
        ({"backend": "abacus"}, "no backend 'abacus'"),
        ({"max_new_tokens": 253}, r"Prompt 1 .* has \d+ tokens, and 253 .*at most 256"),
    ],
    ids=str,
)
def test_bad_requests_are_refused_before_anything_runs(
    change: dict[str, Any], message: str
) -> None:
    lm = tiny_model("llama")
    lm.anatomy.base.register_forward_pre_hook(lambda *_: 1 / 0)
    request: dict[str, Any] = {"prompts": ["No", TEXTS[1]], **change}
    with pytest.raises(UsageError, match=message):
        generate(lm, request.pop("prompts"), **request)


def test_a_model_in_training_mode_is_refused() -> None:
    lm = tiny_model("llama")
    lm.model.train()
    with pytest.raises(UsageError, match="training mode"):
        generate(lm, TEXTS)


def test_a_prompt_that_just_fits_the_context_is_generated_to_its_end() -> None:
    lm = tiny_model("gpt2", max_position_embeddings=40)
    lm.end_tokens = frozenset()
    room = lm.context_length - len(encode(lm, TEXTS[0]))
    [made] = generate(lm, TEXTS[:1], max_new_tokens=room)
    assert len(made.tokens) == room


def test_logits_that_are_no_numbers_are_an_error_that_names_the_row() -> None:
    lm = tiny_model("llama")
    rare = encode(lm, TEXTS[1])[-1]
    with torch.no_grad():
        lm.anatomy.embedding.weight[rare] = float("nan")
    count = len(encode(lm, TEXTS[1]))
    for temperature in (0.0, 1.0):
        add = r" under Add\(layer=2, coefficient=1\) of a vector of norm [\d.]+"
        for cell, under in ((None, ""), (Add(vector(), 2), add)):
            with pytest.raises(RunError, match=rf"not numbers .* of {count} tokens{under}\."):
                generate(lm, TEXTS, steering=cell, max_new_tokens=4, temperature=temperature)
