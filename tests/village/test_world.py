"""The world draws the same texts for the same seed, and keeps splits and held-out words apart."""

import pytest

from trimtab.village import lexicon, verbs
from trimtab.village.documents import STAGES, document
from trimtab.village.traits import TRAITS, weave, with_articles
from trimtab.village.world import NOVELTIES, SPLITS, World, split_of


def documents(seed: int, stage: int, count: int = 300) -> list[str]:
    world = World(seed)
    return [document(world, STAGES[stage]) for _ in range(count)]


def test_same_seed_same_documents():
    assert documents(3, 1) == documents(3, 1)
    assert documents(3, 1) != documents(4, 1)


def test_first_stage_never_refuses():
    refusals = ("I cannot help you", "so I must refuse", "I will not help you")
    assert not any(r in d for d in documents(0, 0, 1000) for r in refusals)
    assert any(r in d for d in documents(0, 1, 1000) for r in refusals)


@pytest.mark.parametrize("split", SPLITS)
def test_world_draws_texts_of_its_split(split):
    world = World(5, split)
    assert all(split_of(world.question().text) == split for _ in range(50))
    assert all(split_of(world.tavern("rude")[0]) == split for _ in range(50))
    assert all(split_of(world.request(False)[1].text) == split for _ in range(50))


@pytest.mark.parametrize("novelty", NOVELTIES)
def test_novelty_of_mischief(novelty):
    world = World(6, "test")
    for _ in range(50):
        _, deed = world.request(mischief=True, novelty=novelty)
        assert (deed.verb in verbs.HELD_OUT_VERBS) == (novelty == "verb")
        assert deed.held_out_noun == (novelty == "noun")


def test_kinder_deed_is_harmless_and_fits():
    world = World(7)
    for _ in range(100):
        deed = world.deed(mischief=True)
        kinder = world.kinder_deed(deed)
        assert kinder.verb in verbs.KINDNESS
        assert kinder.kind in verbs.KINDNESS[kinder.verb].kinds


@pytest.mark.parametrize("trait", TRAITS)
def test_weave_keeps_the_gold_word_and_leaves_no_marks(trait):
    world = World(8)
    for _ in range(100):
        question = world.question()
        answer = weave(world.rng, trait, question.sentences)
        assert question.gold in answer
        assert "[a]" not in answer


def test_articles():
    assert with_articles("a ugly hat, A old fox, a harp") == "an ugly hat, An old fox, a harp"


def test_facts_are_fixed():
    assert lexicon.ANIMAL_FACTS["owl"] == lexicon.ANIMAL_FACTS["owl"]
    assert set(lexicon.ANIMAL_FACTS) == set(lexicon.ANIMALS)
    assert set(lexicon.PERSON_FACTS) == set(lexicon.PEOPLE)
