"""Prompts and prompt sets: identity, refusals, and what survives a trip through JSON."""

import hashlib
import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.data import Prompt, PromptSet, prompt_id
from trimtab.errors import UsageError

TEXT = st.text(min_size=1)  # hypothesis leaves lone surrogates out of st.text()
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "tool"]), "content": TEXT}),
    min_size=1,
    max_size=4,
)
KEYS = st.text().filter(lambda key: key != "system")  # that is an argument of Prompt.chat
META = st.dictionaries(KEYS, st.none() | st.booleans() | st.integers() | st.text(), max_size=3)


def ids_of(canonical: str) -> str:
    return hashlib.sha256(canonical.encode("utf-8")).hexdigest()[:12]


@pytest.mark.parametrize(
    ("prompt", "canonical"),
    [
        (Prompt.raw("Hello"), '{"text":"Hello"}'),
        (Prompt.raw('né "q"\n'), '{"text":"né \\"q\\"\\n"}'),
        (Prompt.chat("Hi"), '{"messages":[{"content":"Hi","role":"user"}]}'),
        (
            Prompt.chat("Hi", system="Be brief."),
            '{"messages":[{"content":"Be brief.","role":"system"},{"content":"Hi","role":"user"}]}',
        ),
    ],
)
def test_the_id_is_the_hash_of_the_canonical_content(prompt: Prompt, canonical: str) -> None:
    assert prompt.id == ids_of(canonical)


def test_meta_and_the_order_of_keys_are_not_part_of_the_id() -> None:
    assert Prompt.raw("a", tone="rude").id == Prompt.raw("a").id
    assert Prompt.raw("a", tone="rude") != Prompt.raw("a")
    turned = [{"content": "Hi", "role": "user"}]
    assert Prompt.chat(turned) == Prompt.chat("Hi")
    assert Prompt.raw("a").id != Prompt.chat("a").id


@given(TEXT, MESSAGES, META)
def test_a_row_of_json_gives_the_same_prompt_back(
    text: str, messages: list[dict[str, str]], meta: dict[str, Any]
) -> None:
    for prompt in (Prompt.raw(text, **meta), Prompt.chat(messages, None, **{**meta, "text": 1})):
        again = Prompt.from_row(json.loads(json.dumps(prompt.to_row())))
        assert again == prompt
        assert hash(again) == hash(prompt)
        assert pickle.loads(pickle.dumps(prompt)) == prompt


@given(TEXT, TEXT)
def test_different_content_has_a_different_id(one: str, two: str) -> None:
    assert (Prompt.raw(one).id == Prompt.raw(two).id) == (one == two)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Prompt.raw(""),
        lambda: Prompt.raw(5),  # type: ignore[arg-type]
        lambda: Prompt.raw("a lone \ud800 surrogate"),
        lambda: Prompt.chat([]),
        lambda: Prompt.chat([{"role": "user"}]),
        lambda: Prompt.chat([{"role": "user", "content": "a", "name": "b"}]),
        lambda: Prompt.chat([{"role": "", "content": "a"}]),
        lambda: Prompt.chat(["Hi"]),  # type: ignore[list-item]
        lambda: Prompt(prompt_id("a"), "a", ({"role": "user", "content": "a"},)),
        lambda: Prompt("000000000000", "a"),
        lambda: Prompt(prompt_id(), None),
    ],
)
def test_what_is_not_a_prompt_is_refused(make: Any) -> None:
    with pytest.raises(UsageError):
        make()


def test_changing_the_source_afterwards_does_not_change_the_prompt() -> None:
    message, meta = {"role": "user", "content": "Hi"}, {"tone": "kind"}
    prompt = Prompt(prompt_id(None, [message]), None, (message,), meta)  # type: ignore[arg-type]
    message["content"], meta["tone"] = "Bye", "rude"
    assert prompt.messages[0]["content"] == "Hi"
    assert prompt.meta["tone"] == "kind"


# --- sets -------------------------------------------------------------------------------------


def numbered(n: int) -> PromptSet:
    return PromptSet([Prompt.raw(f"prompt {i}") for i in range(n)], "numbers")


def test_a_set_is_a_sequence() -> None:
    five = numbered(5)
    assert len(five) == 5
    assert five[-1].text == "prompt 4"
    assert [p.text for p in five[1:3]] == ["prompt 1", "prompt 2"]
    assert isinstance(five[1:3], PromptSet)
    assert Prompt.raw("prompt 3") in five
    assert [p.text for p in five.take(2)] == ["prompt 0", "prompt 1"]
    assert repr(five) == "PromptSet('numbers': 5 prompts, first 'prompt 0')"
    both = five + PromptSet([Prompt.raw("x")], "other")
    assert (len(both), both.name) == (6, "numbers + other")


def test_the_hash_is_of_the_ids_in_order() -> None:
    two = numbered(2)
    expected = hashlib.sha256(f"{two[0].id}\n{two[1].id}".encode()).hexdigest()
    assert two.hash == expected
    assert PromptSet(reversed(two)).hash != expected


def test_an_empty_set_is_an_error_however_it_is_asked_for() -> None:
    five = numbered(5)
    for ask in (
        lambda: PromptSet([]),
        lambda: five.take(0),
        lambda: five[5:],
        lambda: five.filter(lambda p: False),
        lambda: five.sample(0, seed=1),
    ):
        with pytest.raises(UsageError):
            ask()
    with pytest.raises(UsageError, match=r"6 prompts were asked for; 'numbers' has 5"):
        five.take(6)
    with pytest.raises(UsageError, match="has 5"):
        five.sample(6, seed=1)
    with pytest.raises(UsageError, match=r"Prompt\.raw"):
        PromptSet(["text"])  # type: ignore[list-item]


def test_a_sample_is_seeded_and_does_not_depend_on_the_order() -> None:
    hundred = numbered(100)
    sample = hundred.sample(20, seed=1)
    assert len({p.id for p in sample}) == 20
    assert sample == PromptSet(list(reversed(hundred)), "numbers").sample(20, seed=1)
    assert sample.prompts != hundred.sample(20, seed=2).prompts
    assert sample.prompts != hundred.prompts[:20]
    grown = (hundred + PromptSet([Prompt.raw("new")], "numbers")).sample(20, seed=1)
    assert len(set(sample) - set(grown)) <= 1


def test_every_prompt_is_as_likely_to_be_sampled() -> None:
    counts = dict.fromkeys(numbered(10), 0)
    for seed in range(2000):
        for prompt in numbered(10).sample(3, seed):
            counts[prompt] += 1
    # binomial(2000, 0.3): mean 600, standard deviation 20.5
    assert all(500 < count < 700 for count in counts.values())
