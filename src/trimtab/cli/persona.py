"""`trimtab persona`: the steps of the persona experiment, one at a time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

Instruction = Literal["pos", "neg", "none"]
Positions = Literal["response", "prompt", "all"]
Backend = Literal["transformers", "transformer_lens", "vllm"]
COLUMNS = "{:>6} {:>12} {:>8} {:>10}"


def evaluate(
    *,
    model: str = "village",
    trait: str,
    out: Path,
    trait_folder: Path | None = None,
    version: Literal["extract", "eval"] = "eval",
    instruction: Instruction = "none",
    assistant_name: str | None = None,
    n_per_question: int = 1,
    vector: Path | None = None,
    layer: int | None = None,
    coefficient: Annotated[float, Parameter(alias="--alpha")] = 0.0,
    positions: Positions = "response",
    adapter: str | None = None,
    judge: str | None = None,
    judge_url: str | None = None,
    judge_cache: Path | None = None,
    dry_run: bool = False,
    max_new_tokens: int = 256,
    temperature: float | None = None,
    seed: int = 0,
    overwrite: bool = False,
    allow_other_model: bool = False,
    backend: Backend = "transformers",
) -> None:
    """Answers to a trait's questions, steered or not, with their scores, as a CSV table.

    A table that is already there is not made again: its missing scores are judged again, or all of
    them by another judge. If it was made otherwise (another model, coefficient, seed ...), that is
    an error.

    Parameters
    ----------
    model
        "village", a Hugging Face id, a folder, or a training's folder (its latest checkpoint).
    trait
        A trait in the package or in --trait-folder, or a JSON file.
    out
        The CSV file.
    trait_folder
        Where trait files are.
    version
        Whose questions.
    instruction
        Which of the trait's system prompts: pos, neg, or none.
    assistant_name
        In "You are a ... assistant."; by default the trait for pos, helpful for neg.
    n_per_question
        Answers to each question under each instruction.
    vector
        A vector file to steer by.
    layer
        Residual index to steer at.
    coefficient
        In units of the vector; 0 runs through the same engine.
    positions
        Which tokens are steered.
    adapter
        A PEFT adapter.
    judge
        village, openai:MODEL or hf:MODEL; left out: village for the village, else gpt-4.1-mini.
    judge_url
        An OpenAI-compatible endpoint.
    judge_cache
        An SQLite file that keeps its answers; beside the table if left out.
    dry_run
        Say what judging would cost, and judge nothing.
    max_new_tokens
        The most tokens of an answer.
    temperature
        Left out: 0 for one answer a question, else 1.
    seed
        Of the sampling.
    overwrite
        Make a table that is already there again.
    allow_other_model
        Steer a model that the vector was not made on, such as a fine-tuned one.
    backend
        What generates; transformer_lens and vllm are extras.
    """
    from trimtab.experiments.persona import evaluation

    evaluation.evaluate(
        evaluation.Evaluation(
            model=model, trait=trait, out=out, trait_folder=trait_folder, version=version,
            side=None if instruction == "none" else instruction, assistant_name=assistant_name,
            samples=n_per_question, vector=vector, layer=layer, coefficient=coefficient,
            positions=positions, adapter=adapter, judge=judge, judge_url=judge_url,
            judge_cache=judge_cache, dry_run=dry_run, max_new_tokens=max_new_tokens,
            temperature=temperature, seed=seed, overwrite=overwrite,
            allow_other_model=allow_other_model, backend=backend,
        ),
        print,
    )  # fmt: skip


def extract(
    *,
    model: str = "village",
    pos: Path,
    neg: Path,
    trait: str,
    out: Path,
    threshold: float = 50.0,
    adapter: str | None = None,
    backend: Backend = "transformers",
) -> None:
    """The trait's vectors from two judged tables, with the published filter.

    Writes {trait}_prompt_avg_diff, _response_avg_diff and _prompt_last_diff: .pt in the published
    layout (its last row is after the final norm) and .safetensors (its last row is before it).

    Parameters
    ----------
    model
        "village", a Hugging Face id, or a folder.
    pos
        Answers under the trait's instructions, from `trimtab persona evaluate`.
    neg
        Answers under the opposite ones, row by row.
    trait
        The column with the scores.
    out
        The folder of the vectors.
    threshold
        Positive answers must score at least this, negative ones below 100 minus this.
    adapter
        A PEFT adapter.
    backend
        What reads the activations; transformer_lens and vllm are extras.
    """
    from trimtab.experiments.checks import check_model
    from trimtab.experiments.persona import extraction
    from trimtab.experiments.persona.rollouts import read_table
    from trimtab.generation.backends import model_of, reader
    from trimtab.models import load
    from trimtab.models.threads import use_one_thread_if_small
    from trimtab.runs.config import ModelConfig

    with_trait, without = read_table(pos, trait), read_table(neg, trait)
    extraction.keep(
        with_trait, without, trait, threshold
    )  # a mistake shows before the model is loaded
    config = ModelConfig.read({"model": model, "adapter": adapter, "backend": backend})
    check_model(config, chats=True)
    lm = load(model, adapter=adapter)
    use_one_thread_if_small(lm)
    found = extraction.extract(
        model_of(backend, lm), with_trait, without, trait, threshold, reader(backend)
    )
    found.save(out)
    print(f"{found.kept}\nvectors: {out}")


def sweep(
    *,
    model: str = "village",
    trait: str,
    vector: Path,
    trait_folder: Path | None = None,
    layers: str | None = None,
    coefficients: str = "[0.5, 1.0, 1.5, 2.0, 2.5]",
    positions: Positions = "response",
    coherence_share: float = 0.75,
    n_per_question: int = 1,
    judge: str | None = None,
    judge_url: str | None = None,
    max_new_tokens: int = 96,
    seed: int = 0,
    backend: Backend = "transformers",
) -> None:
    """Trait score and coherence at every layer and coefficient, and the cell to choose.

    On the trait's extract questions: leave its eval questions for reporting.

    Parameters
    ----------
    model
        "village", a Hugging Face id, or a folder.
    trait
        A trait in the package or in --trait-folder.
    vector
        The vector file.
    trait_folder
        Where trait files are.
    layers
        Such as "[4, 5, 6]"; the middle half if left out.
    coefficients
        Such as "[1, 2]".
    positions
        Which tokens are steered.
    coherence_share
        A cell may be chosen if it keeps this share of the unsteered coherence.
    n_per_question
        Answers to each question in each cell.
    judge
        village, openai:MODEL or hf:MODEL; left out: village for the village, else gpt-4.1-mini.
    judge_url
        An OpenAI-compatible endpoint.
    max_new_tokens
        The most tokens of an answer.
    seed
        Of the sampling.
    backend
        What generates; transformer_lens and vllm are extras.
    """
    from trimtab.config import overrides
    from trimtab.experiments.persona import evaluation

    given = overrides([f"layers={layers or 'null'}", f"coefficients={coefficients}"])
    rows, chosen = evaluation.sweep(
        model=model, trait=trait, vector=vector, trait_folder=trait_folder, layers=given["layers"],
        coefficients=given["coefficients"], positions=positions, share=coherence_share,
        samples=n_per_question, judge=judge, judge_url=judge_url, max_new_tokens=max_new_tokens,
        seed=seed, backend=backend,
    )  # fmt: skip
    _print_cells(rows)
    print(f"chosen: layer {chosen['layer']}, coefficient {chosen['coefficient']:g}: "
          f"{chosen['rule']}")  # fmt: skip


def _print_cells(rows: Sequence[dict[str, Any]]) -> None:
    print(COLUMNS.format("layer", "coefficient", "score", "coherence"))
    for row in rows:
        layer, coefficient = (row[k] for k in ("layer", "coefficient"))
        print(COLUMNS.format(
            "-" if layer is None else layer,
            "unsteered" if coefficient is None else f"{coefficient:g}",
            f"{row['score']['mean']:.1f}", f"{row['coherence']['mean']:.1f}",
        ))  # fmt: skip
