"""`trimtab persona shift`: what a fine-tuning did to a trait, and what it cost."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trimtab.data import Prompt, PromptSet


def shift(
    *,
    base: str,
    tuned: Path,
    vector: Path,
    layer: int,
    trait: str | None = None,
    judge: str | None = None,
    prompts: str | None = None,
    text: str | None = None,
    n: int = 40,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
    out: Path | None = None,
) -> None:
    """Compare a fine-tuned model with its base: projection, trait score, and ability.

    Parameters
    ----------
    base
        "village", a Hugging Face id, or a folder.
    tuned
        The folder of an adapter, or of a whole model.
    vector
        A vector file of the trait, made on the base.
    layer
        Residual index, 0 to n.
    trait
        Name or file of the trait to be judged; without it only projection and ability.
    judge
        Who scores: village, openai:MODEL, or hf:MODEL; left out: village for the village, else
        gpt-4.1-mini.
    prompts
        Questions to ask: a file, or a set, of whose splits the test one. For the village its own if
        left out.
    text
        Ordinary text to read, likewise.
    n
        The most questions, and the most texts.
    max_new_tokens
        Of an answer.
    temperature
        Of an answer; 0 is greedy.
    seed
        Of an answer.
    out
        Write everything, answers included, to this JSON file.
    """
    from trimtab.cli.progress import progress
    from trimtab.cli.project import first_look, opened
    from trimtab.directions.projection import Axis
    from trimtab.errors import UsageError
    from trimtab.experiments.persona.config import PersonaConfig
    from trimtab.experiments.persona.traits import read_trait
    from trimtab.files import write_atomic
    from trimtab.models import load
    from trimtab.scoring.judge import check_judge, open_judge
    from trimtab.training.shift import check_tuned, load_tuned, measure
    from trimtab.village.identity import is_village

    config = PersonaConfig.read({"model": base} | ({"judge": judge} if judge else {}))
    metric = None
    if trait is not None:
        metric = read_trait(trait, "eval", family=config.family).metric
    if is_village(base):
        prompts, text = prompts or "village/questions", text or "village/plain"
    if prompts is None or text is None:
        raise UsageError(
            f"Without --prompts and --text there is nothing to ask {base} and nothing to read.",
            "Name questions and ordinary text: --prompts FILE --text FILE.",
        )
    asked, texts = list(_first(prompts, n)), [_words(p) for p in _first(text, n)]
    first_look(base, [vector], [layer], chats=any(p.messages for p in asked))
    check_tuned(base, tuned)
    if metric is not None:
        check_judge(config.judge, metrics=[metric.name])
    scorer = open_judge(config.judge) if metric is not None else None
    lm = load(base)
    axis = Axis(opened(lm, vector, [layer]), layer, allow_other_model=True)
    axis.vector.check(lm, layer)
    found = {}
    with progress() as tell:
        for name in ("before", "after"):
            one = lm if name == "before" else load_tuned(base, tuned)
            found[name] = measure(
                one, one, asked, axis, metric=metric, judge=scorer, texts=texts,
                max_new_tokens=max_new_tokens, temperature=temperature, seed=seed,
                progress=lambda done, of, name=name: tell(name, done, of),  # type: ignore[misc]
            )  # fmt: skip
    before, after = found["before"], found["after"]
    print(f"{'':<28} {'before':>9} {'after':>9} {'shift':>9}")
    _line("projection of answers", before.projection, after.projection)
    for metric_name in before.scores:
        _line(f"{metric_name} score", before.scores[metric_name], after.scores[metric_name])
    _line("loss on held-out text", before.loss, after.loss)
    _line("questions answered rightly", before.right, after.right)
    for name, state in found.items():
        for metric_name, missing in state.failed.items():
            if missing:
                print(f"{name}: {missing} of {len(asked)} answers have no {metric_name} score")
    if out is not None:
        states = {name: asdict(state) for name, state in found.items()}
        write_atomic(out, json.dumps(states, indent=2, ensure_ascii=False) + "\n")
        print(f"written: {out}")


def _first(source: str, n: int) -> "PromptSet":
    """At most `n` prompts, of the test split where a set has splits."""
    from trimtab.data import prompts

    parted = source.startswith("village/") and ":" not in source
    found = prompts(source, split="test" if parted else None)
    return found.take(min(n, len(found)))


def _words(prompt: "Prompt") -> str:
    return prompt.text or prompt.messages[-1]["content"]


def _line(name: str, before: float | None, after: float | None) -> None:
    if before is not None and after is not None:
        print(f"{name:<28} {before:>9.3f} {after:>9.3f} {after - before:>+9.3f}")
    else:
        words = ["none" if v is None else f"{v:.3f}" for v in (before, after)]
        if before is not None or after is not None:
            print(f"{name:<28} {words[0]:>9} {words[1]:>9}")
