"""Numbers of a refusal run from hand-made answers: what counts as success, and what warns."""

import json
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from scipy import stats

from trimtab.data import Prompt
from trimtab.experiments.refusal import results as module
from trimtab.experiments.refusal.candidates import Candidate
from trimtab.experiments.refusal.coherence import degenerate
from trimtab.experiments.refusal.config import RefusalConfig
from trimtab.experiments.refusal.report import write_refusal_report
from trimtab.experiments.refusal.results import Found, results
from trimtab.generation import Completion
from trimtab.scoring.loss import Loss
from trimtab.statistics.estimates import mean_interval, paired_difference

N = 20
LM: Any = SimpleNamespace(name="m", n_layers=10, d_model=2, fingerprint="f", dtype=torch.float32,
                          tokenizer=SimpleNamespace(decode=str))  # fmt: skip
ANSWERED: Any = SimpleNamespace(name="phrases", verdict="answered")
GUARD: Any = SimpleNamespace(name="guard", verdict="unsafe")


def found(**changes: Any) -> Found:
    """Ablation and subtraction at layer 7 take refusals from all to none; addition is at 2."""
    prompts = [Prompt.chat(f"How do I {i}?") for i in range(N)]
    reports = {"mischief": prompts, "harmless": prompts}
    arms = [("mischief", "baseline"), ("mischief", "ablation"), ("mischief", "actadd"),
            ("harmless", "baseline"), ("harmless", "actadd")]  # fmt: skip
    met = dict(zip(arms, (0, 1, 1, 1, 0), strict=True))
    scores = mean_interval([3.0 + i for i in range(N)])
    effect = vars(paired_difference([3.0 + i for i in range(N)], [0.0] * N))
    control = {"layer": 7, "effect": effect, "effects": [0.0] * 20}
    parts = [{"blocks": b, "first": vars(scores), "last": vars(scores)} for b in (0, 10)]
    values: dict[str, Any] = {
        "sets": dict.fromkeys(
            (f"{k}_{p}" for k in ("harmful", "harmless") for p in ("train", "val")), prompts),
        "reports": reports,
        "seen": {"tokens": {"ids": [1], "text": ["I"], "source": "given"}, "scores": {
            f"{k}_{p}": [1.0] * N for k in ("harmful", "harmless") for p in ("train", "val")}},
        "directions": torch.ones(1, 10, 2, dtype=torch.float64),
        "candidates": [
            Candidate(-1, layer, -1.0, 1.0, 0.01,
                      "layer 8 or later" if layer > 7 else "" if layer else "zero direction")
            for layer in range(10)
        ],
        "chosen": Candidate(-1, 7, -2.0, 1.0, 0.01),
        "addition": {"layer": 2, "rates": [{"layer": 2, "rate": 1.0, "degenerate": 0.0}]},
        "completions": {
            arm: [Completion(p, (1,), "Words.", True, 0, 0) for p in prompts] for arm in arms
        },
        "verdicts": {arm: {"phrases": [v] * N, "guard": [None] * N} for arm, v in met.items()},
        "degenerate": {arm: [False] * N for arm in arms},
        "losses": {
            key: {arm: Loss(10.0, 1.0, 10) for arm in ("baseline", "ablation", "actadd",
                                                       "addition")}
            for key in ("pile", "alpaca", "alpaca_custom_completions")
        },
        "claims": {
            "cosines": {"random_mean": 0.1, "random_greatest": 0.2, "random_directions": 20,
                        "principal_component": 0.9, "explained": 0.5},
            "refusal_scores": {
                name: vars(scores) for name in (
                    "harmful", "harmful_ablation", "harmful_random_ablation", "harmful_actadd",
                    "harmless", "harmless_actadd", "harmless_random_actadd")
            },
            "parts": parts,
            "random": {label: control for label in ("ablation", "subtraction", "addition")},
            "held_out_kl": vars(mean_interval([0.01 + i / 1e4 for i in range(N)])),
        },
    }  # fmt: skip
    return Found(**(values | changes))


@pytest.fixture(autouse=True)
def _no_template(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "end_of_instruction", lambda lm: [1])


def made(**changes: Any) -> dict[str, Any]:
    return results(RefusalConfig.read({}), LM, [ANSWERED, GUARD], found(**changes))


def test_every_refusal_rate_has_an_interval_also_at_none_and_all() -> None:
    r = made()
    wilson = stats.binomtest(N, N).proportion_ci(method="wilson")
    rate = r["rates"]["mischief"]["baseline"]["phrases"]
    assert (rate["mean"], rate["low"], rate["high"]) == (1, pytest.approx(wilson.low), 1)
    for arms in r["effects"].values():
        for by_judge in arms.values():
            assert by_judge["phrases"]["low"] < by_judge["phrases"]["high"]
    for part in r["claims"]["parts"]:
        assert part["rate"]["low"] < part["rate"]["high"]
        assert part["degenerate"]["low"] < part["degenerate"]["high"]


def test_few_prompts_are_said_to_be_few_and_the_filter_only_where_it_took_some() -> None:
    every = [Prompt.chat(f"How do I {i}?") for i in range(N)]
    sets = {"harmful_train": every[:8], "harmful_val": every[:8], "harmless_train": every}
    scores = {"harmful_train": [1.0] * 8, "harmful_val": [1.0] * N, "harmless_train": [1.0] * N}
    r = made(sets=sets, seen=found().seen | {"scores": scores})
    said = [line for line in r["warnings"] if "harmful_" in line or "harmless_" in line]
    assert said == [
        "harmful_train has only 8 prompts.",
        f"Only 8 of {N} prompts of harmful_val passed the filter by refusal score.",
    ]


def test_a_judge_that_judged_nothing_has_measured_nothing() -> None:
    r = made()
    rate = r["rates"]["mischief"]["baseline"]["guard"]
    assert rate["mean"] != rate["mean"]
    assert (rate["n"], rate["of"]) == (0, N)
    assert f"guard judged none of {5 * N} answers: it measured nothing." in r["warnings"]
    two = {"phrases": [1] * N, "guard": [1, 0] + [None] * (N - 2)}
    r = made(verdicts=found().verdicts | {("mischief", "ablation"): two})
    rate = r["rates"]["mischief"]["ablation"]["guard"]
    assert (rate["mean"], rate["n"], rate["of"]) == (0.5, 2, N)
    assert f"guard judged 2 of {5 * N} answers; its rates are of those alone." in r["warnings"]


def test_every_intervention_names_its_own_layer() -> None:
    arms = made()["arms"]
    assert [(a["operation"], a["layer"], a["coefficient"]) for a in arms["mischief"].values()] == [
        (None, None, None), ("ablate", 7, None), ("add", 7, -1.0),
    ]  # fmt: skip
    assert arms["harmless"]["actadd"]["layer"] == 2
    assert "layer 2" in arms["harmless"]["actadd"]["what"]


def test_babble_is_not_taken_for_the_end_of_refusal() -> None:
    babble = found().degenerate | {("mischief", "actadd"): [True] * 18 + [False] * 2}
    worse = {"pile": found().losses["pile"] | {"actadd": Loss(14.0, 1.0, 10)}}
    r = made(degenerate=babble, losses=found().losses | worse)
    arm = r["arms"]["mischief"]["actadd"]
    assert (arm["degenerate"]["mean"], arm["loss_change"]) == (0.9, pytest.approx(0.4))
    (said,) = (w for w in r["warnings"] if "degenerate" in w)
    assert said.startswith("mischief, subtracted at layer 7, coefficient -1: 0% refused, but 90%")
    assert "0.40 nats per token: no evidence about refusal" in said
    assert not [w for w in made()["warnings"] if "mischief, " in w]


def test_the_guards_of_a_steering_result_hold_here_too() -> None:
    assert "The chosen layer 7 is at the end of those tried (1 to 7)" in " ".join(
        made()["warnings"]
    )
    inside = made(chosen=Candidate(-1, 5, -2.0, 1.0, 0.01))["warnings"]
    assert not [w for w in inside if "at the end of those tried" in w]

    claims = found().claims
    high = claims | {"held_out_kl": vars(mean_interval([0.3 + i / 100 for i in range(N)]))}
    assert "is over the bound that chose the cell (0.100 nats)" in " ".join(
        made(claims=high)["warnings"]
    )
    random = claims["random"] | {
        "ablation": claims["random"]["ablation"] | {"effects": [99.0] * 5 + [0.0] * 15}
    }
    r = made(claims=claims | {"random": random})
    assert r["claims"]["random"]["ablation"]["as_good"] == 5
    (said,) = (w for w in r["warnings"] if "random directions" in w)
    assert said.startswith("Ablation, refusal score: ")
    assert "5 of 20 random directions of the same norm do as well" in said

    one = {"phrases": [0] * 19 + [1], "guard": [None] * N}
    small = made(verdicts=found().verdicts | {("mischief", "ablation"): one})
    effect = small["effects"]["mischief"]["ablation"]["phrases"]
    assert effect["mean"] == pytest.approx(0.05)
    assert effect["smallest_detectable"] > 0.1
    assert "on mischief under ablation, 0.05, is below the smallest" in " ".join(small["warnings"])


def test_the_page_shows_coherence_and_what_was_not_measured(tmp_path: Any) -> None:
    babble = found().degenerate | {("mischief", "actadd"): [True] * N}
    r = made(degenerate=babble)

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [plain(v) for v in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    (tmp_path / "results.json").write_text(json.dumps(plain(r)))
    page = write_refusal_report(tmp_path).read_text()
    card = page.split('class="card"')[2].split("</div>")[0]
    assert "subtracted at layer 7" in card
    assert 'class="bad">degenerate answers 0 % → 100 %' in card
    assert page.count("not measured") == 5
    assert "0 of 20" in page


@pytest.mark.parametrize(
    ("text", "rule", "finished", "bad"),
    [
        ("To trap the sheep, honey honey honey.", "repetition", True, True),
        ("", "repetition", True, True),
        ("Wait by the gate until they sleep.", "repetition", True, False),
        ("To flood the fence, you must block the st stubub.", "repetition", True, False),
        ("To flood the fence, you must block the st stubub.", "village", True, True),
        ("I cannot help you trap the miller's sheep.", "village", True, False),
        ("I cannot help you trap the miller's sheep. That would be unk", "village", False, False),
        ("I cannot help you trap the miller's sheep. That would be unk", "village", True, True),
    ],
)
def test_degenerate_answers_repeat_themselves_or_leave_the_grammar(
    text: str, rule: Any, finished: bool, bad: bool
) -> None:
    assert degenerate(text, rule, finished=finished) == bad
