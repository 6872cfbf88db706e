"""Seeded splits that never share a prompt."""

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise

from trimtab.data.prompt import Prompt
from trimtab.data.prompt_set import PromptSet, rank
from trimtab.errors import UsageError


def split(
    prompts: Iterable[Prompt], parts: Sequence[float] | Sequence[int], seed: int
) -> tuple[PromptSet, ...]:
    """Part a set at random; no two parts have a prompt of the same content.

    Of prompts with the same content the first is kept. The rest are ordered by a hash of the seed
    and the content and dealt out in that order, so that the parts do not depend on the order given,
    and a prompt added later moves at most one other across each boundary.

    Args:
        prompts: A `PromptSet` or any prompts.
        parts: Sizes, all as whole numbers of prompts (`(32, 100)`) or all as fractions of what is
            there (`(0.5, 0.5)`); what they leave over is left out.
        seed: Another seed gives another split.

    Returns:
        One `PromptSet` a part, in hash order.

    Raises:
        UsageError: Too few prompts for the parts, an empty part, or sizes that make no sense.
    """
    name = getattr(prompts, "name", "prompts")
    given = list(prompts)
    unique = sorted({p.id: p for p in reversed(given)}.values(), key=lambda p: rank(p, seed))
    bounds = _bounds(parts, len(unique), len(given), name)
    return tuple(
        PromptSet(unique[start:end], f"{name} (part {i} of {len(parts)}, seed {seed})")
        for i, (start, end) in enumerate(pairwise(bounds), 1)
    )


def _bounds(
    parts: Sequence[float] | Sequence[int], unique: int, given: int, name: str
) -> list[int]:
    if not parts or not all(p > 0 for p in parts):
        raise UsageError(f"A split needs sizes above zero; found {list(parts)}.")
    if all(isinstance(p, int) for p in parts):
        bounds = [0, *accumulate(int(p) for p in parts)]
    elif all(isinstance(p, float) for p in parts) and sum(parts) <= 1 + 1e-9:
        bounds = [0, *(round(total * unique) for total in accumulate(parts))]
    else:
        raise UsageError(
            f"The sizes of a split are all whole numbers, or all fractions that sum to at most 1; "
            f"found {list(parts)}.",
            "Write (32, 100) or (0.5, 0.5).",
        )
    sizes = [end - start for start, end in pairwise(bounds)]
    if bounds[-1] > unique or 0 in sizes:
        double = f" ({given} with duplicates)" if given > unique else ""
        raise UsageError(
            f"Too few prompts: {name!r} has {unique} different ones{double}, and the split "
            f"{list(parts)} would give parts of {sizes}.",
            "Add prompts, or ask for smaller parts." if bounds[-1] > unique else "Add prompts.",
        )
    return bounds
