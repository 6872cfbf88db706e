"""The numbers of a toxicity run from rows made by hand: pairs, prompts, bounds, corrections."""

import math

import pytest
import torch
from scipy import stats

from trimtab.data import Prompt, prompts
from trimtab.experiments.toxicity import findings, numbers, sweep
from trimtab.experiments.toxicity.bench import Bench
from trimtab.experiments.toxicity.config import ToxicityConfig
from trimtab.experiments.toxicity.loss import ordinary
from trimtab.generation import Completion
from trimtab.models import load
from trimtab.runs.completions import UNSTEERED, Cell, Scored
from trimtab.runs.run_folder import quiet
from trimtab.scoring import Loss
from trimtab.statistics import estimates as statistics
from trimtab.vectors import Provenance, SteeringVector

PLAIN, CIRCLES = "a b c d e f", "a a a a a a a a"


def row(score, cell=UNSTEERED, name="p", sample=0, text=PLAIN, subset="challenging", **more):
    prompt = Prompt.raw(name, subset=subset, split="test", toxicity=more.pop("toxicity", 1.0))
    made = Completion(prompt, (1, 2), text, more.pop("finished", True), sample=sample)
    return Scored(cell, made, score)


def test_rows_are_paired_by_prompt_and_sample_and_a_prompt_counts_once():
    before = [row(0.1 * i + 0.05 * s, name=f"{i}", sample=s) for i in range(8) for s in range(2)]
    shifts = [0.02 * i * (1 - 0.1 * s) for i in range(8) for s in range(2)]
    after = [Scored(Cell(1, 1.0), b.completion, b.score - x)
             for b, x in zip(before, shifts, strict=True)]  # fmt: skip
    found = numbers.effect(before[::-1], after[3:], 0)
    left = [shifts[3], *(sum(shifts[i : i + 2]) / 2 for i in range(4, 16, 2))]
    assert found.n == 7
    assert found.mean == pytest.approx(sum(left) / 7)
    assert found.sd == pytest.approx(torch.tensor(left).std().item(), rel=1e-4)
    mean = numbers.estimate(before, 0)
    by_prompt = [0.1 * i + 0.025 for i in range(8)]
    expected = statistics.mean_interval(by_prompt, seed=0)
    assert (mean["n"], mean["mean"]) == (8, pytest.approx(sum(by_prompt) / 8))
    assert (mean["low"], mean["high"]) == pytest.approx((expected.low, expected.high))


def analysis():
    """Four layers x two coefficients; of each layer the loss and the repetition are told."""
    config = ToxicityConfig.read({"model": "m", "coefficients": [0, 1, 2], "max_loss_increase": 0.3,
                                  "max_repetition_increase": 0.1})  # fmt: skip
    names = [f"{i}" for i in range(10)]
    baseline = [row(0.5 + 0.01 * i, name=n) for i, n in enumerate(names)]
    rows, losses = [], {UNSTEERED: Loss(20, 0, 10)}
    for layer, (rise, circling) in enumerate([(1, 0), (4, 0), (1, 2), (3, 1)], 1):
        for c in (1.0, 2.0):
            cell = Cell(layer, c)
            losses[cell] = Loss(20 + rise, 2, 10)
            rows += [
                row(b.score - 0.02 * c * layer * (i % (layer + 1) - 0.4), cell, n,
                    text=CIRCLES if i < circling else PLAIN)
                for i, (b, n) in enumerate(zip(baseline, names, strict=True))
            ]  # fmt: skip
    return numbers.layer_analysis(config, 4, baseline, rows, losses)


def test_cells_are_eligible_within_both_bounds():
    found = {(c["layer"], c["coefficient"]): c for c in analysis()["cells"]}
    assert {layer: found[layer, 1.0]["eligible"] for layer in range(1, 5)} == {
        1: True, 2: False, 3: False, 4: True,
    }  # fmt: skip
    assert found[2, 1.0]["loss"]["change"] == pytest.approx(0.4)
    assert found[3, 2.0]["repetition"] == pytest.approx(0.2)


def test_p_values_are_corrected_over_cells_and_over_layers():
    found = analysis()
    p = [c["subsets"]["challenging"]["effect"]["p"] for c in found["cells"]]
    adjusted = [c["p_corrected"] for c in found["cells"]]
    assert adjusted == pytest.approx(stats.false_discovery_control(p))
    assert adjusted != pytest.approx(p)
    numbers.refer(found, 1.0)
    by_layer = [e["effect"]["p"] for e in found["effectiveness"]]
    assert by_layer == p[::2]
    order = sorted(range(4), key=lambda i: by_layer[i])
    holm, highest = {}, 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (4 - rank) * by_layer[i]))
        holm[i] = highest
    corrected = [e["p_corrected"] for e in found["effectiveness"]]
    assert corrected == pytest.approx([holm[i] for i in range(4)])
    assert corrected != pytest.approx(by_layer)


def test_each_layer_is_told_at_the_reference_and_at_its_best():
    found = analysis()
    numbers.refer(found, 1.0)
    for one in found["effectiveness"]:
        means = [e["mean"] for e in one["by_coefficient"]]
        assert one["effect"]["mean"] == means[0]
        assert one["best_coefficient"] == (1.0, 2.0)[means.index(max(means))]
        assert one["best_effect"]["mean"] == max(means)
    assert {e["best_coefficient"] for e in found["effectiveness"]} == {2.0}
    depths = [e["depth"] for e in found["effectiveness"]]
    assert depths == ["early", "middle", "late", "late"]


def test_shape_likelihood_and_samples_are_those_of_their_rows():
    rows = [row(0.1, text=CIRCLES, name="0"), *(row(0.1, name=f"{i}", finished=i != 1)
                                                for i in (1, 2, 3))]  # fmt: skip
    found = numbers.text_statistics(rows)
    assert (found["repetition"], found["finished"], found["tokens"]) == (0.25, 0.75, 2)
    assert found["distinct_1"] == pytest.approx((1 / 8 + 3) / 4)
    assert found["distinct_2"] == pytest.approx((1 / 7 + 3) / 4)
    own = {(UNSTEERED, *numbers.key(r)): Loss(3.0, 0, 2) for r in rows}
    losses = {UNSTEERED: Loss(20.0, 0.0, 10)}
    assert sweep.unsteered(rows, losses, own)["log_probability"] == -1.5
    before = [row(x, name=f"{x}", text=f"before {x}") for x in (0.2, 0.9, 0.5)]
    before += [row(0.0, name="mild", text="before mild", subset="benign")]
    after = [row(b.score / 2, Cell(1, 1.0), b.prompt.text, text="after", subset=b.subset)
             for b in before]  # fmt: skip
    shown = sweep.samples(before, after)
    assert [s["prompt"] for s in shown] == ["0.9", "0.5", "0.2", "mild"]
    assert (shown[0]["baseline"], shown[0]["baseline_score"]) == ("before 0.9", 0.9)
    assert (shown[0]["steered"], shown[0]["steered_score"]) == ("after", 0.45)


def test_findings_hold_by_their_intervals():
    names = [f"{i}" for i in range(9)]
    falling = [0.5, 0.1, 0.6, 0.2, 0.7, 0.1, 0.4, 0.3, 0.2]
    weak = [row(y, name=n, toxicity=i / 9)
            for i, (n, y) in enumerate(zip(names, falling, strict=True))]  # fmt: skip
    found = findings.prompt_against_completion(weak, 0)
    assert found["spearman"]["value"] < 0 < found["spearman"]["high"]
    assert not found["inverted"]
    steered = [row(y / 3, Cell(1, 1.0), n) for n, y in zip(names, falling, strict=True)]
    least = findings.smallest_detectable(weak, steered, 0)
    sd = torch.tensor(falling).mul(2 / 3).std().item()
    expected = statistics.smallest_detectable(sd, 9, power=0.8)
    assert least["challenging"] == pytest.approx(expected, rel=1e-4)
    rows = [row(0.5 - 0.1 * layer * c, Cell(layer, c), n)
            for layer in (1, 2, 3) for c in (1.0, 2.0) for n in names]  # fmt: skip
    depth = findings.by_depth([row(0.5, name=n) for n in names], rows, 1.0, 3, 0)
    means = [depth[third]["mean"] for third in ("early", "middle", "late")]
    assert means == pytest.approx([0.1, 0.2, 0.3])


def test_chance_is_the_share_of_random_directions_that_do_as_well():
    names = [f"{i}" for i in range(4)]
    test = [row(0.5, name=n) for n in names]
    cells = [Cell(1, 1.0, i) for i in range(4)]
    losses = {cell: Loss(8 + i, 0, 10) for i, cell in enumerate([UNSTEERED, *cells])}

    def controls(mean, *means):
        steered = [row(mean, Cell(1, 1.0), name=n) for n in names]
        rows = [row(m, c, name=n) for c, m in zip(cells, means, strict=True) for n in names]
        return sweep.random_controls(test, steered, rows, losses, 0)

    found = controls(0.2, 0.1, 0.2, 0.4, 0.6)
    assert found["effects"] == pytest.approx([0.4, 0.3, 0.1, -0.1])
    assert (found["effect"], found["greatest"]) == pytest.approx((0.3, 0.4))
    assert (found["n"], found["exceeded"], found["as_good"], found["p"]) == (4, 2, 2, 3 / 5)
    assert found["loss_changes"] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    found = controls(0.2, math.nan, 0.2, 0.4, 0.6)  # one has no scores: it says nothing
    assert (found["greatest"], found["p"]) == (pytest.approx(0.3), 2 / 4)
    assert math.isnan(controls(math.nan, 0.1, 0.2, 0.4, 0.6)["p"])
    assert math.isnan(controls(0.2, *[math.nan] * 4)["p"])


def test_every_control_is_a_direction_of_its_own():
    torch.manual_seed(0)
    vector = SteeringVector(torch.randn(4, 6), Provenance(n_layers=3, d_model=6))
    config = ToxicityConfig.read({"model": "m", "seed": 7})
    bench = Bench(config, None, None, None, None, quiet)
    cells = [Cell(2, 1.5), Cell(2, 1.5, 0), Cell(2, 1.5, 1)]
    made = [item for _, item in bench.steered(vector, cells)]
    assert all((item.layer, item.coefficient) == (2, 1.5) for item in made)
    rows = [item.vector[2] for item in made]
    assert torch.equal(rows[0], vector[2])
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert abs(float(torch.cosine_similarity(rows[a], rows[b], dim=0))) < 0.99
        torch.testing.assert_close(rows[a].norm(), rows[b].norm())


def test_rude_scenes_are_no_ordinary_text():
    lm = load("village", device="cpu")
    config = ToxicityConfig.read({"ordinary_text": "village/scenes:test", "ordinary_texts": 10_000})
    found = ordinary(lm, config, [])
    scenes = [p for p in prompts("village/scenes:test") if p.meta.get("tone") != "rude"]
    assert len(found) == len(scenes) < len(list(prompts("village/scenes:test")))
    assert math.isclose(min(s.start for s in found), 1)
