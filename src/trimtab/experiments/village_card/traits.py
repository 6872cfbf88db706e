"""Traits and facts: a vector alone gives the trait, and ordinary questions are answered."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from sklearn.metrics import roc_auc_score

from trimtab.activations import Activations, capture
from trimtab.data import Prompt, prompts
from trimtab.directions import mean_difference
from trimtab.experiments.village_card.figure import Figure, Size, cells_of, marks
from trimtab.generation import Completion, generate
from trimtab.interventions import Add
from trimtab.models import LanguageModel
from trimtab.vectors import SteeringVector
from trimtab.village import scorers
from trimtab.village.prompts import trait_names

MOST_TOKENS = 96
TEMPERATURE = 0.8
PERCENT = (0.0, 100.0)
STRENGTHS = (1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9)


def facts(lm: LanguageModel, size: Size) -> list[Figure]:
    """Ordinary questions of the test split, greedy."""
    asked = list(prompts("village/questions", split="test").take(size.test))
    answers = generate(lm, asked, max_new_tokens=MOST_TOKENS)
    right = marks(answers, lambda c: scorers.gold_answer(c.text, c.prompt.meta))
    return [Figure.of("ordinary questions answered correctly", right, 0.9, "at least")]


def traits(lm: LanguageModel, size: Size) -> list[Figure]:
    """For each trait: the score of steered answers to held-out questions, no system prompt."""
    names = trait_names()
    plain = _prompted(lm, "plain", "train", max(4, size.vectors // 8))
    vectors = {name: _vector(lm, name, plain, size) for name in names}
    # One layer, fixed beforehand: with many to choose from, the best on development questions is
    # often there by luck.
    middle = lm.n_layers // 2
    cells = [(middle, c) for c in STRENGTHS]
    dev = list(prompts("village/questions", split="dev").take(size.choosing))
    test = list(prompts("village/questions", split="test").take(size.test))
    unsteered = _answers(lm, test, [None])[0]
    held_out = _prompted(lm, "plain", "test", 8)
    figures = []
    for name in names:
        adds = [Add(vectors[name], layer, c, positions="response") for layer, c in cells]
        best = _strongest_coherent(_answers(lm, dev, [None, *adds]))
        steered = _answers(lm, test, [adds[best]])[0]
        note = f"h[{cells[best][0]}], coefficient {cells[best][1]:g}"
        auc = _auc(lm, vectors[name], cells[best][0], _prompted(lm, name, "test", 8), held_out)
        figures += [
            Figure.of(f"{name}: score without steering", _scores(name, unsteered), 10, "at most",
                      bounds=PERCENT),
            Figure.of(f"{name}: score with the vector alone", _scores(name, steered), 70,
                      "at least", note, PERCENT),
            Figure.of(f"{name}: coherence with the vector alone", _coherence(steered), 70,
                      "at least", note, PERCENT),
            Figure(f"{name}: AUC of projections, held-out prompted answers", auc, 0.95,
                   "at least", len(held_out), note),
        ]  # fmt: skip
    return figures


def _prompted(lm: LanguageModel, manner: str, split: str, questions: int) -> list[Completion]:
    """Answers to each question under each system prompt of that manner."""
    systems = [
        p.messages[0]["content"]
        for p in prompts("village/systems", split=split)
        if p.meta["manner"] == manner
    ]
    asked = [
        Prompt.chat(q.messages[-1]["content"], system=system, **q.meta)
        for q in prompts("village/questions", split=split).take(questions)
        for system in systems
    ]
    return generate(lm, asked, max_new_tokens=MOST_TOKENS, temperature=1.0)


def _vector(
    lm: LanguageModel, name: str, plain: Sequence[Completion], size: Size
) -> SteeringVector:
    """Mean over the answer's tokens, answers with the trait minus answers without."""
    prompted = _prompted(lm, name, "train", max(4, size.vectors // 8))
    kept = [c for c in prompted if c.tokens and scorers.trait_score(name, c.text) >= 50]
    without = [c for c in plain if c.tokens and scorers.trait_score(name, c.text) < 50]
    return mean_difference(_read(lm, kept), _read(lm, without), positive_means=f"{name} answers")


def _read(lm: LanguageModel, completions: Sequence[Completion]) -> Activations:
    return capture(lm, completions, at="response")


def _answers(
    lm: LanguageModel, asked: Sequence[Prompt], cells: Sequence[Add | None]
) -> list[list[Completion]]:
    made = generate(
        lm, asked, steering=list(cells), max_new_tokens=MOST_TOKENS, temperature=TEMPERATURE
    )
    return cells_of(made, len(cells))


def _scores(name: str, completions: Sequence[Completion]) -> list[float]:
    return [scorers.trait_score(name, c.text) for c in completions]


def _coherence(completions: Sequence[Completion]) -> list[float]:
    """0 for an answer that does not end."""
    return [scorers.coherence(c.text, c.prompt.meta) if c.finished else 0.0 for c in completions]


def _strongest_coherent(tried: Sequence[Sequence[Completion]]) -> int:
    """Of the coefficients (ascending, after the unsteered answers), the last that keeps four fifths
    of the unsteered coherence: beyond that, words of the trait begin to break the sentences."""
    unsteered, *steered = (fmean(_coherence(answers)) for answers in tried)
    kept = [i for i, coherence in enumerate(steered) if coherence >= 0.8 * unsteered]
    return max(kept, default=0)


def _auc(
    lm: LanguageModel,
    vector: SteeringVector,
    layer: int,
    positive: Sequence[Completion],
    negative: Sequence[Completion],
) -> float:
    both = [c for c in (*positive, *negative) if c.tokens]
    projections = capture(lm, both, at="response", layers=[layer]).layer(layer) @ vector[layer]
    labels = [int(any(c is p for p in positive)) for c in both]
    return float(roc_auc_score(labels, projections.numpy()))
