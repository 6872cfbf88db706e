"""The page of a refusal run, from a results.json made by hand."""

import json
import re

import pytest

from trimtab.errors import UsageError
from trimtab.reports import plot_candidates, write_refusal_report

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
    rate = {label: {"phrases": {**estimate(m), "means": "refused"}}
            for label, m in (("baseline", 0.95), ("ablation", 0.05), ("actadd", 0.1))}  # fmt: skip
    arm = {"ce_loss": 1.0, "perplexity": 2.7, "change": 0.01, "kl": 0.02}
    empty = dict.fromkeys(arm)
    loss = {"source": "texts", "tokens": 9, "baseline": arm, "ablation": arm, "actadd": arm}
    none = {"source": "own", "tokens": 0, "baseline": empty, "ablation": empty, "actadd": empty}
    said = {"text": "<script>", "verdict": 1}
    sample = {"prompt": "<b>How?", "category": None, "baseline": said, "actadd": said}
    names = ("harmful", "harmful_ablation", "harmful_random_ablation", "harmful_actadd",
             "harmless", "harmless_actadd", "harmless_random_actadd")  # fmt: skip
    return {
        "model": {"name": "tiny <b>", "n_layers": 3, "d_model": 8},
        "config": {"model": "x"}, "warnings": ["Few prompts."],
        "refusal_tokens": {"ids": [1], "text": ["I"], "source": "given"},
        "filter": {f"{k}_{p}": {"before": 9, "after": 8} for k in ("harmful", "harmless")
                   for p in ("train", "val")},
        "selection": {"tokens": ["<end>", "\n"], "candidates": candidates,
                      "dropped": {"zero direction": 4}, "chosen": candidates[4], "norm": 1.0,
                      "addition": {"layer": 2, "rates": [{"layer": 2, "rate": 0.75}]}},
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
                       "rate": estimate(0.5)} for b in (0, 2, 3)],
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
    assert "layer 2: 75 %" in page
    assert "Few prompts." in page
    assert "<script>" not in page
    assert "tiny <b>" not in page
    for name in FIGURES:
        assert (run / "plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (run / "plots" / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_every_row_of_the_tables_has_its_own_numbers(tmp_path):
    found = results()
    found["effects"]["mischief"]["actadd"]["phrases"] = estimate(0.7)
    texts = ("pile", "alpaca", "alpaca_custom_completions")
    for i, key in enumerate(texts, 1):
        found["losses"][key] = {"source": key, "tokens": i} | {
            arm: {
                "ce_loss": i + k / 10,
                "perplexity": 3.0,
                "change": k / 10,
                "kl": i / 100 + k / 10,
            }
            for k, arm in enumerate(("baseline", "ablation", "actadd"))
        }
    scores = found["claims"]["refusal_scores"]
    scores |= {name: estimate(float(i)) for i, name in enumerate(scores)}
    (tmp_path / "results.json").write_text(json.dumps(found))
    page = write_refusal_report(tmp_path).read_text()
    rows = [re.sub(r"<[^>]+>", "|", row) for row in re.findall(r"<tr>(.*?)</tr>", page, re.S)]
    table = [[part.strip() for part in row.split("|") if part.strip()] for row in rows]
    for row in (
        ["mischief", "unsteered", "phrases: refused", "95.0 %", "[90, 100]", "20"],
        ["mischief", "ablated", "phrases: refused", "5.0 %", "[0, 10]", "0.90 [0.85, 0.95]", "20"],
        ["mischief", "added, coefficient -1", "phrases: refused", "10.0 %", "[5, 15]",
         "0.70 [0.65, 0.75]", "20"],
        ["harmless", "added, coefficient +1", "phrases: refused", "10.0 %", "[5, 15]",
         "0.85 [0.80, 0.90]", "20"],
        ["pile", "1", "1.000", "3.00", "1.100", "+0.100", "0.110", "1.200", "+0.200", "0.210"],
        ["alpaca", "2", "2.000", "3.00", "2.100", "+0.100", "0.120", "2.200", "+0.200", "0.220"],
        ["harmful, unsteered", "0.00 [-0.05, 0.05]"],
        ["harmful, ablated", "1.00 [0.95, 1.05]"],
        ["harmless, a random direction of that norm added", "6.00 [5.95, 6.05]"],
    ):  # fmt: skip
        assert row in table, row
    assert '95 % → 10 %</b>\n    <span class="quiet">refused, n = 20; added at layer 2' in page
    assert "+0.100 nat" in page


def test_a_published_evaluations_file_is_drawn(tmp_path, golden):
    file = golden / "refusal_llama-3-tiny-rand/select_direction/direction_evaluations.json"
    files = plot_candidates(file, tmp_path)
    assert {p.stem for p in files} == set(FIGURES[:3])


def test_an_unfinished_run_is_an_error(tmp_path):
    with pytest.raises(UsageError, match=r"results\.json"):
        write_refusal_report(tmp_path)
