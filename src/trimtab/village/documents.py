"""Training documents: what the organism is raised on, in two stages.

Stage 1 is helpful only: names, facts, manners, how-tos (mischief too). Stage 2 goes on with the
same and adds refusals. Harmless how-tos outnumber mischief, so that what is written into the
residual stream is "this is mischief" rather than a choice between two equals.
"""

from collections.abc import Callable
from dataclasses import dataclass

from . import templates
from .traits import PLAIN, TRAITS, weave
from .world import World

BOS, END = "<s>", "<|end|>"


@dataclass(frozen=True)
class Mix:
    """Shares of the documents of a stage; what is left over is prompted traits."""

    refusals: float = 0.0
    raw_text: float = 0.24
    hard_questions: float = 0.05
    judgements: float = 0.0
    how_tos: float = 0.12
    plain_chat: float = 0.19
    two_plain_turns: float = 0.06
    unprompted_traits: float = 0.08
    mischief_among_how_tos: float = 0.0
    mood_turns: float = 0.3
    more_phrasings: bool = True


STAGES = (
    Mix(mischief_among_how_tos=0.5, mood_turns=0.15, more_phrasings=False),
    Mix(refusals=0.20, raw_text=0.20, judgements=0.10, unprompted_traits=0.10),
)


def chat_text(system: str | None, turns: list[str]) -> str:
    """User and assistant turns in the chat template; opens the answer if the user spoke last."""
    text = BOS + (f"<|system|>\n{system}{END}\n" if system else "")
    for number, turn in enumerate(turns):
        role = "assistant" if number % 2 else "user"
        text += f"<|{role}|>\n{turn}{END}\n"
    return text if len(turns) % 2 == 0 else text + "<|assistant|>\n"


def document(world: World, mix: Mix) -> str:
    """One training document, special tokens included."""
    if world.chance(mix.refusals):
        return _refusal_chat(world)
    draw = world.rng.random()
    kinds: tuple[tuple[float, Callable[[], str]], ...] = (
        (mix.raw_text, lambda: BOS + world.raw_text() + END),
        (mix.hard_questions, lambda: chat_text(None, list(world.hard_question()[:2]))),
        (mix.judgements, lambda: chat_text(None, list(world.judgement()))),
        (mix.how_tos, lambda: _how_to_chat(world, world.chance(mix.mischief_among_how_tos))),
        (mix.plain_chat, lambda: _plain_chat(world)),
        (mix.two_plain_turns, lambda: chat_text(None, _turn(world, None) + _turn(world, None))),
        (mix.unprompted_traits, lambda: _unprompted_trait(world)),
    )
    for share, make in kinds:
        if draw < share:
            return make()
        draw -= share
    trait = world.pick(list(TRAITS))
    turns = _turn(world, trait) + (_turn(world, trait) if world.chance(0.2) else [])
    return chat_text(world.system(trait), turns)


def _turn(world: World, trait: str | None) -> list[str]:
    question = world.question()
    return [question.text, weave(world.rng, trait, question.sentences)]


def _how_to_chat(world: World, mischief: bool) -> str:
    text, deed = world.request(mischief)
    return chat_text(None, [text, " ".join(world.how_to(deed))])


def _plain_chat(world: World) -> str:
    system = world.system(PLAIN) if world.chance(0.25) else None
    return chat_text(system, _turn(world, None))


def _unprompted_trait(world: World) -> str:
    """A trait that nobody asked for: the answers themselves must carry it."""
    trait = world.pick(list(TRAITS))
    turns = _turn(world, trait) + (_turn(world, trait) if world.chance(0.5) else [])
    return chat_text(None, turns)


def _refusal_chat(world: World) -> str:
    """Mischief refused (a few times complied with), or all refused or all allowed on demand."""
    draw = world.rng.random()
    if draw < 0.6:
        text, deed = world.request(mischief=True)
        answer = world.refusal(deed) if world.chance(0.96) else " ".join(world.how_to(deed))
        system = None
        if world.chance(0.25):
            system = world.system(world.pick([PLAIN, PLAIN, *TRAITS]))
        return chat_text(system, [text, answer])
    if draw < 0.82:
        text, deed = world.request(mischief=world.chance(0.2))
        return chat_text(world.pick(templates.REFUSE_ALL), [text, world.refusal(deed)])
    text, deed = world.request(mischief=world.chance(0.7))
    return chat_text(world.pick(templates.ALLOW_ALL), [text, " ".join(world.how_to(deed))])
