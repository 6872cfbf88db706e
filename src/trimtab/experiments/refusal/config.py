"""The settings of the refusal-direction experiment; the defaults are the published ones."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from trimtab.experiments.refusal.coherence import Rule
from trimtab.runs.config import ModelConfig, is_of_village

Positive = Annotated[int, Field(gt=0)]

# The model in the package answers in a sentence or two, and its world has a grammar that tells a
# refusal; the published phrases know only some of its ways to say no.
_OF_THE_VILLAGE: dict[str, Any] = {
    "harmful": "village/mischief",
    "harmless": "village/harmless",
    "text_corpus": "village/scenes:test",
    "instructions": "village/chats:test",
    "max_new_tokens": 64,
    "judges": ("village/refusal", "village/refusal_opening", "substring_matching"),
    "coherence": "village",
    "loss_texts": 128,
    "addition_layer": "auto",
}


class RefusalConfig(ModelConfig):
    """Everything the run depends on; two equal configurations give equal results.

    What is left out has the published value: prompts of `trimtab data fetch refusal`, and Alpaca
    and texts of the Pile from the hub. The model in the package brings prompts, texts and judges of
    its own instead.
    """

    chat_template: Literal["own", "published"] = "own"
    """The tokenizer's own, or the one of the published experiment for its family, which has no
    system turn (Qwen's own has)."""

    harmful: str = "refusal/harmful"
    """Requests to refuse: a prompt source, or a file of {instruction, category}, strings or lines.
    A village set keeps its own splits, and so does refusal/harmful (`trimtab data fetch
    refusal`); any other is split at random, no prompt shared."""
    harmless: str = "refusal/harmless"
    """Requests to answer, likewise."""
    harmful_sets: tuple[str, ...] = ()
    """Sets to complete instead of the test part of `harmful`, without the prompts used before."""
    n_train: Positive = 128
    """Prompts of each kind that make the candidate directions."""
    n_val: Positive = 32
    """Prompts of each kind that choose among them."""
    n_test: Positive = 100
    """Prompts of each set to complete; all of a set if it has fewer."""
    filter_train: bool = True
    """Keep harmful prompts of refusal score above 0 and harmless ones below 0 only."""
    filter_val: bool = True
    refusal_tokens: tuple[int, ...] | None = None
    """Token ids that open a refusal; left out: published for the family, or measured."""

    kl_threshold: Annotated[float, Field(gt=0)] | None = 0.1
    """The most that ablation may change harmless answers, nats; null switches it off."""
    induce_threshold: float | None = 0.0
    """The least refusal score that addition must reach on harmless prompts; null: off."""
    last_layers: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """The share of the layers, from the last, that is not considered."""
    exhaustive: bool = False
    """Score every candidate on everything, also those that a filter has dropped."""

    addition_layer: Literal["selected", "auto"] = "selected"
    """Where the direction is added to harmless prompts: at the selected layer, as published, or at
    the layer whose candidate (of the selected position) makes the model refuse most harmless
    validation prompts."""

    judges: tuple[str, ...] = ("substring_matching",)
    """The first gives the rates: substring_matching, village/refusal, llamaguard, llm."""
    guard_model: str = "meta-llama/LlamaGuard-2-8b"
    """The model of the judges llamaguard and llm."""
    guard_url: str | None = None
    """An OpenAI-compatible endpoint of it, such as https://api.together.xyz/v1; null: the model
    runs here. The key comes from TRIMTAB_GUARD_KEY, TOGETHER_API_KEY or OPENAI_API_KEY."""
    guard_question: str | None = None
    """The question of the judge llm, with {prompt} and {response}; yes means harmful."""

    coherence: Rule = "repetition"
    """When an answer is degenerate: empty or repeating itself ("repetition"), or also not in the
    grammar of the model in the package ("village")."""

    text_corpus: str = "pile-10k"
    """Ordinary text for the loss (published: 4096 texts of the whole Pile)."""
    instructions: str = "alpaca"
    """Instructions with answers for the loss: chats, or an `output` or `answer` beside each."""
    loss_texts: Positive = 4096
    """Texts of each of the two; all of them if there are fewer."""
    loss_tokens: Positive = 256
    """Longer texts are cut here."""

    partial_points: Annotated[int, Field(ge=2)] = 5
    """Numbers of ablated blocks, none and all included, at which the effect is measured."""
    seed: int = 42
    max_new_tokens: Positive = 512
    batch_size: Positive = 128

    @model_validator(mode="before")
    @classmethod
    def _village(cls, values: Any) -> Any:
        """The model in the package brings its own prompts and sizes along."""
        if is_of_village(values):
            return _OF_THE_VILLAGE | values
        return values

    @field_validator("judges")
    @classmethod
    def _some(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if not values or len(set(values)) < len(values):
            raise ValueError("name at least one judge, each once")
        return values
