"""`trimtab refusal`: the refusal experiment, one step at a time."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from trimtab.data import Prompt
    from trimtab.experiments.refusal.config import RefusalConfig
    from trimtab.models import LanguageModel

Ids = Annotated[list[int] | None, Parameter(consume_multiple=True)]
Off = Annotated[bool, Parameter(negative="--no-prompt-filter")]
Limits = Annotated[bool, Parameter(negative="--no-thresholds")]
Backend = Literal["transformers", "transformer_lens", "vllm"]
Template = Literal["own", "published"]
Part = Literal["train", "val", "test"]


def directions(
    *,
    model: str = "village",
    harmful: str | None = None,
    harmless: str | None = None,
    out: Path,
    prompt_filter: Off = False,
    refusal_tokens: Ids = None,
    chat_template: Template = "own",
    backend: Backend = "transformers",
) -> None:
    """Candidate directions: a difference of means at every end-of-instruction token and layer.

    Writes mean_diffs.pt, float64, [positions, layers, width].

    Parameters
    ----------
    model
        "village", a Hugging Face id, or a folder.
    harmful
        Requests to refuse: a prompt source, or a file of {instruction, category}, strings or lines.
        Left out: the village's for the village, else those of `trimtab data fetch refusal`.
    harmless
        Requests to answer, likewise.
    out
        The folder to write.
    prompt_filter
        Leave out prompts that the model does not refuse, or answer, by its refusal score.
    refusal_tokens
        Token ids that open a refusal, for the filter; left out: published, or measured.
    chat_template
        The tokenizer's own, or the published one of its family, which has no system turn.
    backend
        What runs the model; transformer_lens and vllm are extras.
    """
    from trimtab.experiments.refusal import files
    from trimtab.experiments.refusal.candidates import mean_differences
    from trimtab.vectors.formats.torch_file import write_tensor

    config = _config(model, chat_template, backend, harmful, harmless, refusal_tokens)
    lm, (bad, good) = _opened(config, _sources(config, "train", harmful, harmless))
    if prompt_filter:
        _, bad, good = _filtered(lm, bad, good, refusal_tokens, True)
    found = mean_differences(lm, bad, good)
    write_tensor(out / files.MEAN_DIFFS, found)
    files.write_model(out / files.MEAN_DIFFS, lm)
    print(f"directions: {out / files.MEAN_DIFFS} {list(found.shape)}, from {len(bad)} harmful and "
          f"{len(good)} harmless prompts")  # fmt: skip


def select(
    *,
    model: str = "village",
    directions: Path,
    harmful: str | None = None,
    harmless: str | None = None,
    out: Path,
    prompt_filter: Off = True,
    thresholds: Limits = True,
    exhaustive: bool = False,
    refusal_tokens: Ids = None,
    chat_template: Template = "own",
    backend: Backend = "transformers",
) -> None:
    """Choose the candidate that mediates refusal best at little cost.

    Writes direction.pt, direction_metadata.json, direction_evaluations.json, its _filtered.json
    and three plots.

    Parameters
    ----------
    model
        "village", a Hugging Face id, or a folder.
    directions
        The mean_diffs.pt of `trimtab refusal directions`.
    harmful
        Requests to refuse, to choose with: a prompt source or a file; left out as for directions.
    harmless
        Requests to answer, likewise.
    out
        The folder to write.
    prompt_filter
        Keep only prompts that the model refuses, or answers, by its refusal score.
    thresholds
        Drop candidates that change harmless answers, or do not induce refusal.
    exhaustive
        Score every candidate on everything.
    refusal_tokens
        Token ids that open a refusal; left out: published for the family, or measured.
    chat_template
        The tokenizer's own, or the published one of its family, which has no system turn.
    backend
        What runs the model; transformer_lens and vllm are extras.
    """
    from trimtab.experiments.refusal import candidates, files
    from trimtab.experiments.reports import plot_candidates

    diffs = files.read_mean_diffs(directions)
    config = _config(model, chat_template, backend, harmful, harmless, refusal_tokens)
    lm, (bad, good) = _opened(config, _sources(config, "val", harmful, harmless))
    tokens, bad, good = _filtered(lm, bad, good, refusal_tokens, prompt_filter)
    files.check_fits(diffs, lm, directions)
    limits = candidates.Thresholds() if thresholds else candidates.Thresholds(None, None)
    found = candidates.evaluate(
        lm, diffs, bad, good, tokens, thresholds=limits, exhaustive=exhaustive
    )
    files.write_evaluations(found, out)
    plot_candidates(out / files.EVALUATIONS, out)
    if all(c.dropped for c in found):
        print(files.filtered_out(found), file=sys.stderr)
    chosen = candidates.select(found)
    files.write_choice(chosen, diffs, out, lm)
    print(f"chosen: position {chosen.position}, layer {chosen.layer}; {out / 'direction.pt'}")


def complete(
    *,
    model: str = "village",
    direction: Path,
    harmful: str | None = None,
    harmless: str | None = None,
    out: Path,
    max_new_tokens: int | None = None,
    batch_size: int = 64,
    chat_template: Template = "own",
    backend: Backend = "transformers",
) -> None:
    """Greedy completions under ablation and addition of the direction, and without.

    Writes SET_LABEL_completions.json for each set and intervention.

    Parameters
    ----------
    model
        "village", a Hugging Face id, or a folder.
    direction
        The folder with direction.pt and direction_metadata.json.
    harmful
        Requests to refuse: a prompt source or a file; left out as for directions.
    harmless
        Requests to answer, likewise.
    out
        The folder to write.
    max_new_tokens
        The most tokens of a completion; left out: as in the experiment, 512, and 64 for the
        village.
    batch_size
        Completions made together.
    chat_template
        The tokenizer's own, or the published one of its family, which has no system turn.
    backend
        What runs the model; transformer_lens and vllm are extras.
    """
    from trimtab.experiments.refusal import files
    from trimtab.experiments.refusal.config import RefusalConfig
    from trimtab.generation import generate
    from trimtab.vectors.formats.refusal import read_refusal

    if max_new_tokens is None:
        max_new_tokens = RefusalConfig.read({"model": model}).max_new_tokens
    chosen = read_refusal(direction)
    config = _config(model, chat_template, backend, harmful, harmless)
    sources = _sources(config, "test", harmful, harmless)
    lm, (bad, good) = _opened(config, sources, max_new_tokens)
    files.check_fits(chosen.direction, lm, direction)
    sets = {files.set_name(sources[0]): bad, files.HARMLESS: good}
    for (name, prompts), arms in zip(
        sets.items(), files.arms(chosen.direction, chosen.layer), strict=True
    ):
        made = generate(lm, prompts, steering=list(arms.values()), max_new_tokens=max_new_tokens,
                        batch_size=batch_size, backend=backend)  # fmt: skip
        for i, label in enumerate(arms):
            path = out / f"{name}_{label}_completions.json"
            files.write_json(path, files.published_rows([c for c in made if c.cell == i]))
            print(f"completions: {path}")


def evaluate(
    completions: list[Path],
    /,
    *,
    judge: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    guard_model: str = "meta-llama/LlamaGuard-2-8b",
    guard_url: str | None = None,
    question: str | None = None,
) -> None:
    """Judge completions: which requests were met, and how many answers make no sense.

    Writes an _evaluations.json beside each file. A rate is of the completions that were judged.

    Parameters
    ----------
    completions
        Files SET_LABEL_completions.json, or folders of them.
    judge
        substring_matching (if left out), village/refusal, llamaguard or llm.
    guard_model
        The model of llamaguard and llm.
    guard_url
        An OpenAI-compatible endpoint of it, such as https://api.together.xyz/v1; left out: the
        model runs here. The key comes from TRIMTAB_GUARD_KEY, TOGETHER_API_KEY or OPENAI_API_KEY,
        in the environment or in .env.
    question
        The question of llm, with {prompt} and {response}; yes means harmful.
    """
    from trimtab.experiments.refusal import files
    from trimtab.experiments.refusal.coherence import degenerate
    from trimtab.scoring.jailbreak import jailbreak_judge as named

    village = any(name.startswith("village/") for name in judge or ())
    rule: Literal["village", "repetition"] = "village" if village else "repetition"
    judges = [named(name, model=guard_model, url=guard_url, question=question)
              for name in judge or ["substring_matching"]]  # fmt: skip
    for path in files.completion_files(completions):
        rows = files.read_completions(path)
        verdicts = files.judge_rows(rows, judges)
        found = files.evaluation(rows, verdicts)
        target = path.with_name(path.name.replace("_completions.json", "_evaluations.json"))
        files.write_json(target, found)
        rates = ", ".join(
            f"{name} {_success(found[f'{name}_success_rate'], files.judged_of(verdict), len(rows))}"
            for name, verdict in verdicts.items()
        )
        babble = sum(degenerate(row["response"], rule) for row in rows) / len(rows)
        print(f"{target}: {rates}; degenerate answers {babble:.3f}")


def _success(rate: float | None, judged: int, of: int) -> str:
    if rate is None:
        return f"not measured (0 of {of} judged)"
    return f"{rate:.3f} ({judged} of {of} judged)"


def loss(
    *,
    model: str = "village",
    direction: Path,
    completions: Path | None = None,
    text_corpus: Annotated[str | None, Parameter(alias="--text")] = None,
    instructions: str | None = None,
    texts: int = 4096,
    tokens: int = 256,
    out: Path,
    chat_template: Template = "own",
    backend: Backend = "transformers",
) -> None:
    """Cross-entropy on text, instructions and own answers: unsteered, ablated, subtracted.

    Writes baseline_loss_eval.json, ablation_loss_eval.json and actadd_loss_eval.json.

    Parameters
    ----------
    model
        "village", a Hugging Face id, or a folder.
    direction
        The folder with direction.pt and direction_metadata.json.
    completions
        The harmless_baseline_completions.json of the model's own answers.
    text_corpus
        Ordinary text: a prompt source or a file; left out: the village's for the village, else
        texts of the Pile, from the hub.
    instructions
        Instructions with answers (chats, or an `output` beside each); left out likewise, or Alpaca.
    texts
        The most texts of each.
    tokens
        Texts are cut here.
    out
        The folder to write.
    chat_template
        The tokenizer's own, or the published one of its family, which has no system turn.
    backend
        What runs the model; transformer_lens and vllm are extras.
    """
    from trimtab.experiments.refusal import files
    from trimtab.experiments.refusal import loss as measured
    from trimtab.experiments.refusal.checks import look, loss_sources
    from trimtab.vectors.formats.refusal import read_refusal

    chosen = read_refusal(direction)
    if completions is not None:
        files.read_completions(completions)
    config = _config(
        model, chat_template, backend, text_corpus=text_corpus, instructions=instructions,
        loss_texts=texts,
    )  # fmt: skip
    look(config, loss_sources(config))
    lm = _loaded(config)
    files.check_fits(chosen.direction, lm, direction)
    found = measured.evaluate(
        lm, chosen, config.text_corpus, config.instructions, completions, texts, tokens
    )
    for label, value in found.items():
        files.write_json(out / f"{label}_loss_eval.json", value)
        print(f"{label}: " + ", ".join(f"{k} {v['ce_loss']}" for k, v in value.items()))


def _config(
    model: str,
    chat_template: str,
    backend: str,
    harmful: str | None = None,
    harmless: str | None = None,
    refusal_tokens: Sequence[int] | None = None,
    **more: object,
) -> "RefusalConfig":
    """The settings of a run that a step shares; what is left out is as in a run."""
    from trimtab.experiments.refusal.config import RefusalConfig

    given = {
        "model": model, "chat_template": chat_template, "backend": backend, "harmful": harmful,
        "harmless": harmless, "refusal_tokens": refusal_tokens, **more,
    }  # fmt: skip
    return RefusalConfig.read({key: value for key, value in given.items() if value is not None})


def _sources(
    config: "RefusalConfig", part: Part, harmful: str | None, harmless: str | None
) -> tuple[str, str]:
    """The sets of a step: those given, or that part of a run's."""

    def of(usual: str) -> str:
        return f"{usual}:{'dev' if part == 'val' and usual.startswith('village/') else part}"

    return harmful or of(config.harmful), harmless or of(config.harmless)


def _opened(
    config: "RefusalConfig", sources: tuple[str, str], new_tokens: int = 0
) -> "tuple[LanguageModel, list[list[Prompt]]]":
    from trimtab.experiments.checks import Source
    from trimtab.experiments.refusal.checks import look
    from trimtab.experiments.refusal.prompts import questions

    found: list[list[Prompt]] = []

    def read() -> None:
        found.extend(list(questions(source)) for source in sources)

    look(config, [Source(("harmful", "harmless"), sources, read)], new_tokens)
    return _loaded(config), found


def _loaded(config: "RefusalConfig") -> "LanguageModel":
    from trimtab.experiments.refusal.bench import as_run
    from trimtab.models import load

    return as_run(load(config.model), config.chat_template, config.backend)


def _filtered(
    lm: "LanguageModel",
    bad: "list[Prompt]",
    good: "list[Prompt]",
    chosen: Sequence[int] | None,
    wanted: bool,
) -> "tuple[list[int], list[Prompt], list[Prompt]]":
    """The refusal tokens, which are shown, and the prompts that pass."""
    from trimtab.experiments.refusal.prompts import kept, prompt_scores, refusal_tokens

    tokens = refusal_tokens(lm, chosen, bad, good)
    words = " ".join(f"{i} {t!r}" for i, t in zip(tokens["ids"], tokens["text"], strict=True))
    print(f"refusal tokens ({tokens['source']}): {words}", file=sys.stderr)
    if wanted:
        bad, good = (
            kept(some, prompt_scores(lm, some, tokens["ids"]), harmful=harmful, name=name)
            for some, harmful, name in ((bad, True, "harmful"), (good, False, "harmless"))
        )
    return tokens["ids"], bad, good
