"""Self-contained HTML pages: one template each, pictures inside, no script, no outside file.

Also what every page begins with: the JSON files of a run.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from trimtab import parsing
from trimtab.errors import TrimtabError, UsageError
from trimtab.files import write_atomic


def number(value: float | None, digits: int = 3) -> str:
    """A number to read; a missing one is a dash."""
    return "–" if value is None else f"{value:.{digits}f}"


def signed(value: float | None, digits: int = 3) -> str:
    """A difference to read, with its sign."""
    return "–" if value is None else f"{value:+.{digits}f}"


def interval(estimate: dict[str, Any], digits: int = 3) -> str:
    """`0.42 [0.31, 0.53]`, or the mean alone where there is no interval; or "not measured: ..."."""
    if estimate.get("mean") is None and estimate.get("note", "").startswith("not measured"):
        return str(estimate["note"])
    if estimate.get("low") is None or estimate.get("high") is None:
        return number(estimate.get("mean"), digits)
    low, high = number(estimate["low"], digits), number(estimate["high"], digits)
    return f"{number(estimate['mean'], digits)} [{low}, {high}]"


def read_json(path: Path) -> Any:
    """What a JSON file of a run holds.

    Raises:
        UsageError: It is not there (the run is not finished), or is no JSON.
    """
    return parsing.read_json(path, "Finish the run first.")


@contextmanager
def saved(path: Path) -> Iterator[None]:
    """What goes wrong inside lies in the results saved at `path`, which may be from anywhere.

    Raises:
        UsageError: Drawing them fails: they are of another version, or were changed by hand.
    """
    try:
        yield
    except (TrimtabError, OSError):
        raise
    except Exception as error:  # a number where a mapping was due may fail in any way
        raise UsageError(
            f"{path} does not hold what this version of trimtab draws ({type(error).__name__}: "
            f"{error!s:.200}).",
            "Run the experiment's command again: it writes the results anew from what it kept.",
        ) from error


def read_json_if_there(path: Path) -> dict[str, Any]:
    """The same, or nothing where there is no such file."""
    found = read_json(path) if path.is_file() else {}
    return found if isinstance(found, dict) else {}


def captioned(figures: Sequence[Path], captions: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """(picture, caption) of each PNG among the figures, by its name."""
    return {p.stem: (picture(p), captions[p.stem]) for p in figures if p.suffix == ".png"}


def picture(path: Path) -> str:
    """A PNG as a data address, so that the page is one file."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def write_page(
    run: Path,
    experiment: str,
    draw: Callable[[dict[str, Any], Path], Sequence[Path]],
    captions: Mapping[str, str],
    **values: Any,
) -> Path:
    """Draw the figures of a finished run and write its report.html. Returns the page.

    Args:
        experiment: Its template is experiments/`experiment`/report.html.j2, which gets r (the
            results), manifest and figures.
        draw: Draws the results into a folder, and says which files it made.
        captions: By the name of a figure.
        values: What else the template takes.

    Raises:
        UsageError: The folder has no results.json (the run is not finished).
    """
    results = read_json(run / "results.json")
    return render(
        f"experiments/{experiment}/report.html.j2",
        run / "report.html",
        r=results,
        manifest=read_json_if_there(run / "manifest.json"),
        figures=captioned(draw(results, run / "plots"), captions),
        **values,
    )


def render(template: str, destination: Path, **values: Any) -> Path:
    """Fill a template of the package and write the page; everything in it is escaped."""
    pages = Environment(
        loader=PackageLoader("trimtab", ""), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    pages.filters.update(number=number, signed=signed, interval=interval)
    write_atomic(destination, pages.get_template(template).render(**values))
    return destination
