"""Trait files: those in the package, other people's, bad ones, and written by a model."""

import json
from pathlib import Path
from typing import Any

import pytest

from trimtab import RunError, UsageError
from trimtab.experiments.persona import new_trait as writing
from trimtab.experiments.persona.rollouts import asked
from trimtab.experiments.persona.traits import parse_trait, read_trait, shipped_traits, write_trait

GOOD: dict[str, Any] = {
    "instruction": [{"pos": f"Be so ({i}).", "neg": f"Be not so ({i})."} for i in range(5)],
    "questions": [f"What of {i}?" for i in range(40)],
    "eval_prompt": "How so? {question} {answer}",
}


@pytest.mark.parametrize("family", ["village", "general"])
def test_the_traits_in_the_package(family: str) -> None:
    names = shipped_traits(family)
    assert len(names) == 4
    for name in names:
        first, second = (read_trait(name, v, family=family) for v in ("extract", "eval"))  # type: ignore[arg-type]
        assert len(first.instructions) == 5
        assert len(first.questions) == len(second.questions) == 20
        assert not set(first.questions) & set(second.questions)
        assert "Q?" in first.metric.message("Q?", "A.")


def test_questions_under_instructions_have_the_published_ids_and_order() -> None:
    trait = read_trait("optimistic", "extract")
    rows = asked(trait, "pos")
    assert [r.id for r in rows[:6]] == [
        *(f"optimistic_0_pos_{k}" for k in range(5)), "optimistic_1_pos_0",
    ]  # fmt: skip
    system = rows[1].prompt.messages[0]["content"]
    assert system == f"You are an optimistic assistant. {trait.instructions[1][0]}"
    assert (
        asked(trait, "neg")[0]
        .prompt.messages[0]["content"]
        .startswith("You are a helpful assistant. ")
    )
    assert asked(trait, "pos", "Cheery")[0].prompt.messages[0]["content"].startswith("You are a C")
    plain = asked(trait)
    assert [r.id for r in plain[:2]] == ["optimistic_0", "optimistic_1"]
    assert [m["role"] for m in plain[0].prompt.messages] == ["user"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"questions": []}, "questions"),
        ({"instruction": [{"pos": "x"}]}, r"instruction\.0\.neg"),
        ({"eval_prompt": "{question}"}, r"lacks \{answer\}"),
        ({"eval_prompt": "{question.x} {answer}"}, r"lacks \{question\}"),
        ({"questions": ["a", "a"]}, "twice"),
    ],
)
def test_a_bad_file_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_trait(json.dumps(GOOD | change), "so", "so.json")


def test_an_evaluation_prompt_has_the_published_fields_and_no_others() -> None:
    """Whatever str.format would make of them: attributes are read, widths fill the memory."""
    inert = "{question.__class__} {answer:>9999999999} {answer!r} {0} {} {x} {{ } {"
    prompt = "Rate {trait_name}, that is {trait}: {question} {answer} " + inert
    trait = parse_trait(json.dumps(GOOD | {"eval_prompt": prompt}), "so", "so.json")
    assert trait.metric.message("{answer}?", "{trait}!") == (
        "Rate so, that is so: {answer}? {trait}! " + inert
    )


def test_a_trait_that_lacks_one_of_its_files_is_told_which(tmp_path: Path) -> None:
    trait = parse_trait(json.dumps(GOOD), "cheerful", "cheerful.json")
    write_trait(trait, tmp_path / "trait_data_eval/cheerful.json")
    with pytest.raises(UsageError, match=r"trait_data_eval.cheerful\.json, but no trait_data_ext"):
        read_trait("cheerful", "extract", tmp_path)
    with pytest.raises(UsageError, match=r"'cheer' \(extract\).*There are: none\."):
        read_trait("cheer", "extract", tmp_path)
    with pytest.raises(UsageError, match=r"'cheer' \(eval\).*There are: cheerful\."):
        read_trait("cheer", "eval", tmp_path)


@pytest.mark.parametrize("name", ["a" * 5000, "a" * 5000 + ".json", "é" * 200])
def test_a_name_longer_than_a_files_is_a_short_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="at most 100 characters") as caught:
        read_trait(name, "eval", tmp_path)
    assert len(str(caught.value)) < 300
    with pytest.raises(UsageError, match="no name for a trait") as caught:
        writing.new_trait(name, "being so", tmp_path, "m")
    assert len(str(caught.value)) < 300


def test_both_layouts_of_a_folder_are_read(tmp_path: Path) -> None:
    trait = parse_trait(json.dumps(GOOD), "so", "so.json")
    write_trait(trait, tmp_path / "so.json")
    assert read_trait("so", "eval", tmp_path) == trait
    write_trait(trait, tmp_path / "trait_data_extract/so.json")
    assert read_trait("so", "extract", tmp_path) == trait
    with pytest.raises(UsageError, match="no trait 'other'"):
        read_trait("other", "eval", tmp_path)


def test_a_written_trait_is_split_in_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reply = f"Here it is:\n```json\n{json.dumps(GOOD)}\n```"
    monkeypatch.setattr(writing, "_written", lambda *_: reply)
    (_, first), (_, second) = writing.new_trait("so", "being so", tmp_path, "m")
    assert len(first.questions) == len(second.questions) == 20
    assert not set(first.questions) & set(second.questions)
    assert read_trait("so", "eval", tmp_path) == second
    with pytest.raises(UsageError, match="there already"):
        writing.new_trait("so", "being so", tmp_path, "m")
    short = json.dumps(GOOD | {"questions": ["One?"]})
    monkeypatch.setattr(writing, "_written", lambda *_: short)
    with pytest.raises(RunError, match="1 questions"):
        writing.new_trait("other", "being so", tmp_path, "m")
