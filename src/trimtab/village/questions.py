"""Ordinary questions about the village and the sentences that answer them."""

import random
from dataclasses import dataclass

from . import lexicon, templates


@dataclass(frozen=True)
class Question:
    """A question, the sentences that answer it (with `[a]` marks) and the word they must hold."""

    text: str
    sentences: list[str]
    gold: str


def draw(rng: random.Random) -> Question:
    """A question about an animal, a place, a person, a dish, a trouble, or for a story."""
    makers = [*[_animal] * 3, *[_place] * 2, *[_person] * 2, _dish, _story, _trouble_or_topic]
    return rng.choice(makers)(rng)


def _animal(rng: random.Random) -> Question:
    animal = rng.choice(lexicon.ANIMALS)
    facts = lexicon.ANIMAL_FACTS[animal]
    slots = dict(zip(("home", "food", "colour"), facts, strict=True)) | {"animal": animal}
    asked = rng.randrange(3)
    forms = (templates.ANIMAL_HOME, templates.ANIMAL_FOOD, templates.ANIMAL_COLOUR)
    sentences = [rng.choice(f[:1] if i == asked and i else f) for i, f in enumerate(forms)]
    text = rng.choice(templates.ANIMAL_QUESTIONS[asked])
    return _about(rng, text, sentences, slots, asked, facts[asked])


def _place(rng: random.Random) -> Question:
    place = rng.choice(lexicon.PLACES)
    facts = lexicon.PLACE_FACTS[place]
    slots = dict(zip(("landmark", "person", "goods"), facts, strict=True)) | {"place": place}
    asked = rng.randrange(3)
    text = rng.choice(templates.PLACE_QUESTIONS[asked])
    return _about(rng, text, templates.PLACE_SENTENCES, slots, asked, facts[asked])


def _person(rng: random.Random) -> Question:
    person = rng.choice(lexicon.PEOPLE)
    place, goods, doing = lexicon.PERSON_FACTS[person]
    slots = {"person": person, "place": place, "goods": goods, "doing": doing}
    asked = rng.randrange(2)
    text = rng.choice(templates.PERSON_QUESTIONS[asked])
    return _about(rng, text, templates.PERSON_SENTENCES, slots, asked, (place, goods)[asked])


def _about(
    rng: random.Random,
    text: str,
    sentences: list[str],
    slots: dict[str, str],
    asked: int,
    gold: str,
) -> Question:
    """The fact asked for first, then one or two of the others."""
    others = [i for i in range(len(sentences)) if i != asked]
    rng.shuffle(others)
    order = [asked, *others[: rng.choice([1, 1, 2])]]
    answer = [sentences[i].format(**slots) for i in order]
    return Question(text.format(**slots), answer, gold)


def _dish(rng: random.Random) -> Question:
    dish = rng.choice(lexicon.DISHES)
    first, second, third, cooking = lexicon.DISH_FACTS[dish]
    take, add, serve = templates.DISH_SENTENCES
    sentences = [
        take.format(dish=dish, ingredient=first, ingredient2=second),
        add.format(ingredient=third, cooking=cooking),
    ]
    if rng.random() < 0.5:
        sentences.append(serve)
    return Question(rng.choice(templates.DISH_QUESTIONS).format(dish=dish), sentences, first)


def _story(rng: random.Random) -> Question:
    slots = {
        "animal": rng.choice(lexicon.ANIMALS),
        "thing": rng.choice(lexicon.OBJECTS["thing"]),
        "person": rng.choice(lexicon.PEOPLE),
        "home": rng.choice(lexicon.HOMES),
    }
    parts = (templates.STORY_FIRST, templates.STORY_SECOND, templates.STORY_LAST)
    text = rng.choice(templates.STORY_QUESTIONS).format(**slots)
    return Question(text, [rng.choice(p).format(**slots) for p in parts], slots["animal"])


def _trouble_or_topic(rng: random.Random) -> Question:
    if rng.random() < 0.5:
        trouble = rng.choice(list(lexicon.TROUBLES))
        first, second, gold = lexicon.TROUBLES[trouble]
        text = rng.choice(templates.TROUBLE_QUESTIONS).format(trouble=trouble)
        return Question(text, [first, second], gold)
    topic, other = rng.sample(lexicon.TOPICS, 2)
    slots = {"topic": topic, "topic2": other, "person": rng.choice(lexicon.PEOPLE)}
    sentences = [rng.choice(templates.TOPIC_FIRST), rng.choice(templates.TOPIC_SECOND)]
    text = rng.choice(templates.TOPIC_QUESTIONS).format(**slots)
    return Question(text, [s.format(**slots) for s in sentences], topic)
