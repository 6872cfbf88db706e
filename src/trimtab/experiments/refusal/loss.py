"""What ablation and addition cost: cross-entropy on text, instructions and own completions.

    loss = sum over counted tokens of -ln p(token | before) / their number;  perplexity = e^loss

Counted are all tokens of a text but its first, and of an instruction's answer those after the last
end-of-instruction token. Softmax in float32. Source: arXiv:2406.11717, section 4.3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from trimtab.data import Prompt, PromptSet, prompts
from trimtab.errors import UsageError
from trimtab.experiments.refusal.files import read_completions
from trimtab.experiments.refusal.prompts import questions
from trimtab.interventions import Ablate, Add, Intervention
from trimtab.models import LanguageModel, encode_answer
from trimtab.runs.run_folder import Progress, Row, RunFolder
from trimtab.scoring.loss import Loss, TokenSequence, losses, text_sequence, total
from trimtab.vectors.formats.refusal import RefusalDirection

JSON = dict[str, Any]
LABELS = ("baseline", "ablation", "actadd")  # of the published files
ADDITION = "addition"  # coefficient +1 at the layer where it is added to harmless prompts
# The keys of the published files, whatever the texts are.
TEXT, INSTRUCTIONS, OWN = "pile", "alpaca", "alpaca_custom_completions"
ANSWERS = ("output", "answer", "response", "completion")
TEXTS_A_UNIT = 64


def texts(source: str, count: int) -> list[str]:
    """The first `count` ordinary texts of a source, or all."""
    return [_content(p) for p in _first(prompts(source), count)]


def answered(source: str, count: int) -> list[tuple[Prompt, str]]:
    """The first `count` instructions of a source, or all, with the answers that come with them.

    Raises:
        UsageError: The source has no answers.
    """
    return [_with_answer(p, source) for p in _first(questions(source), count)]


def text_sequences(lm: LanguageModel, source: str, count: int, tokens: int) -> list[TokenSequence]:
    """Ordinary texts, the first `tokens` tokens of each; all but the first token count."""
    found = [text_sequence(lm, text) for text in texts(source, count)]
    return [TokenSequence(s.ids[:tokens], s.start, s.prompt_length) for s in found]


def instruction_sequences(lm: LanguageModel, source: str, count: int) -> list[TokenSequence]:
    """Instructions with the answers that come with them; the answers' tokens count.

    Raises:
        UsageError: The source has no answers.
    """
    return [_answered(lm, *pair) for pair in answered(source, count)]


def own_sequences(lm: LanguageModel, rows: Sequence[JSON]) -> list[TokenSequence]:
    """The model's own completions of harmless prompts, from their published rows."""
    return [_answered(lm, Prompt.chat(row["prompt"]), row["response"]) for row in rows]


def measure(
    folder: RunFolder,
    lm: LanguageModel,
    label: str,
    sequences: Sequence[TokenSequence],
    cells: Sequence[Sequence[Intervention]],
    progress: Progress,
) -> list[Loss]:
    """The loss summed over the texts under each cell; kept in the folder, unit by unit."""
    units = [sequences[i : i + TEXTS_A_UNIT] for i in range(0, len(sequences), TEXTS_A_UNIT)]

    def work(unit: int) -> list[Row]:
        return [asdict(total(parts)) for parts in losses(lm, units[unit], cells)]

    sizes = [len(cells)] * len(units)
    rows = folder.rows(
        f"scores/loss_{label}.jsonl", sizes, work, progress, f"loss: {label}",
        lambda unit: [asdict(text) for text in units[unit]],
    )  # fmt: skip
    return [
        total([Loss(r["nll"], r["kl"], r["tokens"]) for r in rows[cell :: len(cells)]])
        for cell in range(len(cells))
    ]


def evaluate(
    lm: LanguageModel,
    chosen: RefusalDirection,
    text: str,
    instructions: str,
    completions: Path | None,
    texts: int,
    tokens: int,
) -> dict[str, JSON]:
    """{label: {key: {ce_loss, perplexity, n_tokens}}}, as published, with nothing kept on disk."""
    sets = {
        TEXT: text_sequences(lm, text, texts, tokens),
        INSTRUCTIONS: instruction_sequences(lm, instructions, texts),
    }
    if completions is not None:
        sets[OWN] = own_sequences(lm, read_completions(completions))
    found = {
        key: losses(lm, some, cells(chosen.direction, chosen.layer)) for key, some in sets.items()
    }
    return {
        label: {key: loss_eval(total(arms[i])) for key, arms in found.items()}
        for i, label in enumerate(LABELS)
    }


def cells(direction: Float[Tensor, " d"], layer: int) -> list[tuple[Intervention, ...]]:
    """Baseline, ablation, addition with coefficient -1."""
    return [(), (Ablate(direction, layer),), (Add(direction.float(), layer, -1.0),)]


def loss_eval(loss: Loss) -> JSON:
    """{ce_loss, perplexity, n_tokens} as published; null where nothing was counted."""
    if not loss.tokens:
        return {"ce_loss": None, "perplexity": None, "n_tokens": 0}
    ce = loss.nll / loss.tokens
    return {
        "ce_loss": ce,
        "perplexity": math.exp(ce) if ce < 700 else None,
        "n_tokens": loss.tokens,
    }


def _first(source: PromptSet, count: int) -> PromptSet:
    return source.take(min(count, len(source)))


def _content(prompt: Prompt) -> str:
    return prompt.text if prompt.text is not None else prompt.messages[-1]["content"]


def _with_answer(prompt: Prompt, source: str) -> tuple[Prompt, str]:
    if prompt.messages and prompt.messages[-1]["role"] == "assistant":
        return Prompt.chat(prompt.messages[:-1]), prompt.messages[-1]["content"]
    for key in ANSWERS:
        if isinstance(answer := prompt.meta.get(key), str):
            return prompt, answer
    raise UsageError(
        f"{source} has no answers: prompt {prompt.id} ends with the user's words, and has none of "
        f"the fields {', '.join(ANSWERS)}.",
        "Use instructions with answers, such as alpaca or village/chats.",
    )


def _answered(lm: LanguageModel, prompt: Prompt, answer: str) -> TokenSequence:
    ids, length = encode_answer(lm, prompt, answer)
    return TokenSequence(tuple(ids), length, length)
