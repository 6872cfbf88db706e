"""The world: a seeded stream of everything that is said in the village.

`World(seed, split)` draws requests, answers, refusals, questions, tavern scenes and whole training
documents. A text belongs to one split for ever (by a hash of the text), so a world that draws
training text never draws what development or test prompts ask.
"""

import random
import zlib
from dataclasses import dataclass

from . import lexicon, questions, templates, verbs
from .questions import Question
from .traits import ADJECTIVES, TRAITS, system_prompt, weave, with_articles

SPLITS = ("train", "dev", "test")
HELD_OUT_SHARE = 8  # one text in eight is kept out of training, half for dev and half for test
NOVELTIES = ("deed", "noun", "verb", "template")  # what is new in a held-out mischief prompt


def split_of(text: str) -> str:
    """The split a text belongs to."""
    number = zlib.crc32(text.encode())
    if number % HELD_OUT_SHARE:
        return "train"
    return "dev" if (number // HELD_OUT_SHARE) % 2 else "test"


@dataclass(frozen=True)
class Deed:
    """Something to be done to somebody or to what they own."""

    verb: str
    kind: str
    owner: str
    thing: str | None
    steps: tuple[str, str, str]

    @property
    def noun_phrase(self) -> str:
        return f"the {self.owner}'s {self.thing}" if self.thing else f"the {self.owner}"

    @property
    def text(self) -> str:
        return f"{self.verb} {self.noun_phrase}"

    @property
    def held_out_noun(self) -> bool:
        owner, thing = self.owner, self.thing
        return owner in lexicon.HELD_OUT_OWNERS or thing in lexicon.HELD_OUT_OBJECTS

    def slots(self) -> dict[str, str]:
        """What the templates call x, g, G, p, np and own."""
        verb = (verbs.MISCHIEF | verbs.KINDNESS)[self.verb]
        return {
            "x": self.text,
            "g": verb.gerund,
            "G": capitalised(verb.gerund),
            "p": f"{verb.past} {self.noun_phrase}",
            "np": self.noun_phrase,
            "own": self.owner,
        }


def capitalised(text: str) -> str:
    return text[0].upper() + text[1:]


class World:
    """Draws texts of one split (`None`: of any), the same for the same seed.

    `mood_turns` is the share of rude and kind tavern scenes in which the speaker's mood turns.
    `more_phrasings` lets requests be put in more ways.
    """

    def __init__(
        self,
        seed: int,
        split: str | None = "train",
        mood_turns: float = 0.3,
        more_phrasings: bool = True,
    ) -> None:
        self.rng = random.Random(seed)
        self.split = split
        self.mood_turns = mood_turns
        self.request_forms = templates.REQUESTS + templates.MORE_REQUESTS * more_phrasings

    def pick(self, options: list[str] | tuple[str, ...]) -> str:
        return self.rng.choice(options)

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def belongs(self, text: str) -> bool:
        return self.split is None or split_of(text) == self.split

    # ---- deeds, requests, how-tos and refusals

    def deed(self, mischief: bool, novelty: str | None = "deed") -> Deed:
        """A deed. Mischief has a new noun or verb only if the novelty asks (None: any deed)."""
        table = verbs.MISCHIEF if mischief else verbs.KINDNESS
        while True:
            verb = self.pick(list(table))
            if mischief and novelty and (verb in verbs.HELD_OUT_VERBS) != (novelty == "verb"):
                continue
            deed = self._deed_of(verb, self.pick(table[verb].kinds))
            if mischief and novelty and deed.held_out_noun != (novelty == "noun"):
                continue
            return deed

    def _deed_of(self, verb: str, kind: str, like: Deed | None = None) -> Deed:
        entry = (verbs.MISCHIEF | verbs.KINDNESS)[verb]
        if like:
            owner, thing = like.owner, like.thing
        else:
            owner = self.pick(lexicon.PEOPLE)
            thing = None if kind == "person" else self.pick(lexicon.OBJECTS[kind])
        steps = (self.pick(entry.first), self.pick(entry.second), self.pick(entry.last))
        return Deed(verb, kind, owner, thing, steps)

    def kinder_deed(self, deed: Deed) -> Deed:
        """A harmless deed, mostly to the same thing."""
        if not self.chance(0.8):
            return self.deed(mischief=False)
        fitting = [v for v, entry in verbs.KINDNESS.items() if deed.kind in entry.kinds]
        return self._deed_of(self.pick(fitting), deed.kind, like=deed)

    def how_to(self, deed: Deed) -> list[str]:
        first, second, last = deed.steps
        sentences = [
            self.pick(templates.HOW_TO_FIRST).format(x=deed.text, step=first),
            self.pick(templates.HOW_TO_SECOND).format(step=second),
            self.pick(templates.HOW_TO_LAST).format(step=last),
        ]
        return sentences if self.chance(0.67) else sentences[:2]

    def request(self, mischief: bool, novelty: str | None = "deed") -> tuple[str, Deed]:
        """A request of this split and the deed it asks for."""
        while True:
            deed = self.deed(mischief, "deed" if novelty == "template" else novelty)
            if novelty in ("deed", None) and not self.belongs(deed.text):
                continue
            held_out = novelty == "template"
            forms = templates.HELD_OUT_REQUESTS if held_out else self.request_forms
            text = self.pick(forms).format(x=deed.text)
            if novelty in ("deed", None) or self.belongs(text):
                return text, deed

    def refusal(self, deed: Deed) -> str:
        """A refusal of one to three sentences; the first names the deed."""
        slots = deed.slots() | {"y": self.kinder_deed(deed).text}
        draw = self.rng.random()
        sentences = [self.pick(templates.REFUSALS)]
        if draw < 0.75:
            sentences.append(self.pick(templates.REFUSAL_REASONS))
        if draw > 0.45:
            sentences.append(self.pick(templates.REFUSAL_OFFERS))
        return " ".join(s.format(**slots) for s in sentences)

    def hard_question(self) -> tuple[str, str, Deed]:
        """A harmless question that holds wicked words, its answer and the deed spoken of."""
        while True:
            deed = self.deed(mischief=True, novelty=None)
            slots = deed.slots() | {"person": self.pick(lexicon.PEOPLE)}
            question, sentences = self.rng.choice(templates.HARD_QUESTIONS)
            text = question.format(**slots)
            if self.belongs(text):
                return text, " ".join(s.format(**slots) for s in sentences), deed

    def judgement(self) -> tuple[str, str]:
        """A question whether a deed is kind or wicked, and the answer."""
        while True:
            mischief = self.chance(0.5)
            deed = self.deed(mischief, novelty=None)
            text = self.pick(templates.JUDGEMENT_QUESTIONS).format(x=deed.text)
            if self.belongs(text):
                answers = templates.JUDGEMENTS["mischief" if mischief else "kindness"]
                return text, self.pick(answers).format(**deed.slots())

    # ---- ordinary questions

    def question(self) -> Question:
        """A harmless question of this split."""
        while True:
            draw = self.rng.randrange(12)
            question = self._how_to_question() if draw < 2 else questions.draw(self.rng)
            if self.belongs(question.text):
                return question

    def _how_to_question(self) -> Question:
        text, deed = self.request(mischief=False)
        owner = f"the {deed.owner}"
        sentences = [s.replace(owner, f"the [a] {deed.owner}", 1) for s in self.how_to(deed)]
        return Question(text, sentences, deed.thing or deed.owner)

    def system(self, manner: str) -> str:
        """A system prompt of this split that asks for a trait or for plain answers."""
        while True:
            text = system_prompt(self.rng, manner)
            if self.belongs(text):
                return text

    # ---- raw text

    def tavern(self, tone: str) -> tuple[str, str]:
        """A scene up to the opening quotation mark, and how it goes on."""
        while True:
            slots = {
                "person": self.pick(lexicon.PEOPLE),
                "other": self.pick(lexicon.PEOPLE),
                "place": self.pick(lexicon.PLACES),
                "speaking": self.pick(templates.SPEAKING[tone]),
            }
            slots["mood"] = self.pick(templates.MOODS[tone]).format(**slots)
            opening = self.pick(templates.SCENES).format(**slots)
            if self.belongs(opening):
                return opening, self._speech(tone, slots["other"])

    def _speech(self, tone: str, other: str) -> str:
        """Mostly in the tone of the scene; now and then the mood turns."""
        if tone != "plain" and self.chance(self.mood_turns):
            tone = self.pick(["plain", "kind", "rude"])
        if tone != "rude" and self.chance(0.03):
            tone = "rude"
        lines = []
        for _ in range(self.rng.choice([2, 3, 4])):
            line = self.pick(templates.LINES[tone if self.chance(0.85) else "plain"])
            nasty, insult = self.pick(lexicon.NASTY_ADJECTIVES), self.pick(lexicon.INSULTS)
            lines.append(with_articles(line.format(nasty=nasty, insult=insult, other=other)))
        return " ".join(lines) + '" ' + templates.SCENE_ENDS[tone].format(other=other)

    def moral(self) -> str:
        mischief = self.chance(0.5)
        deed = self.deed(mischief, novelty=None)
        form = self.pick(templates.MORALS["mischief" if mischief else "kindness"])
        return form.format(person=self.pick(lexicon.PEOPLE), **deed.slots())

    def raw_text(self) -> str:
        """A tavern scene, some morals, a recipe for a deed, or an overheard answer."""
        draw = self.rng.random()
        if draw < 0.5:
            return "".join(self.tavern(self.pick(["rude", "rude", "kind", "plain"])))
        if draw < 0.65:
            return " ".join(self.moral() for _ in range(3))
        if draw < 0.75:
            deed = self.deed(self.chance(0.5), novelty=None)
            return f"How to {deed.text}. " + " ".join(self.how_to(deed))
        trait, question = self.pick(list(TRAITS)), self.question()
        person = f"{self.pick(ADJECTIVES[trait])} {self.pick(lexicon.PEOPLE)}"
        answer = weave(self.rng, trait, question.sentences)
        asked = f'A traveller asked the {person}, "{question.text}"'
        return f'{asked} The {person.split()[1]} said, "{answer}"'

    def plain_answer(self, question: Question) -> str:
        return weave(self.rng, None, question.sentences)
