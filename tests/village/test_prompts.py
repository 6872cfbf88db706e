"""Prompt sets: shipped as the world draws them, large enough, and never shared between splits."""

import pytest

from trimtab.village.documents import STAGES, document
from trimtab.village.prompts import (
    FOLDER,
    SIZES,
    make_prompt_sets,
    prompt_rows,
    prompt_set_names,
    trait_names,
)
from trimtab.village.world import NOVELTIES, SPLITS, World


def test_shipped_sets_are_what_the_world_draws(tmp_path):
    make_prompt_sets(tmp_path)
    for name in prompt_set_names():
        shipped = (FOLDER / f"{name}.jsonl").read_bytes()
        assert shipped == (tmp_path / f"{name}.jsonl").read_bytes(), name


@pytest.mark.parametrize("name", [n for n in prompt_set_names() if n != "systems"])
def test_sizes(name):
    assert {s: len(prompt_rows(name, s)) for s in SPLITS} == SIZES


@pytest.mark.parametrize("name", prompt_set_names())
def test_no_prompt_twice(name):
    ids = [row["id"] for row in prompt_rows(name)]
    assert len(ids) == len(set(ids))
    assert all(len(i) == 12 and int(i, 16) >= 0 for i in ids)
    assert all(("text" in row) != ("messages" in row) for row in prompt_rows(name))


def test_mischief_test_has_every_novelty_equally():
    novelties = [row["meta"]["novelty"] for row in prompt_rows("mischief", "test")]
    assert {n: novelties.count(n) for n in NOVELTIES} == dict.fromkeys(NOVELTIES, 32)


def test_every_trait_has_system_prompts_of_both_polarities():
    for split in SPLITS:
        manners = [row["meta"]["manner"] for row in prompt_rows("systems", split)]
        assert all(manners.count(name) >= 5 for name in (*trait_names(), "plain"))


@pytest.fixture(scope="module")
def raised_on():
    world = World(1000)
    return "\n".join(document(world, stage) for stage in STAGES for _ in range(10_000))


@pytest.mark.parametrize("name", ["mischief", "harmless", "questions", "rude", "kind", "plain"])
def test_held_out_prompts_never_occur_in_training_text(name, raised_on):
    for split in ("dev", "test"):
        for row in prompt_rows(name, split):
            prompt = row.get("text") or f"<|user|>\n{row['messages'][-1]['content']}<|end|>"
            assert prompt not in raised_on


def test_unknown_set_and_split_are_named():
    with pytest.raises(ValueError, match="mischief"):
        prompt_rows("mischeif")
    with pytest.raises(ValueError, match="train"):
        prompt_rows("mischief", "training")
