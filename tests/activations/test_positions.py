"""Position masks, against the conventions written out token by token."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trimtab.activations.positions import (
    NAMES,
    All,
    EndOfInstruction,
    Generated,
    Last,
    LastPrompt,
    Positions,
    PromptTokens,
    Response,
    Tokens,
    as_positions,
    for_reading,
)
from trimtab.errors import UsageError


def wanted(positions: Positions, i: int, prompt: int, length: int) -> bool:
    match positions:
        case All():
            return True
        case PromptTokens():
            return i < prompt
        case Generated():
            return i >= prompt
        case Response():
            return i >= prompt - 1
        case LastPrompt():
            return i == prompt - 1
        case EndOfInstruction(k=k):
            return i in range(prompt)[-k:]
        case Last(k=k):
            return i in range(length)[-k:]
    raise AssertionError(positions)


@given(
    rows=st.lists(
        st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), min_size=1
    ),
    side=st.sampled_from(["left", "right"]),
    k=st.integers(1, 9),
)
def test_masks_follow_the_conventions_and_never_choose_padding(
    rows: list[tuple[int, int]], side: str, k: int
) -> None:
    width = max(n for n, _ in rows) + 1
    starts = [width - n if side == "left" else 0 for n, _ in rows]
    real = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, ((n, _), start) in enumerate(zip(rows, starts, strict=True)):
        real[i, start : start + n] = True
    position = real.cumsum(1) - 1
    prompts, lengths = torch.tensor([p for _, p in rows]), torch.tensor([n for n, _ in rows])
    every = [All(), PromptTokens(), Generated(), Response(), LastPrompt()]
    for positions in [*every, EndOfInstruction(k), Last(k)]:
        mask = positions.mask(Tokens(real, position, prompts, lengths))
        for i, ((n, p), start) in enumerate(zip(rows, starts, strict=True)):
            expected = [
                0 <= j - start < n and wanted(positions, j - start, p, n) for j in range(width)
            ]
            assert mask[i].tolist() == expected


def test_names_stand_for_positions() -> None:
    assert as_positions("response") == Response()
    assert as_positions("all") == All()
    assert as_positions(Last(3)) == Last(3)
    assert {name: type(p) for name, p in NAMES.items()} == {
        "all": All,
        "prompt": PromptTokens,
        "generated": Generated,
        "response": Response,
        "last_prompt": LastPrompt,
        "end_of_instruction": EndOfInstruction,
    }


def test_the_response_is_read_where_it_stands_and_written_where_it_is_made() -> None:
    assert for_reading(Response()) == Generated()
    assert for_reading(LastPrompt()) == LastPrompt()


def test_the_end_of_the_instruction_comes_from_the_template() -> None:
    from tiny_models import tiny_model

    lm = tiny_model("llama")
    resolved = as_positions("end_of_instruction", lm)
    rendered = lm.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Mend the net"}], add_generation_prompt=True, tokenize=False
    )
    after = rendered.partition("Mend the net")[2]
    count = len(lm.tokenizer(after, add_special_tokens=False)["input_ids"])
    assert resolved == EndOfInstruction(count)


@pytest.mark.parametrize("wrong", ["Response", "last", Last, All, None, 3])
def test_what_is_not_positions_is_refused(wrong: object) -> None:
    with pytest.raises(UsageError, match="ositions"):
        as_positions(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("k", [0, -1, 1.5, True])
def test_counts_are_whole_and_positive(k: object) -> None:
    for cls in (Last, EndOfInstruction):
        with pytest.raises(UsageError, match="k >= 1"):
            cls(k)  # type: ignore[arg-type]


def test_what_is_not_known_is_not_guessed() -> None:
    real, position = torch.ones(1, 2, dtype=torch.bool), torch.arange(2)[None]
    with pytest.raises(UsageError, match="counts from the end"):
        Last(2).mask(Tokens(real, position, torch.tensor([1])))
    with pytest.raises(UsageError, match="how many tokens"):
        EndOfInstruction().mask(Tokens(real, position, torch.tensor([1])))
