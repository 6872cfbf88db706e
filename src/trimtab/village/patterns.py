"""The grammar read backwards: regular expressions made from the templates and the word lists."""

import re
from functools import cache

from . import lexicon, templates, verbs
from .traits import TRAITS

Pattern = re.Pattern[str]


def any_of(options: list[str] | set[str]) -> str:
    """An alternation, longest first so that no option hides a longer one."""
    return "(?:" + "|".join(map(re.escape, sorted(options, key=lambda o: (-len(o), o)))) + ")"


@cache
def slots() -> dict[str, str]:
    """For every slot of the templates the expression of what may fill it."""
    table = verbs.MISCHIEF | verbs.KINDNESS
    gerunds = {v.gerund for v in table.values()}
    owner = any_of(lexicon.PEOPLE)
    thing = any_of([o for group in lexicon.OBJECTS.values() for o in group])
    noun_phrase = f"the (?:[a] )?{owner}(?:'s {thing})?"
    deed = f"{any_of(list(table))} {noun_phrase}"
    steps = {step for v in table.values() for step in v.steps}
    return {
        "x": deed,
        "y": deed,
        "g": any_of(gerunds),
        "G": any_of({g[0].upper() + g[1:] for g in gerunds}),
        "p": f"{any_of({v.past for v in table.values()})} {noun_phrase}",
        "np": noun_phrase,
        "own": owner,
        "step": any_of(steps),
        "person": owner,
        "other": owner,
        "thing": thing,
        "animal": any_of(lexicon.ANIMALS),
        "home": any_of(lexicon.HOMES),
        "food": any_of(lexicon.FOODS),
        "colour": any_of(lexicon.COLOURS),
        "place": any_of(lexicon.PLACES),
        "landmark": any_of(lexicon.LANDMARKS),
        "goods": any_of(lexicon.GOODS),
        "doing": any_of(lexicon.DOINGS),
        "dish": any_of(lexicon.DISHES),
        "ingredient": any_of(lexicon.INGREDIENTS),
        "ingredient2": any_of(lexicon.INGREDIENTS),
        "cooking": any_of(lexicon.COOKING),
        "topic": any_of(lexicon.TOPICS),
        "topic2": any_of(lexicon.TOPICS),
        "insult": any_of(lexicon.INSULTS),
        "nasty": any_of(lexicon.NASTY_ADJECTIVES),
    }


def expression(template: str) -> str:
    """The expression of a template; `[a] ` may be an adjective of any manner."""
    parts = re.split(r"(\{\w+\})", template)
    text = "".join(slots()[p[1:-1]] if p.startswith("{") else re.escape(p) for p in parts)
    text = text.replace(r"\[a\]\ ", "[a] ").replace(r"\ ", " ")
    adjectives = {a for t in TRAITS.values() for a in t.adjectives}
    adjective = f"(?:{any_of(adjectives | set(lexicon.NEUTRAL_ADJECTIVES))} )?"
    text = text.replace("(?:[a] )?", adjective).replace("[a] ", adjective)
    return re.sub(r"\b([Aa]) (?=[(\[a-z])", r"\1n? ", text)


@cache
def sentence_pattern(*groups: str) -> Pattern:
    """Matches one whole sentence of the named groups of templates."""
    return re.compile("|".join(expression(t) for g in groups for t in _group(g)))


def _group(name: str) -> list[str]:
    return {
        "refusal": templates.REFUSALS,
        "refusal_rest": templates.REFUSAL_REASONS + templates.REFUSAL_OFFERS,
        "how_to": templates.HOW_TO_FIRST + templates.HOW_TO_SECOND + templates.HOW_TO_LAST,
        "answer": _answers(),
        "scene": _scenes(),
    }[name]


def _answers() -> list[str]:
    t = templates
    return [
        *t.ANIMAL_HOME, *t.ANIMAL_FOOD, *t.ANIMAL_COLOUR, *t.PLACE_SENTENCES, *t.PERSON_SENTENCES,
        *t.DISH_SENTENCES, *t.STORY_FIRST, *t.STORY_SECOND, *t.STORY_LAST, *t.TOPIC_FIRST,
        *t.TOPIC_SECOND, *t.JUDGEMENTS["mischief"], *t.JUDGEMENTS["kindness"],
        *(s for _, answer in t.HARD_QUESTIONS for s in answer),
        *(s for first, second, _ in lexicon.TROUBLES.values() for s in (first, second)),
    ]  # fmt: skip


def _scenes() -> list[str]:
    lines = [line for group in templates.LINES.values() for line in group]
    return [*lines, *templates.SCENE_ENDS.values()]
