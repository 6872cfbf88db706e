"""`trimtab monitor`: how a conversation drifts along a vector."""

from pathlib import Path


def monitor(
    *,
    model: str,
    vector: Path,
    layer: int,
    file: Path,
    out: Path | None = None,
    allow_other_model: bool = False,
) -> None:
    """Follow a conversation: the projection of each assistant turn, as a table and a plot.

    Parameters
    ----------
    model
        "village", a Hugging Face id, or a folder.
    vector
        A vector file.
    layer
        Residual index, 0 to n.
    file
        A conversation in JSON or JSONL.
    out
        The table; the plot gets the same name. By default beside FILE, with _drift.
    allow_other_model
        Accept a vector of another model of the same shape.
    """
    from trimtab.cli.project import first_look, opened
    from trimtab.directions.conversation import drift, read_conversations
    from trimtab.directions.projection import Axis
    from trimtab.files import write_atomic
    from trimtab.models import load
    from trimtab.runs.monitoring.figures import draw_drift
    from trimtab.tables import csv_text

    conversations = read_conversations(file)
    first_look(model, [vector], [layer], chats=True)
    lm = load(model)
    axis = Axis(opened(lm, vector, [layer]), layer, allow_other_model)
    turns = drift(lm, conversations, axis)
    table: list[list[object]] = []
    table.append(["conversation", "turn", "prompt_last_proj", "proj", "change", "text"])
    first = {turn.conversation: turn.response for turn in reversed(turns)}
    print(f"{'conversation':>12} {'turn':>5} {'before':>9} {'answer':>9} {'change':>9}")
    for t in turns:
        change = t.response - first[t.conversation]
        table.append([t.conversation, t.turn, t.before, t.response, change, t.text])
        numbers = f"{t.before:>+9.3f} {t.response:>+9.3f} {change:>+9.3f}"
        print(f"{t.conversation:>12} {t.turn:>5} {numbers}")
    target = out or file.with_name(f"{file.stem}_drift.csv")
    write_atomic(target, csv_text(table))
    title = f"{vector.stem} at h[{layer}]"
    plots = draw_drift(turns, title, target.parent, target.stem)
    print(f"table: {target}\nplot: {plots[0]}")
