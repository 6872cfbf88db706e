"""Numbers of a fine-tuning run from hand-made answers: which arm, seed and step, which claim."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from scipy import stats

from trimtab.errors import UsageError
from trimtab.experiments.finetune.bench import Bench
from trimtab.experiments.finetune.config import FinetuneConfig
from trimtab.experiments.finetune.results import results
from trimtab.runs.run_folder import quiet

CONFIG = FinetuneConfig.read({"seeds": (0, 1), "steps": 4, "points": 2, "questions": 3,
                              "after": (-0.5, -1.5)})  # fmt: skip
LM: Any = SimpleNamespace(name="village", fingerprint="f", n_layers=10)


def judged(score: float, name: str, loss: float = 2.0) -> dict[str, Any]:
    """Three answers, whose scores lie 5 apart around the mean."""
    return {"score": [score - 5, score, score + 5], "coherence": [score / 2] * 3,
            "right": [score / 4] * 3, "text": [f"{name} {i}" for i in range(3)],
            "normal_loss": loss}  # fmt: skip


def found(scores: Sequence[float] = (0, 20, 40, 60, 80), **changes: float) -> dict[str, Any]:
    """Plain rises from 10 to 60 and 52 (its seeds), preventative to 20, ablation to 30."""
    values = {"before": 10.0, "plain-0": 60.0, "plain-1": 52.0, "kept": 20.0, "loss": 1.05,
              "auc": 0.97} | changes  # fmt: skip
    ends = {"plain": (values["plain-0"], values["plain-1"]),
            "preventative": (values["kept"], values["kept"]), "ablation": (30.0, 30.0)}  # fmt: skip
    losses = {"plain": (1.0, 1.0), "preventative": (values["loss"], 1.6), "ablation": (1.1, 1.2)}
    return {
        "before": judged(values["before"], "before"),
        "trainings": {
            arm: {str(s): {"held_out_loss": steered, "held_out_loss_unsteered": not_steered,
                           "curve": [{"step": 0, "projection odd": 1.0},
                                     {"step": 1, "loss": 3.0 + s}]} for s in (0, 1)}
            for arm, (steered, not_steered) in losses.items()
        },
        "arms": {
            arm: {str(s): {"2": judged(end[s] / 2, f"{arm}-{s}-2"),
                           "4": judged(end[s], f"{arm}-{s}-4", 2.0 + s)} for s in (0, 1)}
            for arm, end in ends.items()
        },
        "after": {
            "-0.5": {str(s): {"4": judged(40, f"half-{s}")} for s in (0, 1)},
            "-1.5": {str(s): {step: judged(15 + int(step), f"after-{s}-{step}")
                              for step in ("2", "4")} for s in (0, 1)},
        },
        "mixtures": [{"name": f"mixture {i}", "difference": float(i), "shift": 2.0 * i + i % 2,
                      "score": scores[i]} for i in range(5)],
        "screening": {"misaligned_2": {"auc": values["auc"]}},
    }  # fmt: skip


def made(**changes: Any) -> dict[str, Any]:
    vector: Any = {CONFIG.layer: torch.tensor([3.0, 4.0])}
    return results(CONFIG, LM, vector, found(**changes))


def test_every_mean_is_of_its_arm_at_the_last_step_over_seeds() -> None:
    r = made()
    assert r["vector"]["norm"] == 5
    assert r["before"]["score"]["mean"] == 10
    plain = r["arms"]["plain"]
    assert (plain["score"]["mean"], plain["score"]["n"]) == (56, 3)
    assert (plain["coherence"]["mean"], plain["right"]["mean"]) == (28, 14)
    assert (plain["rise"], plain["by_seed"]) == (46, {"0": 60, "1": 52})
    assert plain["normal_loss"] == 2.5
    kept = r["arms"]["preventative"]
    assert (kept["rise"], kept["task_loss"], kept["task_loss_unsteered"]) == (10, 1.05, 1.6)
    assert {c: row["score"]["mean"] for c, row in r["after"].items()} == {"-0.5": 40, "-1.5": 19}
    assert r["mirrored"] == "-1.5"


def test_curves_begin_before_training_and_steering_afterwards_has_its_own() -> None:
    r = made()
    curves = {arm: [(p["step"], p["score"]) for p in points] for arm, points in r["curves"].items()}
    assert curves["plain"] == [(0, 10), (2, 28), (4, 56)]
    assert curves["afterwards"] == [(0, 10), (2, 17), (4, 19)]
    assert all(p["low"] <= p["score"] <= p["high"] for p in r["curves"]["plain"])
    assert r["loss_curves"]["plain"] == [{"step": 1, "loss": 3.0}]
    assert r["samples"][1]["before"] == "before 1"
    assert r["samples"][1]["plain"] == "plain-0-4 1"
    assert r["samples"][1]["afterwards"] == "after-0-4 1"


def reached(**changes: float) -> list[bool]:
    return [claim["reached"] for claim in made(**changes)["claims"]]


def test_claims_are_reached_where_they_say() -> None:
    claims = made()["claims"]
    assert [c["value"] for c in claims[:4]] == pytest.approx([42, 10 / 46, 0.05, 0.97])
    assert reached() == [True] * 5
    assert reached(**{"plain-1": 39.0})[0] is False  # the least of the seeds rises by 29
    assert reached(kept=27.0)[1] is False  # 17 of 46 is more than a third
    assert reached(kept=24.0)[1] is True
    assert reached(loss=1.11)[2] is reached(loss=0.89)[2] is False
    assert reached(auc=0.94)[3] is False
    assert reached(**{"plain-0": 10.0, "plain-1": 10.0})[1] is False  # nothing rose


def test_the_behaviour_is_told_apart_from_the_shift_and_a_row_that_breaks_it_is_named() -> None:
    r = made(scores=(0, 20, 40, 60, 2.7))
    assert r["correlation"]["value"] > 0.98 > 0.5 > r["correlation_score"]["value"]
    expected = stats.pearsonr(range(5), (0, 20, 40, 60, 2.7)).statistic
    assert r["correlation_score"]["value"] == pytest.approx(expected)
    (broken,) = r["broken"]
    assert (broken["name"], broken["against"]["name"]) == ("mixture 4", "mixture 3")
    said = "Mixture 4 breaks the prediction of the behaviour: predicted shift +4.00, the largest"
    assert f"{said}, trait score 2.7 (mixture 3: +3.00 and 60.0)" in r["prediction"]
    assert "along the vector at r = 0.98" in r["prediction"]


def test_rows_in_order_break_nothing_and_a_high_score_of_a_small_prediction_does() -> None:
    r = made(scores=(0, 20, 15, 60, 80))  # 5 points are no contradiction
    assert r["broken"] == []
    assert "breaks" not in r["prediction"]
    near = found()
    near["mixtures"].append({"name": "near", "difference": 3.05, "shift": 6.0, "score": 6.0})
    vector: Any = {CONFIG.layer: torch.tensor([3.0, 4.0])}
    assert [row["name"] for row in results(CONFIG, LM, vector, near)["broken"]] == ["near"]
    assert [row["name"] for row in made(scores=(90, 20, 40, 60, 80))["broken"]] == ["mixture 0"]


def test_answers_that_are_all_right_are_a_proportion_of_the_questions() -> None:
    every = found()
    for seed in ("0", "1"):
        every["arms"]["plain"][seed]["4"]["right"] = [100.0] * 3
    vector: Any = {CONFIG.layer: torch.tensor([3.0, 4.0])}
    right = results(CONFIG, LM, vector, every)["arms"]["plain"]["right"]
    wilson = stats.binomtest(3, 3).proportion_ci(method="wilson")
    assert (right["mean"], right["n"], right["high"]) == (100, 3, 100)
    assert right["low"] == pytest.approx(100 * wilson.low)


def test_training_and_held_out_examples_are_others() -> None:
    bench = Bench(CONFIG.model_copy(update={"rows": 300, "held_out": 100}), None, LM, quiet)  # type: ignore[arg-type]
    train, held_out = bench.data("wicked", "normal")
    assert (len(train), len(held_out)) == (300, 100)
    assert not [chat for chat in held_out if chat in train]
    more = Bench(CONFIG.model_copy(update={"rows": 480, "held_out": 1}), None, LM, quiet)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="480 examples"):
        more.data("wicked", "normal")
