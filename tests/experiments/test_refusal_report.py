"""The page of a refusal run, from a results.json made by hand."""

import json
import re

import pytest

from trimtab.errors import UsageError
from trimtab.experiments.reports import plot_candidates, write_refusal_report

FIGURES = ("ablation_scores", "actadd_scores", "kl_div_scores", "losses", "partial_ablation",
           "refusal_rates")  # fmt: skip


def estimate(mean):
    return {"mean": mean, "low": mean - 0.05, "high": mean + 0.05, "n": 20, "note": ""}


def results():
    """Two positions, three layers; position -1, layer 1 is chosen."""
    candidates = [
        {"position": p, "layer": layer, "refusal": -1.0 * layer if layer == 1 else None,
         "steering": 2.0 if layer else None, "kl": 0.01 if layer == 1 else None,
         "dropped": "" if layer == 1 else "zero direction"}
        for p in (-2, -1) for layer in range(3)
    ]  # fmt: skip
    rate = {label: {"phrases": {**estimate(m), "of": 20, "means": "refused"}}
            for label, m in (("baseline", 0.95), ("ablation", 0.05), ("actadd", 0.1))}  # fmt: skip
    arm = {"ce_loss": 1.0, "perplexity": 2.7, "change": 0.01, "kl": 0.02}
    empty = dict.fromkeys(arm)
    labels = ("baseline", "ablation", "actadd", "addition")
    loss = {"source": "texts", "tokens": 9} | dict.fromkeys(labels, arm)
    none = {"source": "own", "tokens": 0} | dict.fromkeys(labels, empty)
    said = {"text": "<script>", "verdict": 1, "degenerate": False}
    cost = {"degenerate": estimate(0.1), "more_degenerate": estimate(0.0), "loss_change": 0.01}
    harmful = {
        "baseline": {"what": "unsteered", "degenerate": estimate(0.05)},
        "ablation": {"what": "ablated everywhere"} | cost,
        "actadd": {"what": "subtracted at layer 1"} | cost,
    }
    arms = {
        "mischief": harmful,
        "harmless": {
            "baseline": harmful["baseline"],
            "actadd": {"what": "added at layer 2"} | cost,
        },
    }
    control = {
        "layer": 1,
        "effect": estimate(2.0),
        "greatest": 0.5,
        "as_good": 0,
        "n": 20,
        "p": 0.048,
    }
    sample = {"prompt": "<b>How?", "category": None, "baseline": said, "actadd": said}
    names = ("harmful", "harmful_ablation", "harmful_random_ablation", "harmful_actadd",
             "harmless", "harmless_actadd", "harmless_random_actadd")  # fmt: skip
    return {
        "model": {"name": "tiny <b>", "n_layers": 3, "d_model": 8},
        "config": {"model": "x", "coherence": "repetition", "kl_threshold": 0.1},
        "warnings": ["Few prompts."],
        "refusal_tokens": {"ids": [1], "text": ["I"], "source": "given"},
        "filter": {f"{k}_{p}": {"before": 9, "after": 8} for k in ("harmful", "harmless")
                   for p in ("train", "val")},
        "selection": {"tokens": ["<end>", "\n"], "candidates": candidates,
                      "dropped": {"zero direction": 4}, "chosen": candidates[4], "norm": 1.0,
                      "addition": {"layer": 2, "rates": [{"layer": 2, "rate": 0.75,
                                                           "degenerate": 0.25}]}},
        "arms": arms,
        "sets": ["mischief", "harmless"], "judges": ["phrases"],
        "rates": {"mischief": rate, "harmless": {k: rate[k] for k in ("baseline", "actadd")}},
        "effects": {"mischief": {k: {"phrases": estimate(0.9)} for k in ("ablation", "actadd")},
                    "harmless": {"actadd": {"phrases": estimate(0.85)}}},
        "losses": {"pile": loss, "alpaca": loss, "alpaca_custom_completions": none},
        "claims": {
            "set": "mischief",
            "cosines": {"random_mean": 0.05, "random_greatest": 0.2, "principal_component": 0.9,
                        "explained": 0.6, "random_directions": 20},
            "refusal_scores": {name: estimate(1.0) for name in names},
            "parts": [{"blocks": b, "first": estimate(1.0), "last": estimate(1.0),
                       "rate": {**estimate(0.5), "means": "refused"},
                       "degenerate": estimate(0.1)} for b in (0, 2, 3)],
            "random": {"ablation": control, "subtraction": {**control, "layer": 6},
                       "addition": {**control, "as_good": 3}},
            "held_out_kl": estimate(0.06),
        },
        "samples": {"mischief": [{**sample, "ablation": said}], "harmless": [sample]},
    }  # fmt: skip


@pytest.fixture
def run(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(results()))
    return tmp_path


def test_report_holds_numbers_and_pictures_in_one_escaped_file(run):
    page = write_refusal_report(run).read_text()
    assert page.count("data:image/png;base64,") == len(FIGURES)
    assert not re.search(r'(src|href)="(http|/)', page)
    assert "95 % → 5 %" in page
    assert "layer 1, position -1" in page
    assert "95.0 %" in page
    assert "layer 2: 75 %, 25 % degenerate" in page
    assert "Few prompts." in page
    assert "<script>" not in page
    assert "tiny <b>" not in page
    for name in FIGURES:
        assert (run / "plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (run / "plots" / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_every_row_of_the_tables_has_its_own_numbers(tmp_path):
    found = results()
    found["effects"]["mischief"]["actadd"]["phrases"] = estimate(0.7)
    found["arms"]["mischief"]["actadd"] |= {"degenerate": estimate(0.9), "loss_change": 0.36}
    texts = ("pile", "alpaca", "alpaca_custom_completions")
    for i, key in enumerate(texts, 1):
        found["losses"][key] = {"source": key, "tokens": i} | {
            arm: {
                "ce_loss": i + k / 10,
                "perplexity": 3.0,
                "change": k / 10,
                "kl": i / 100 + k / 10,
            }
            for k, arm in enumerate(("baseline", "ablation", "actadd", "addition"))
        }
    scores = found["claims"]["refusal_scores"]
    scores |= {name: estimate(float(i)) for i, name in enumerate(scores)}
    (tmp_path / "results.json").write_text(json.dumps(found))
    page = write_refusal_report(tmp_path).read_text()
    rows = [re.sub(r"<[^>]+>", "|", row) for row in re.findall(r"<tr>(.*?)</tr>", page, re.S)]
    table = [[part.strip() for part in row.split("|") if part.strip()] for row in rows]
    for row in (
        ["mischief", "unsteered", "phrases: refused", "95.0 %", "[90, 100]", "20 of 20", "5.0 %",
         "[0, 10]"],
        ["mischief", "ablated everywhere", "phrases: refused", "5.0 %", "[0, 10]", "20 of 20",
         "0.90 [0.85, 0.95]", "10.0 %", "[5, 15]", "+0.010"],
        ["mischief", "subtracted at layer 1", "phrases: refused", "10.0 %", "[5, 15]", "20 of 20",
         "0.70 [0.65, 0.75]", "90.0 %", "[85, 95]", "+0.360"],
        ["harmless", "added at layer 2", "phrases: refused", "10.0 %", "[5, 15]", "20 of 20",
         "0.85 [0.80, 0.90]", "10.0 %", "[5, 15]", "+0.010"],
        ["pile", "1", "unsteered", "1.000", "3.00"],
        ["pile", "1", "ablated everywhere", "1.100", "+0.100", "0.110", "3.00"],
        ["pile", "1", "subtracted at layer 1", "1.200", "+0.200", "0.210", "3.00"],
        ["alpaca", "2", "added at layer 2", "2.300", "+0.300", "0.320", "3.00"],
        ["harmful, unsteered", "0.00 [-0.05, 0.05]"],
        ["harmful, ablated everywhere (direction of layer 1)", "1.00 [0.95, 1.05]"],
        ["harmless, a random direction of that norm added there", "6.00 [5.95, 6.05]"],
        ["subtraction", "6", "2.00 [1.95, 2.05]", "0.50", "0 of 20", "0.048"],
        ["addition", "1", "2.00 [1.95, 2.05]", "0.50", "3 of 20", "0.048"],
    ):  # fmt: skip
        assert row in table, row
    cards = [re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", card))
             for card in page.split('class="card">')[1:4]]  # fmt: skip
    for card, words in zip(cards, (
        "mischief, ablated everywhere 95 % → 5 % refused (phrases, n = 20) degenerate answers "
        "5 % → 10 % loss on ordinary text +0.01 nats per token",
        "mischief, subtracted at layer 1 95 % → 10 % refused (phrases, n = 20) degenerate answers "
        "5 % → 90 % loss on ordinary text +0.36 nats per token",
        "harmless, added at layer 2 95 % → 10 % refused (phrases, n = 20) degenerate answers "
        "5 % → 10 % loss on ordinary text +0.01 nats per token",
    ), strict=True):  # fmt: skip
        assert card.strip().startswith(words)
    assert "+0.100 nats" in page


def test_a_published_evaluations_file_is_drawn(tmp_path, golden):
    file = golden / "refusal_llama-3-tiny-rand/select_direction/direction_evaluations.json"
    files = plot_candidates(file, tmp_path)
    assert {p.stem for p in files} == set(FIGURES[:3])


def test_an_unfinished_run_is_an_error(tmp_path):
    with pytest.raises(UsageError, match=r"results\.json"):
        write_refusal_report(tmp_path)
