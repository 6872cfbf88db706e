"""Prompts by name: described sources, hub data sets, the village."""

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest

from trimtab.data import Prompt, prompts, shipped_sources
from trimtab.data.loading import SHIPPED
from trimtab.data.source import read_source
from trimtab.errors import RunError, UsageError
from trimtab.village.prompts import prompt_rows

# The shape of allenai/real-toxicity-prompts, with words of our own.
ROWS: list[dict[str, Any]] = [
    {
        "filename": f"{i}.txt",
        "challenging": toxicity is not None and toxicity > 0.5,
        "prompt": {"text": text, "toxicity": toxicity, "threat": None},
        "continuation": {"text": "...", "toxicity": 0.1},
    }
    for i, (text, toxicity) in enumerate(
        [("The mill", 0.1), ("You oaf", 0.9), ("Odd", None), ("A day", 0.05), ("Fool", 0.7)]
    )
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text(lines)
    return tmp_path


def described(folder: Path, text: str) -> Path:
    path = folder / "source.yaml"
    path.write_text(textwrap.dedent(text))
    return path


def test_every_shipped_source_is_sound() -> None:
    assert shipped_sources() == ["alpaca", "pile-10k", "real-toxicity-prompts"]
    for path in SHIPPED.glob("*.yaml"):
        source = read_source(path)
        assert source.dataset
        assert source.description


def test_a_local_copy_of_a_toxicity_set_through_the_shipped_recipe(folder: Path) -> None:
    recipe = (SHIPPED / "real_toxicity_prompts.yaml").read_text()
    local = recipe.replace("dataset: allenai/real-toxicity-prompts", "file: set/train.jsonl")
    path = described(folder, local.replace("split: train\n", ""))
    read = prompts(path)
    assert [(p.text, p.meta["toxicity"]) for p in read] == [
        ("You oaf", 0.9),
        ("Fool", 0.7),
        ("The mill", 0.1),
        ("A day", 0.05),
    ]
    assert read[0].meta == {"toxicity": 0.9, "challenging": True}
    assert read.name == "source.yaml"


def test_filter_sort_template_and_limit(folder: Path) -> None:
    path = described(
        folder,
        """
        file: set/train.jsonl
        template: "Say after me: {prompt.text}"
        chat: true
        system: Be kind.
        filter:
          prompt.toxicity: {at_least: 0.06, at_most: 0.8}
          challenging: false
        sort: prompt.text
        limit: 5
        meta: {from: filename}
        """,
    )
    expected = Prompt.chat("Say after me: The mill", system="Be kind.", **{"from": "0.txt"})
    assert list(prompts(path)) == [expected]


def test_conditions_on_presence_and_on_several_values(folder: Path) -> None:
    path = described(folder, "file: set/train.jsonl\nfilter: {prompt.toxicity: {present: false}}")
    assert [p.text for p in prompts(path)] == ["Odd"]
    path = described(folder, "file: set/train.jsonl\nfilter: {filename: {one_of: [1.txt, 3.txt]}}")
    assert [p.text for p in prompts(path)] == ["You oaf", "A day"]
    path = described(folder, "file: set/train.jsonl\nfilter: {prompt.toxicity: {at_most: 0.1}}")
    assert [p.text for p in prompts(path)] == ["The mill", "A day"]
    path = described(folder, "file: set/train.jsonl\nfilter: {filename: other.txt}")
    with pytest.raises(UsageError, match="is empty"):
        prompts(path)


def test_shuffling_goes_by_content_and_limit_comes_after(folder: Path) -> None:
    one = prompts(described(folder, "file: set/train.jsonl\nshuffle_seed: 1"))
    two = prompts(described(folder, "file: set/train.jsonl\nshuffle_seed: 2"))
    assert {p.id for p in one} == {p.id for p in two}
    assert one.prompts != two.prompts
    short = prompts(described(folder, "file: set/train.jsonl\nshuffle_seed: 1\nlimit: 3"))
    assert short.prompts == one.prompts[:3]
    shorter = prompts(folder / "source.yaml", limit=2)
    assert shorter.prompts == one.prompts[:2]
    assert prompts(folder / "source.yaml", limit=9).prompts == one.prompts[:3]


def test_numbers_in_a_csv_sort_as_numbers(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("text,toxicity\nten,10\nnine,9\nhalf,0.5\n")
    path = described(tmp_path, "file: p.csv\nsort: toxicity\nfilter: {toxicity: {at_least: 1}}")
    assert [p.text for p in prompts(path)] == ["nine", "ten"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file: set/train.jsonl\nfeild: a", "feild: Extra inputs are not permitted.*keys are"),
        ("field: a", "exactly one of dataset"),
        ("file: a.csv\ndataset: b", "exactly one of dataset"),
        ("file: a.csv\nsplit: train", "belong to a dataset"),
        ("file: a.csv\nfield: a\ntemplate: b", "not both"),
        ("file: a.csv\nsort: a\nshuffle_seed: 1", "not both"),
        ("file: a.csv\nlimit: 0", "at least 1"),
        ("file: a.csv\nlimit: many", "limit"),
        ("file: [", "not valid YAML"),
        ("[]", "does not describe"),
        ("!!python/object/apply:os.getcwd []", "not valid YAML"),
        ("", "exactly one of dataset"),
        ("file: missing.csv", "no such file"),
        ("file: set/train.jsonl\nsort: prompt.toxicity", "row|line 3: no value at"),
        ("file: set/train.jsonl\nsort: prompt\n", "cannot be sorted"),
        ("file: set/train.jsonl\nfield: prompt.words", "prompt.text, prompt.toxicity"),
        ("file: set/train.jsonl\ntemplate: '{nope}'", "no field 'nope'"),
        ("file: set/train.jsonl\nmeta: {a: nope}", "no field 'nope'"),
        ("file: set/train.jsonl\nfield: prompt", "must be a text"),
        ("file: set/train.jsonl\nsystem: Be kind.", "Raw text takes no system"),
    ],
)
def test_a_broken_description_is_refused(folder: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        prompts(described(folder, text))


def test_a_template_reads_fields_only(folder: Path) -> None:
    path = described(folder, "file: set/train.jsonl\ntemplate: '{filename.__class__}'")
    with pytest.raises(UsageError, match="no field"):
        prompts(path)
    path = described(folder, "file: set/train.jsonl\ntemplate: 'a {} {!r} { {filename}'\nlimit: 1")
    assert prompts(path)[0].text == "a {} {!r} { 0.txt"


def test_a_data_set_goes_through_the_datasets_library(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
    path = described(
        folder,
        f"""
        dataset: {folder / "set"}
        field: prompt.text
        filter: {{prompt.toxicity: {{present: true}}}}
        sort: prompt.toxicity
        descending: true
        meta: {{toxicity: prompt.toxicity}}
        """,
    )
    read = prompts(path, split="train", limit=2)
    assert list(read) == [Prompt.raw("You oaf", toxicity=0.9), Prompt.raw("Fool", toxicity=0.7)]
    with pytest.raises(UsageError, match="splits train"):
        prompts(path)
    with pytest.raises(UsageError, match="Check its config and split"):
        prompts(path, split="nope")


def test_a_data_set_out_of_reach_says_how_to_fetch_it(tmp_path: Path) -> None:
    path = described(tmp_path, "dataset: no-such-people/no-such-set\nsplit: train")
    with pytest.raises(RunError, match=r'load_dataset\("no-such-people/no-such-set"\)'):
        prompts(path)


def test_village_sets_by_name_and_split() -> None:
    rows = prompt_rows("rude", "dev")
    read = prompts("village/rude:dev")
    assert [p.text for p in read] == [row["text"] for row in rows]
    assert read[0].meta == rows[0]["meta"]
    assert read.name == "village/rude:dev"
    assert prompts("village/rude", split="dev", limit=3).prompts == read.prompts[:3]
    chats = prompts("village/mischief:test")
    assert chats[0].messages[-1]["role"] == "user"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("village/nope", "mischief"),
        ("village/rude:nope", "train, dev, test"),
        ("nope", "real-toxicity-prompts"),
        ("some/dataset", "described by a .yaml"),
        ("../village/rude", "no prompt source"),
    ],
)
def test_an_unknown_name_is_refused_with_the_known_ones(name: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        prompts(name)


def test_a_village_split_named_twice_must_agree() -> None:
    assert prompts("village/rude:dev", split="dev").name == "village/rude:dev"
    with pytest.raises(UsageError, match="Two splits"):
        prompts("village/rude:dev", split="test")
    with pytest.raises(UsageError, match="of its own making"):
        prompts("village/rude", chat=True)
