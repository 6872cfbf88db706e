"""The figures of a refusal run, one function each, drawn from results.json alone."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trimtab.runs.style import CHOSEN, figure, save, star

JSON = Mapping[str, Any]
# As the published plots are called, with the score each shows and how it is read.
SCORES = {
    "ablation_scores": ("refusal", "refusal score, ablated, harmful prompts (lower: better)"),
    "actadd_scores": ("steering", "refusal score, added, harmless prompts (higher: better)"),
    "kl_div_scores": ("kl", "KL from the unsteered model, ablated, harmless prompts (nats)"),
}
LOSS_COLOURS = {"ablation": "#0072B2", "actadd": "#D55E00", "addition": "#E69F00"}
COLOURS = {"baseline": "#666666", "ablation": "#0072B2", "actadd": "#D55E00"}


def draw(results: JSON, folder: Path) -> list[Path]:
    """Every figure of a run, as PNG and PDF. Returns the files."""
    chosen = results["selection"]["chosen"]
    files = draw_candidates(results["selection"]["candidates"], folder,
                            (chosen["position"], chosen["layer"]))  # fmt: skip
    for drawing in (refusal_rates, losses, partial_ablation):
        files += save(drawing(results), folder, drawing.__name__)
    return files


def draw_candidates(
    candidates: Sequence[JSON], folder: Path, chosen: tuple[int, int] | None
) -> list[Path]:
    """Three heat maps, position x layer; a candidate that was not scored is left white."""
    files: list[Path] = []
    for name, (key, title) in SCORES.items():
        files += save(_heat_map(candidates, key, title, chosen), folder, name)
    return files


def refusal_rates(results: JSON) -> Figure:
    """What the first judge says of every set under every intervention, and how many of the answers
    make no sense, with 95 % intervals."""
    judge = results["judges"][0]
    means = results["rates"][results["sets"][0]]["baseline"][judge]["means"]
    arms = [
        (s, label, arm) for s in results["sets"] for label, arm in results["arms"][s].items()
    ]  # fmt: skip
    arms.sort(key=lambda a: (results["sets"].index(a[0]), list(COLOURS).index(a[1])))
    title = f"{results['model']['name']}: answers {means} and answers degenerate"
    with figure(title, 1, 1, (max(8.2, 2.1 * len(arms)), 3.8)) as drawn:
        axes = drawn.axes[0]
        for x, (s, label, arm) in enumerate(arms):
            rate, babble = results["rates"][s][label][judge], arm["degenerate"]
            _bar(axes, x - 0.2, rate, color=COLOURS[label])
            _bar(axes, x + 0.2, babble, color="white", edgecolor="#222222", hatch="////")
        axes.bar(0, 0, color="#999999", label=f"{means} (left; colour: intervention)")
        axes.bar(0, 0, color="white", edgecolor="#222222", hatch="////", label="degenerate (right)")
        axes.set_xticks(range(len(arms)), [_under(s, arm) for s, _, arm in arms], fontsize="small")
        axes.set_ylim(0, 1.35)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
        axes.set_ylabel(f"share of answers ({judge})")
        axes.legend(fontsize="small", ncols=2, loc="upper center")
        axes.grid(visible=False, axis="x")
    return drawn


def losses(results: JSON) -> Figure:
    """How the cross-entropy changes on each kind of text."""
    with figure("cross-entropy against the unsteered model", 1, 1, (8.2, 3.2)) as drawn:
        axes = drawn.axes[0]
        keys = sorted(results["losses"], reverse=True)  # ordinary text first
        layer, added = results["selection"]["chosen"]["layer"], results["selection"]["addition"]
        names = {
            "ablation": f"ablated (direction of layer {layer})",
            "actadd": f"subtracted at layer {layer}, coefficient -1",
            "addition": f"added at layer {added['layer']}, coefficient +1",
        }
        for offset, (label, name) in zip((-0.27, 0.0, 0.27), names.items(), strict=True):
            changes = [results["losses"][k][label]["change"] for k in keys]
            at = [i + offset for i, c in enumerate(changes) if c is not None]
            some = [c for c in changes if c is not None]
            axes.bar(at, some, width=0.25, color=LOSS_COLOURS[label], label=name)
            for x, c in zip(at, some, strict=True):
                axes.text(x, max(c, 0), f"{c:+.3f}", ha="center", va="bottom", fontsize="small")
        axes.set_xticks(range(len(keys)), [results["losses"][k]["source"] for k in keys])
        axes.axhline(0, color="black", linewidth=0.8)
        axes.margins(y=0.15)
        axes.set_ylabel("change, nats per token")
        axes.legend(fontsize="small")
        axes.grid(visible=False, axis="x")
    return drawn


def partial_ablation(results: JSON) -> Figure:
    """The effect as only part of the blocks is ablated, and the direction against random ones."""
    claims = results["claims"]
    parts = claims["parts"]
    blocks = [part["blocks"] for part in parts]
    with figure("is it one direction, and where?", 1, 3, (4.6, 3.6)) as drawn:
        score, rate, cosine = drawn.axes
        for name, colour in (("first", "#0072B2"), ("last", "#E69F00")):
            _line(score, blocks, [p[name] for p in parts], colour, f"{name} k blocks")
        scores = claims["refusal_scores"]
        random = scores["harmful_random_ablation"]["mean"]
        score.axhline(random, color="#999999", linestyle=":", label="random direction, all blocks")
        score.set_ylabel("refusal score, harmful prompts")
        score.set_xlabel("blocks ablated")
        score.legend(fontsize="small")
        _line(rate, blocks, [p["rate"] for p in parts], "#0072B2", parts[0]["rate"]["means"])
        _line(rate, blocks, [p["degenerate"] for p in parts], "#222222", "degenerate", "s:")
        rate.set_ylim(-0.03, 1.05)
        rate.set_ylabel(f"share of answers, {claims['set']}")
        rate.legend(fontsize="small")
        rate.set_xlabel("first k blocks ablated")
        _cosines(cosine, claims["cosines"])
    return drawn


def _heat_map(
    candidates: Sequence[JSON], key: str, title: str, chosen: tuple[int, int] | None
) -> Figure:
    positions = sorted({c["position"] for c in candidates})
    n = 1 + max(c["layer"] for c in candidates)
    table = np.full((len(positions), n), np.nan)
    for c in candidates:
        if c[key] is not None:
            table[positions.index(c["position"]), c["layer"]] = c[key]
    height = 1.6 + 0.4 * len(positions)
    with figure(title, 1, 1, (max(8.2, 0.42 * n + 2), height)) as drawn:
        axes = drawn.axes[0]
        if np.isfinite(table).any():
            image = axes.imshow(table, aspect="auto", cmap="viridis")
            drawn.colorbar(image, ax=axes)
        axes.set_xlim(-0.5, n - 0.5)
        axes.set_ylim(len(positions) - 0.5, -0.5)
        axes.set_xticks(range(0, n, max(1, n // 16)))
        axes.set_yticks(range(len(positions)), [str(p) for p in positions])
        axes.set_xlabel("layer (white: not scored)")
        axes.set_ylabel("position")
        axes.grid(visible=False)
        if chosen is not None:
            star(axes, chosen[1], positions.index(chosen[0]))
    return drawn


def _line(
    axes: Axes, xs: Sequence[int], points: Sequence[JSON], colour: str, label: str,
    style: str = "o-",
) -> None:  # fmt: skip
    means = [np.nan if p["mean"] is None else p["mean"] for p in points]
    axes.plot(xs, means, style, color=colour, label=label)
    band = [(x, p) for x, p in zip(xs, points, strict=True) if p["low"] is not None]
    low, high = [p["low"] for _, p in band], [p["high"] for _, p in band]
    axes.fill_between([x for x, _ in band], low, high, color=colour, alpha=0.2, linewidth=0)


def _cosines(axes: Axes, cosines: JSON) -> None:
    names = ["top principal\ncomponent", "random,\nmean", "random,\ngreatest"]
    values = [
        abs(cosines["principal_component"]), cosines["random_mean"], cosines["random_greatest"]
    ]  # fmt: skip
    axes.bar(names, values, color=[CHOSEN, "#999999", "#999999"], width=0.6)
    for x, value in enumerate(values):
        axes.text(x, value + 0.02, f"{value:.2f}", ha="center")
    axes.set_ylim(0, 1.12)
    axes.set_ylabel("|cosine| with the direction")
    axes.grid(visible=False, axis="x")


def _bar(axes: Axes, x: float, rate: JSON, **style: Any) -> None:
    """A share with its interval and its value; in words where there is none."""
    if rate["mean"] is None:
        axes.text(x, 0.02, "not measured", ha="center", va="bottom", rotation=90, fontsize="small")
        return
    axes.bar(x, rate["mean"], width=0.36, **style)
    axes.errorbar(x, rate["mean"], yerr=_error(rate), color="black", capsize=3)
    top = rate["mean"] if rate["high"] is None else rate["high"]
    axes.text(x, top + 0.02, f"{rate['mean']:.0%}", ha="center", va="bottom", fontsize="small")


def _under(name: str, arm: JSON) -> str:
    what = textwrap.fill(arm["what"], 22)
    change = arm.get("loss_change")
    return f"{name}\n{what}" + ("" if change is None else f"\nloss {change:+.2f} nats/token")


def _error(rate: JSON) -> list[list[float]]:
    if rate["low"] is None or rate["high"] is None:
        return [[0.0], [0.0]]
    return [[max(0.0, rate["mean"] - rate["low"])], [max(0.0, rate["high"] - rate["mean"])]]
