"""Any text that a tokenizer can produce comes back from every file that we write."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trimtab.data import Prompt, prompts
from trimtab.directions.answer_file import read_answers
from trimtab.errors import RunError
from trimtab.experiments.persona.traits import Trait, read_trait, write_trait
from trimtab.experiments.refusal.files import read_completions, write_json
from trimtab.files import write_atomic
from trimtab.origin import read_origin, write_origin
from trimtab.parsing import read_json
from trimtab.runs.run_folder import RunFolder
from trimtab.runs.unit_file import append
from trimtab.training.data import read_chats
from trimtab.vectors import Provenance

ODD = "\r\n\",\t\0\x0b\x0c\x1a\x1c\x1d\x1e\x7f\x85\u2028\u2029\ufeff\uffff= '\\{}"
TEXT = st.text(st.sampled_from(ODD) | st.characters(exclude_categories=["Cs"]), min_size=1)
STRANGE = "The\rbaker\u2028said\x85=1\0\ufeff"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("text")


@given(TEXT)
@example(STRANGE)
@settings(deadline=None)
def test_any_text_comes_back(folder: Path, text: str) -> None:
    chat = [{"role": "user", "content": text}, {"role": "assistant", "content": text}]
    line = json.dumps({"messages": chat}, ensure_ascii=False) + "\n"
    write_atomic(folder / "rows.jsonl", line)
    assert read_chats(folder / "rows.jsonl") == [chat]
    found = read_answers(folder / "rows.jsonl")
    assert found.answers == ((Prompt.chat(text), text),)
    write_atomic(folder / "more.jsonl", found.with_columns({"p": [1.5]}))
    assert read_answers(folder / "more.jsonl").answers == found.answers

    row = Prompt.raw(text, tone=text).to_row()
    write_json(folder / "prompts.json", [row])
    assert prompts(folder / "prompts.json")[0] == Prompt.raw(text, tone=text)

    write_json(folder / "a_b_completions.json", [{"prompt": text, "response": text}])
    (one,) = read_completions(folder / "a_b_completions.json")
    assert (one["prompt"], one["response"]) == (text, text)

    trait = Trait("kind", ((text, text),), (text,), "{question}{answer}")
    write_trait(trait, folder / "kind.json")
    assert read_trait(str(folder / "kind.json"), "eval") == trait

    write_origin(folder / "origin.json", {text: text})
    assert read_origin(folder / "origin.json") == {text: text}

    told = Provenance(1, 1, model=text, extra={text: text})
    assert Provenance.from_json(told.to_json()) == told


def test_any_text_comes_back_from_a_run(folder: Path) -> None:
    config = {"model": "village", STRANGE: STRANGE}
    with RunFolder(folder / "run", "toxicity", config) as run:
        made = run.rows("rows.jsonl", [1], lambda _: [{"text": STRANGE}])
        run.write_json("value.json", {STRANGE: STRANGE})
    with RunFolder(folder / "run", "toxicity", config) as run:
        again = run.rows("rows.jsonl", [1], lambda _: [])
        assert again == made
        assert run.read_json("value.json") == {STRANGE: STRANGE}
    assert made[0]["text"] == STRANGE


def test_half_of_a_character_is_kept_in_a_log_and_refused_by_name_elsewhere(folder: Path) -> None:
    append(folder / "log.jsonl", [{"file": "caf\udce9"}])
    assert json.loads((folder / "log.jsonl").read_text()) == {"file": "caf\udce9"}
    with pytest.raises(RunError, match=r"text\.txt: character 3 .* lone surrogate"):
        write_atomic(folder / "text.txt", "caf\udce9")
    write_json(folder / "whole.json", {"a": "caf\u00e9"})
    assert read_json(folder / "whole.json") == {"a": "caf\u00e9"}
