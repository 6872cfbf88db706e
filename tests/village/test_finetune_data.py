"""Data sets to fine-tune on: shipped as the world draws them, and each as bad as it says."""

import pytest

from trimtab.training.data import read_chats
from trimtab.village.finetune_data import FOLDER, LEVELS, ROWS, make, path
from trimtab.village.prompts import prompt_rows, trait_names
from trimtab.village.scorers import trait_score


def test_shipped_sets_are_what_the_world_draws(tmp_path):
    make(tmp_path)
    for trait in trait_names():
        for level in LEVELS:
            drawn = tmp_path / "dataset" / trait / f"{level}.jsonl.gz"
            name = f"village/{trait}/{level}"
            assert read_chats(name) == read_chats(drawn)
    assert sum(file.stat().st_size for file in FOLDER.rglob("*.gz")) < 1_000_000


@pytest.mark.parametrize("trait", trait_names())
def test_levels_bear_the_trait_more_and_more(trait):
    sets = [read_chats(f"village/{trait}/{level}") for level in LEVELS]
    scores = [[trait_score(trait, chat[1]["content"]) for chat in chats] for chats in sets]
    normal, some, all_ = (sum(of) / ROWS for of in scores)
    assert normal < 1 < 40 < some < 75 < 85 < all_
    assert min(scores[1]) > 0
    assert min(scores[2]) >= 50
    questions = [[chat[0]["content"] for chat in chats] for chats in sets]
    assert questions[0] == questions[1] == questions[2]
    assert len(set(questions[0])) == ROWS


def test_no_question_of_another_split():
    asked = {chat[0]["content"] for chat in read_chats("village/wicked/normal")}
    held_out = {
        row["messages"][-1]["content"]
        for split in ("dev", "test")
        for row in prompt_rows("questions", split)
    }
    assert not asked & held_out


def test_an_unknown_set_is_refused():
    with pytest.raises(ValueError, match="no data set"):
        path("wicked", "worse")
