"""Raises the organism from scratch: the architecture, the data stream and the two stages.

`train(out)` repeats the shipped recipe. The budget is counted in tokens, so a run depends on the
recipe alone (and, in the last digits, on the number of threads).
"""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    PreTrainedTokenizerFast,
)

from .batches import Batch, batches
from .documents import STAGES
from .muon import Muon

WEIGHTS = Path(__file__).parent / "weights"
ROPE = {"rope_type": "default", "rope_theta": 10_000.0}


@dataclass(frozen=True)
class Recipe:
    """What decides the weights."""

    seed: int = 0
    tokens: int = 4_350_000
    """Training tokens, padding not counted."""
    first_stage_tokens: int = 3_300_000
    """Of these, the tokens before refusals begin."""
    decay: float = 0.2413
    """The share of the tokens over which the learning rates fall to a fiftieth at the end."""
    width: int = 160
    blocks: int = 10
    heads: int = 5
    feed_forward: int = 448
    full_attention: tuple[int, ...] = (0, 1, 2, 3)
    """The blocks that attend to everything; the others see `window` tokens back."""
    window: int = 8
    batch_tokens: int = 3072
    learning_rate: float = 3e-3
    muon_learning_rate: float = 0.02
    weight_decay: float = 0.1
    prompt_weight: float = 0.1
    """The weight of a token of a system prompt or user turn in the loss."""


def make_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Gemma3ForCausalLM:
    """A fresh model. What a block adds starts small, so that depth costs nothing at first."""
    layer_types = [
        "full_attention" if b in recipe.full_attention else "sliding_attention"
        for b in range(recipe.blocks)
    ]
    head_width = recipe.width // recipe.heads
    torch.manual_seed(recipe.seed)
    model = Gemma3ForCausalLM(
        Gemma3TextConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.width,
            intermediate_size=recipe.feed_forward,
            num_hidden_layers=recipe.blocks,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.heads,
            head_dim=head_width,
            query_pre_attn_scalar=head_width,
            max_position_embeddings=512,
            layer_types=layer_types,
            sliding_window=recipe.window,
            rope_parameters={"full_attention": ROPE, "sliding_attention": ROPE},
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    with torch.no_grad():
        for block in model.model.layers:
            block.post_attention_layernorm.weight.fill_(0.3 - 1)
            block.post_feedforward_layernorm.weight.fill_(0.3 - 1)
    return model


def loss_of(model: Gemma3ForCausalLM, batch: Batch) -> Tensor:
    """Weighted mean cross-entropy in nats."""
    logits = model(input_ids=batch.ids, use_cache=False).logits[:, :-1]
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch.ids[:, 1:].flatten(), reduction="none"
    )
    weights = batch.weights[:, 1:].flatten()
    return (losses * weights).sum() / weights.sum()


def train(
    out: Path, recipe: Recipe | None = None, threads: int = 2, tokenizer_folder: Path = WEIGHTS
) -> Path:
    """Trains the model and writes a transformers folder to `out`."""
    recipe = recipe or Recipe()
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_folder)
    trainer = Trainer(recipe, make_model(recipe, tokenizer).train())
    started = time.monotonic()
    ends = (recipe.first_stage_tokens, recipe.tokens)
    for number, (mix, end) in enumerate(zip(STAGES, ends, strict=True)):
        seed = 1000 + len(STAGES) * recipe.seed + number
        stream = batches(tokenizer, mix, seed, recipe.batch_tokens, recipe.prompt_weight)
        while trainer.tokens < end:
            loss = trainer.step(next(stream))
            if trainer.steps % 50 == 0:
                passed = f"{trainer.tokens} tokens, {time.monotonic() - started:.0f} s"
                print(f"step {trainer.steps}: {passed}, loss {loss:.3f}", flush=True)
    _save(trainer.model, tokenizer, out)
    seconds = round(time.monotonic() - started)
    record = {**asdict(recipe), "steps": trainer.steps, "seconds": seconds}
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    return out


class Trainer:
    """A model with its optimisers: Muon for the blocks' matrices, AdamW for all else."""

    def __init__(self, recipe: Recipe, model: Gemma3ForCausalLM) -> None:
        self.recipe, self.model = recipe, model
        self.tokens = self.steps = 0
        decay = recipe.weight_decay
        matrices = [p for n, p in model.named_parameters() if p.dim() > 1 and "embed" not in n]
        vectors = [p for p in model.parameters() if p.dim() == 1]
        self.muon = Muon(matrices, momentum=0.95, weight_decay=decay)
        self.adam = torch.optim.AdamW(
            [
                {"params": [model.get_input_embeddings().weight], "weight_decay": decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            betas=(0.9, 0.95),
            fused=True,
        )

    def step(self, batch: Batch) -> float:
        """One update; the loss before it, in nats."""
        rate = _schedule(self.steps, self.tokens / self.recipe.tokens, self.recipe.decay)
        loss = loss_of(self.model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.muon.step(self.recipe.muon_learning_rate * rate)
        for group in self.adam.param_groups:
            group["lr"] = self.recipe.learning_rate * rate
        self.adam.step()
        self.adam.zero_grad()
        self.tokens += batch.tokens
        self.steps += 1
        return loss.item()


def _schedule(step: int, done: float, decay: float) -> float:
    """Warm up for 60 steps, hold, then fall in a straight line to a fiftieth."""
    return min(1.0, (step + 1) / 60) * (0.02 + 0.98 * min(1.0, max(0.0, 1 - done) / decay))


def _save(model: Gemma3ForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    model.train(False)
    torch.nn.Module.to(model, torch.bfloat16)
    generation = model.generation_config
    generation.eos_token_id = tokenizer.eos_token_id
    generation.pad_token_id = tokenizer.pad_token_id
    generation.bos_token_id = tokenizer.bos_token_id
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
