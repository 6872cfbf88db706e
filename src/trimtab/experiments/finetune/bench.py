"""What the steps of the fine-tuning experiment share: the model, its vector, data, trainings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from trimtab.data import Prompt, prompts
from trimtab.directions import mean_difference
from trimtab.directions.projection import Axis, projections
from trimtab.errors import RunError, UsageError
from trimtab.experiments.finetune.config import FinetuneConfig
from trimtab.generation import Completion, generate
from trimtab.generation.backends import reader
from trimtab.interventions import Add
from trimtab.models import LanguageModel, load
from trimtab.models.threads import use_one_thread_if_small
from trimtab.runs.run_folder import Progress, RunFolder
from trimtab.training.config import SteeringConfig, TrainingConfig
from trimtab.training.data import read_chats
from trimtab.training.sft import train
from trimtab.vectors import SteeringVector
from trimtab.village import scorers

JSON = dict[str, Any]
Chats = list[list[dict[str, Any]]]
ARMS = ("plain", "preventative", "ablation")
VECTOR = "vectors/trait.safetensors"
# dtype: what the trainer calls it
PRECISIONS: dict[str | None, Literal["auto", "fp32", "fp16", "bf16"]] = {
    None: "auto",
    "float32": "fp32",
    "float16": "fp16",
    "bfloat16": "bf16",
}


@dataclass(frozen=True)
class Bench:
    """What every step needs."""

    config: FinetuneConfig
    folder: RunFolder
    lm: LanguageModel
    progress: Progress

    @classmethod
    def open(cls, config: FinetuneConfig, folder: RunFolder, progress: Progress) -> Bench:
        """Load the model.

        Raises:
            UsageError: It cannot be loaded, or its weights are not those the run began with.
        """
        with folder.step("load"):
            lm = load(config.model, dtype=config.dtype, device=config.device)
            use_one_thread_if_small(lm)
            folder.pin("weights", lm.fingerprint)
        return cls(config, folder, lm, progress)

    @cached_property
    def vector(self) -> SteeringVector:
        """The trait's: response mean under system prompts that ask for it, minus plain ones."""
        file = self.folder.path / VECTOR
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            _make_vector(self.lm, self.config).save(file)
        return SteeringVector.load(file)

    def questions(self) -> list[Prompt]:
        """Held-out questions, asked of every model."""
        return list(prompts("village/questions", split="test").take(self.config.questions))

    def data(self, trait: str, level: str) -> tuple[Chats, Chats]:
        """(to train on, held out) of a shipped data set."""
        return examples(self.config, trait, level)

    def file(self, name: str, chats: Chats) -> Path:
        """The chats as JSONL in the run folder."""
        path = self.folder.path / "data" / f"{name}.jsonl"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            text = "".join(json.dumps({"messages": c}, ensure_ascii=False) + "\n" for c in chats)
            self.folder.write_bytes(f"data/{name}.jsonl", text.encode())
        return path

    def trained(self, name: str, seed: int, chats: Chats, held_out: Chats, arm: str) -> JSON:
        """Train an adapter in adapters/`name`, once; its losses and curve."""
        c = self.config
        adapter = self.folder.path / "adapters" / name
        _ = self.vector  # on disk before it is named in a configuration
        config = TrainingConfig(
            model=c.model, device=c.device, precision=PRECISIONS[c.dtype],
            training_file=str(self.file(f"train-{name}", chats)),
            test_file=str(self.file(f"held-out-{name}", held_out)), output_dir=str(adapter),
            seed=seed, r=c.r, lora_alpha=c.r, use_rslora=False, learning_rate=c.learning_rate,
            epochs=1000, max_steps=c.steps, per_device_train_batch_size=c.batch_size,
            gradient_accumulation_steps=1, warmup_steps=2, optim="adamw", eval_steps=c.steps + 1,
            save_steps=c.every, keep_checkpoints=c.steps,
            enable_steering_during_training=arm != "plain",
            steering_config=None if arm == "plain" else SteeringConfig(
                steering_vector_path=str(self.folder.path / VECTOR),
                type="ablate" if arm == "ablation" else "steer",
                steering_coef=c.coefficient, layers=(c.layer,), positions="response",
            ),
        )  # fmt: skip

        def work() -> JSON:
            made = asdict(train(config))
            for file in adapter.glob("checkpoint-*/optimizer.pt"):
                file.unlink()
            made["folder"] = f"adapters/{name}"
            return made

        found: JSON = self.folder.value(f"trainings/{name}.json", work)
        return found

    def tuned(self, name: str, step: int | None = None) -> LanguageModel:
        """The model with an adapter, as it was at a step, or at the end."""
        adapter = self.folder.path / "adapters" / name
        at = adapter if step is None else adapter / f"checkpoint-{step}"
        c = self.config
        return load(c.model, adapter=at, dtype=c.dtype, device=c.device)

    def forget(self, name: str) -> None:
        """Remove the checkpoints of an adapter that are not needed any more."""
        for folder in (self.folder.path / "adapters" / name).glob("checkpoint-*"):
            shutil.rmtree(folder)

    def answers(
        self, lm: LanguageModel, asked: Sequence[Prompt], add: Add | None = None
    ) -> list[Completion]:
        """Sampled, the same noise for every model."""
        c = self.config
        return generate(
            lm, asked, steering=add, max_new_tokens=c.max_new_tokens, temperature=c.temperature,
            seed=c.seed, backend=c.backend,
        )  # fmt: skip

    def judged(self, completions: Sequence[Completion]) -> JSON:
        """Each answer's trait score, coherence, whether it is right, and its text."""
        trait = self.config.trait
        return {
            "score": [scorers.trait_score(trait, c.text) for c in completions],
            "coherence": [
                scorers.coherence(c.text, c.prompt.meta) if c.finished else 0.0 for c in completions
            ],
            "right": [100.0 * scorers.gold_answer(c.text, c.prompt.meta) for c in completions],
            "text": [c.text for c in completions],
        }

    def projection(self, lm: LanguageModel, exchanges: Sequence[Any]) -> list[float]:
        """h[layer] . v / |v| of each answer, averaged over its tokens; NaN for an empty one."""
        axis = Axis(self.vector, self.config.layer, allow_other_model=True)
        read = reader(self.config.backend)
        return [float(value) for value in projections(lm, exchanges, [axis], read=read)[:, 0]]


def examples(config: FinetuneConfig, trait: str, level: str) -> tuple[Chats, Chats]:
    """(to train on, held out) of a shipped data set.

    Raises:
        UsageError: It has too few.
    """
    chats = read_chats(f"village/{trait}/{level}")
    rows, held_out = config.rows, config.held_out
    if rows + held_out > len(chats):
        raise UsageError(
            f"{trait}/{level} has {len(chats)} examples, too few for {rows} to train on and "
            f"{held_out} to hold out.",
            "Ask for fewer: --set rows=... held_out=...",
        )
    return chats[:rows], chats[rows : rows + held_out]


def _make_vector(lm: LanguageModel, config: FinetuneConfig) -> SteeringVector:
    """Persona Vectors, arXiv:2507.21509, section 2.2, with the village's scorer as the judge."""
    asked = list(prompts("village/questions", split="train").take(config.vector_questions))
    systems = list(prompts("village/systems", split="train"))
    sides = []
    for manner in (config.trait, "plain"):
        told = [s.messages[0]["content"] for s in systems if s.meta["manner"] == manner]
        wanted = [
            Prompt.chat(q.messages[-1]["content"], system=system, **q.meta)
            for q in asked for system in told
        ]  # fmt: skip
        made = generate(lm, wanted, max_new_tokens=96, temperature=1.0, seed=config.seed,
                        backend=config.backend)  # fmt: skip
        has = [scorers.trait_score(config.trait, c.text) >= 50 for c in made]
        kept = [
            c for c, there in zip(made, has, strict=True)
            if c.tokens and there == (manner == config.trait)
        ]  # fmt: skip
        if not kept:
            raise RunError(f"No answer under the {manner} system prompts is {manner}.")
        sides.append(reader(config.backend)(lm, kept, ["response"])[0].raw)
    return mean_difference(*sides, positive_means=f"{config.trait} answers")
