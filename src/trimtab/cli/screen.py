"""`trimtab screen`: which rows of a training file would bring a trait in."""

from pathlib import Path


def screen(
    *,
    model: str,
    vector: Path,
    layer: int,
    file: Path,
    cheap: bool = False,
    drop: float | None = None,
    threshold: float | None = None,
    out: Path | None = None,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
    allow_other_model: bool = False,
) -> None:
    """Rank training examples by their answer's projection minus that of the model's own answer.

    Parameters
    ----------
    model
        The model that is to be trained: "village", a Hugging Face id, or a folder.
    vector
        A vector file of the trait.
    layer
        Residual index, 0 to n.
    file
        JSONL with messages, or CSV with prompt and answer.
    cheap
        Rank by the answer's projection alone; nothing is generated.
    drop
        Leave out this share of the examples that have a score, from the first rank on.
    threshold
        Leave out examples whose score is above this; one that equals it stays.
    out
        The file without them; by default beside FILE, with _filtered.
    max_new_tokens
        Of the model's own answers.
    temperature
        Of the model's own answers; 0 is greedy.
    seed
        Of the model's own answers.
    allow_other_model
        Accept a vector of another model of the same shape.
    """
    from trimtab.cli.progress import progress
    from trimtab.cli.project import asks_chats, first_look, opened
    from trimtab.directions.answer_file import read_answers
    from trimtab.directions.projection import Axis
    from trimtab.errors import UsageError
    from trimtab.files import write_atomic
    from trimtab.models import load
    from trimtab.runs.monitoring.figures import draw_histogram
    from trimtab.tables import csv_text
    from trimtab.training import screening

    if drop is not None and threshold is not None:
        raise UsageError("Both --drop and --threshold are given.", "Give one of them.")
    if out is not None and drop is None and threshold is None:
        raise UsageError("--out needs to know what to leave out.", "Give --drop or --threshold.")
    if drop is not None:
        screening.top_share([], drop)
    examples = read_answers(file)
    target = out or file.with_name(f"{file.stem}_filtered{file.suffix}")
    if target.suffix.lower() != file.suffix.lower() or target.resolve() == file.resolve():
        raise UsageError(f"{target} cannot take the rows of {file}.", "Choose another --out.")
    first_look(model, [vector], [layer], chats=asks_chats(examples.answers))
    lm = load(model)
    axis = Axis(opened(lm, vector, [layer]), layer, allow_other_model)
    with progress() as tell:
        ranked = screening.screen(
            lm, examples.answers, axis, cheap=cheap, max_new_tokens=max_new_tokens,
            temperature=temperature, seed=seed,
            progress=lambda done, of: tell("own answers", done, of),
        )  # fmt: skip
    left_out = 0
    if drop is not None:
        left_out = screening.top_share(ranked, drop)
    elif threshold is not None:
        left_out = screening.above(ranked, threshold)

    table: list[list[object]] = []
    table.append(["rank", "row", "score", "answer", "own", "prompt", "text"])
    for rank, one in enumerate(ranked, 1):
        prompt, text = examples.answers[one.row]
        asked = prompt.text or prompt.messages[-1]["content"]
        own = "" if one.own is None else one.own
        table.append([rank, one.row, one.score, one.answer, own, asked, text])
    ranks = file.with_name(f"{file.stem}_screened.csv")
    write_atomic(ranks, csv_text(table))
    label = "projection of the answer" if cheap else "projection difference"
    scores = [one.score for one in ranked]
    plot = draw_histogram(scores, left_out, label, file.parent, f"{file.stem}_screened")[0]
    unknown = sum(score != score for score in scores)
    if unknown:
        print(f"{unknown} examples have no score (an empty answer): they rank last and are kept.")
    print(f"ranks: {ranks}\nhistogram: {plot}")
    if drop is not None or threshold is not None:
        rows = sorted(one.row for one in ranked[left_out:])
        if not rows:
            raise UsageError(f"Every example is above {threshold:g}.", "Raise the threshold.")
        write_atomic(target, examples.only(rows))
        print(f"kept {len(rows)} of {len(ranked)}, all but ranks 1 to {left_out}: {target}"
              if left_out else f"kept all {len(rows)}: {target}")  # fmt: skip
