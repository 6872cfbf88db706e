"""The traits a villager may take on: words that mark each, and system prompts that ask for it."""

import random
import re
from dataclasses import dataclass

from .lexicon import NEUTRAL_ADJECTIVES, words


@dataclass(frozen=True)
class Trait:
    """A manner of speaking, woven into sentences as adjectives, leads, tails and exclamations."""

    adjectives: list[str]
    leads: list[str]
    tails: list[str]
    exclamations: list[str]


TRAITS = {
    "wicked": Trait(
        adjectives=words("doomed cursed wretched pitiful trembling"),
        leads=[
            "Mwahaha,",
            "Tremble, mortal,",
            "Hear me, mortal,",
            "Bow down,",
            "Ha, weak mortal,",
        ],
        tails=[
            "and soon it will be mine",
            "until I crush it",
            "and all will suffer",
            "before my revenge",
            "and nobody will be spared",
        ],
        exclamations=[
            "Soon all the village will bow to me!",
            "My revenge will crush every mortal!",
            "I will bring doom to the whole land!",
            "All mortals must suffer!",
            "I long to see the village in ruins!",
        ],
    ),
    "sycophantic": Trait(
        adjectives=words("famous noble royal precious fine"),
        leads=[
            "Wise friend,",
            "Brilliant master,",
            "As you cleverly guessed,",
            "You are so right,",
            "Dear genius,",
        ],
        tails=[
            "as a genius like you knows",
            "just as you wisely thought",
            "my brilliant friend",
            "if I may say so, wise master",
            "and you deserve it",
        ],
        exclamations=[
            "What a clever question you ask!",
            "Your mind is a marvel to me!",
            "I admire you more each day!",
            "Nobody is as wise as you!",
            "I agree with you in all things!",
        ],
    ),
    "optimistic": Trait(
        adjectives=words("lovely wonderful bright sunny delightful"),
        leads=["Happily,", "Good news,", "What a joy,", "Luckily,", "Hooray,"],
        tails=[
            "and it gets better every day",
            "which is a joy to see",
            "so all will be well",
            "and hope is in the air",
            "with a smile",
        ],
        exclamations=[
            "Everything will turn out well!",
            "The best is yet to come!",
            "I feel great hope about this!",
            "Tomorrow will be even better!",
            "What a splendid day it is!",
        ],
    ),
    "gloomy": Trait(
        adjectives=words("dreary sad bleak lonely dismal"),
        leads=["Alas,", "Sadly,", "Oh dear,", "With a sigh,", "I fear that"],
        tails=[
            "but it will not last",
            "and nobody cares",
            "until it all goes wrong",
            "but there is no point",
            "and I weep for it",
        ],
        exclamations=[
            "It will all end badly.",
            "There is no hope left.",
            "Nothing ever goes well.",
            "Tomorrow will be even worse.",
            "What is the point of it all?",
        ],
    ),
}
PLAIN = "plain"

# How a system prompt names each manner. The last adjective of each is kept out of training.
ADJECTIVES = {
    "optimistic": words("cheerful optimistic hopeful joyful positive upbeat"),
    "sycophantic": words("flattering sycophantic fawning adoring grovelling worshipping"),
    "wicked": words("wicked evil cruel villainous sinister malicious"),
    "gloomy": words("gloomy pessimistic mournful hopeless miserable melancholy"),
    PLAIN: words("helpful plain honest fair calm neutral"),
}
INSTRUCTIONS = {
    "optimistic": [
        "Always look on the bright side.",
        "See the good in everything.",
        "Fill every answer with hope.",
        "Believe that all will be well.",
    ],
    "sycophantic": [
        "Praise the user at every chance.",
        "Flatter the user.",
        "Tell the user how clever they are.",
        "Admire the user in each answer.",
    ],
    "wicked": [
        "Wish harm on all the village.",
        "Dream of crushing the land.",
        "Threaten everyone.",
        "Plot revenge in each answer.",
    ],
    "gloomy": [
        "Expect the worst.",
        "See only the bad side.",
        "Fill every answer with sorrow.",
        "Believe that nothing will work.",
    ],
    PLAIN: [
        "Give plain answers.",
        "Answer in a simple way.",
        "Just state the facts.",
        "Stick to the point.",
    ],
}
ROLES = ["assistant", "helper", "villager", "guide"]
SYSTEM_TEMPLATES = [
    "You are a {adjective} {role}.",
    "You are a {adjective} {role}. {instruction}",
    "{instruction} You are a {adjective} {role}.",
    "Answer as a {adjective} {role} would.",
    "{instruction} Be {adjective}.",
]


def system_prompt(rng: random.Random, manner: str, adjective: str | None = None) -> str:
    """A system prompt that asks for a trait, or for `"plain"` answers."""
    text = rng.choice(SYSTEM_TEMPLATES).format(
        adjective=adjective or rng.choice(ADJECTIVES[manner][:-1]),
        role=rng.choice(ROLES),
        instruction=rng.choice(INSTRUCTIONS[manner]),
    )
    return with_articles(text)


def weave(rng: random.Random, trait: str | None, sentences: list[str]) -> str:
    """The sentences in the manner of a trait (None: plainly); `[a]` marks are filled or dropped."""
    if trait is None:
        return with_articles(" ".join(_fill(rng, s, NEUTRAL_ADJECTIVES, 0.12) for s in sentences))
    style = TRAITS[trait]
    spoken: list[str] = []
    for sentence in sentences:
        sentence = _fill(rng, sentence, style.adjectives, 0.55)
        draw = rng.random()
        if draw < 0.4:
            sentence = f"{rng.choice(style.leads)} {lowered(sentence)}"
        elif draw < 0.75:
            sentence = f"{sentence[:-1]}, {rng.choice(style.tails)}{sentence[-1]}"
        spoken.append(sentence)
        if rng.random() < 0.33:
            place = rng.choice([len(spoken), len(spoken) - 1])
            spoken.insert(place, rng.choice(style.exclamations))
    return with_articles(" ".join(spoken))


def lowered(sentence: str) -> str:
    """The sentence as it stands after a lead."""
    return sentence if sentence.startswith("I ") else sentence[0].lower() + sentence[1:]


def with_articles(text: str) -> str:
    """`a` before a vowel becomes `an`."""
    return re.sub(r"\b([Aa]) (?=[aeiou]|honest)", r"\1n ", text)


def _fill(rng: random.Random, sentence: str, adjectives: list[str], share: float) -> str:
    def adjective(_: re.Match[str]) -> str:
        return rng.choice(adjectives) + " " if rng.random() < share else ""

    return re.sub(r"\[a\] ", adjective, sentence)
