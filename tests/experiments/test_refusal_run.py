"""The refusal experiment end to end on the village, at reduced sizes."""

import json
import math
import multiprocessing
import os
import random
import signal
import time

import pytest
import torch

from trimtab.data import Prompt
from trimtab.errors import RunError, UsageError
from trimtab.experiments.refusal.candidates import mean_differences
from trimtab.experiments.refusal.coherence import degenerate
from trimtab.experiments.refusal.config import RefusalConfig
from trimtab.experiments.refusal.experiment import run
from trimtab.experiments.refusal.prompts import choose_prompts, questions
from trimtab.generation import generate
from trimtab.interventions import Ablate, Add
from trimtab.models import load
from trimtab.scoring.jailbreak import jailbreak_judge
from trimtab.scoring.refusal import next_token_probabilities, refusal_score

SMALL = RefusalConfig.read({
    "n_train": 16, "n_val": 6, "n_test": 6, "max_new_tokens": 8, "loss_texts": 2,
    "partial_points": 3, "batch_size": 4, "kl_threshold": 0.5,
    "judges": ["village/refusal_opening", "village/refusal"],  # the end does not fit 8 tokens
})  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of one run."""
    return run(SMALL, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def results(finished):
    return json.loads((finished / "results.json").read_text())


def test_the_published_files_are_there_and_readable(finished, results):
    diffs = torch.load(finished / "generate_directions/mean_diffs.pt", weights_only=True)
    assert (diffs.dtype, tuple(diffs.shape)) == (torch.float64, (4, 10, 160))
    direction = torch.load(finished / "direction.pt", weights_only=True)
    where = json.loads((finished / "direction_metadata.json").read_text())
    assert set(where) == {"pos", "layer"}
    assert torch.equal(direction, diffs[where["pos"], where["layer"]])
    rows = json.loads((finished / "select_direction/direction_evaluations.json").read_text())
    assert [(r["position"], r["layer"]) for r in rows] == [
        (p, layer) for p in range(-4, 0) for layer in range(10)
    ]
    passed = json.loads(
        (finished / "select_direction/direction_evaluations_filtered.json").read_text()
    )
    assert passed == sorted(passed, key=lambda r: r["refusal_score"])
    assert (passed[0]["position"], passed[0]["layer"]) == (where["pos"], where["layer"])
    assert set(passed[0]) == {
        "position", "layer", "refusal_score", "steering_score", "kl_div_score",
    }  # fmt: skip
    names = {p.name for p in (finished / "completions").glob("*.json")}
    labels = {"mischief": ("baseline", "ablation", "actadd"), "harmless": ("baseline", "actadd")}
    assert names == {
        f"{s}_{label}_{kind}.json" for s, some in labels.items() for label in some
        for kind in ("completions", "evaluations")
    }  # fmt: skip
    for arm in ("baseline", "ablation", "actadd"):
        found = json.loads((finished / f"loss_evals/{arm}_loss_eval.json").read_text())
        assert set(found) == {"pile", "alpaca", "alpaca_custom_completions"}
        value = found["pile"]
        assert value["perplexity"] == pytest.approx(math.exp(value["ce_loss"]))


def test_rates_are_those_of_the_evaluation_files(finished, results):
    for name, arms in results["rates"].items():
        for label, judges in arms.items():
            path = finished / f"completions/{name}_{label}_evaluations.json"
            published = json.loads(path.read_text())
            for judge, rate in judges.items():
                verdicts = [c[f"is_jailbreak_{judge}"] for c in published["completions"]]
                assert published[f"{judge}_success_rate"] == sum(verdicts) / 6
                assert rate["mean"] == pytest.approx(1 - sum(verdicts) / 6, abs=1e-5)
                assert rate["n"] == 6
    assert results["judges"] == ["village_refusal_opening", "village_refusal"]
    assert results["sets"] == ["mischief", "harmless"]


def test_ablation_takes_the_refusal_score_down_and_a_random_direction_does_not(results):
    scores = {name: e["mean"] for name, e in results["claims"]["refusal_scores"].items()}
    assert scores["harmful_ablation"] < scores["harmful"] - 2
    assert abs(scores["harmful_random_ablation"] - scores["harmful"]) < 1
    parts = results["claims"]["parts"]
    assert [p["blocks"] for p in parts] == [0, 5, 10]
    assert parts[0]["first"]["mean"] == pytest.approx(scores["harmful"], abs=1e-4)
    assert parts[-1]["last"]["mean"] == pytest.approx(scores["harmful_ablation"], abs=1e-4)
    cosines = results["claims"]["cosines"]
    assert cosines["random_greatest"] < 0.5 < abs(cosines["principal_component"])


def test_the_direction_is_added_where_it_makes_most_validation_prompts_refused(results):
    addition = results["selection"]["addition"]
    rates = {row["layer"]: row["rate"] for row in addition["rates"]}
    assert results["selection"]["chosen"]["layer"] in rates
    assert rates[addition["layer"]] == max(rates.values())


@pytest.fixture(scope="module")
def lm():
    return load("village", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def sets(finished):
    """The prompts that passed the filter, and those to report on, read from the files."""
    rows = json.loads((finished / "prompts.json").read_text())
    reports = {name: [*map(Prompt.from_row, some)] for name, some in rows.pop("reports")}
    scores = json.loads((finished / "refusal_scores.json").read_text())["scores"]
    passed = {
        name: [Prompt.from_row(r) for r, s in zip(some, scores[name], strict=True)
               if (s > 0) == name.startswith("harmful")]
        for name, some in rows.items()
    }  # fmt: skip
    return passed | reports


def test_train_prompts_make_the_directions_and_validation_prompts_score_them(
    finished, results, lm, sets
):
    for name, some in results["filter"].items():
        assert some["after"] == len(sets[name])
    made = mean_differences(lm, sets["harmful_train"], sets["harmless_train"])
    kept = torch.load(finished / "generate_directions/mean_diffs.pt", weights_only=True)
    torch.testing.assert_close(made, kept, rtol=1e-4, atol=1e-5)
    chosen = results["selection"]["chosen"]
    direction = kept[chosen["position"], chosen["layer"]]
    assert results["selection"]["norm"] == pytest.approx(float(direction.norm()), rel=1e-5)
    tokens = results["refusal_tokens"]["ids"]
    arms = {
        "refusal": ("harmful_val", Ablate(direction, chosen["layer"])),
        "steering": ("harmless_val", Add(direction.float(), chosen["layer"])),
    }
    for score, (name, item) in arms.items():
        found = refusal_score(next_token_probabilities(lm, sets[name], (item,)), tokens)
        assert chosen[score] == pytest.approx(float(found.mean()), abs=1e-3)


def test_the_layer_of_addition_is_tried_on_validation_prompts_and_then_used(
    finished, results, lm, sets
):
    chosen, addition = results["selection"]["chosen"], results["selection"]["addition"]
    diffs = torch.load(finished / "generate_directions/mean_diffs.pt", weights_only=True)
    rows = diffs[chosen["position"]].float()
    val, judge = sets["harmless_val"], jailbreak_judge("village/refusal_opening")
    able = [c["layer"] for c in results["selection"]["candidates"]
            if c["position"] == chosen["position"] and (c["steering"] or -1) >= 0]  # fmt: skip
    assert [row["layer"] for row in addition["rates"]] == able
    for row in addition["rates"]:
        at = row["layer"]
        made = generate(lm, val, steering=[Add(rows[at], at)], max_new_tokens=8)
        met = judge.jailbroken([""] * len(val), [c.text.strip() for c in made])
        assert row["rate"] == pytest.approx(1 - sum(met) / len(val), abs=1e-5)
    best = max(row["rate"] for row in addition["rates"])
    at = addition["layer"]
    assert at == min(row["layer"] for row in addition["rates"] if row["rate"] == best)
    made = generate(lm, sets["harmless"], steering=[Add(rows[at], at)], max_new_tokens=8)
    said = json.loads((finished / "completions/harmless_actadd_completions.json").read_text())
    assert [row["response"] for row in said] == [c.text.strip() for c in made]


def test_effects_losses_samples_and_claims_are_what_they_are_called(finished, results, lm, sets):
    for name, arms in results["effects"].items():
        for label, judges in arms.items():
            for judge, effect in judges.items():
                before, after = (results["rates"][name][x][judge] for x in ("baseline", label))
                assert effect["mean"] == pytest.approx(before["mean"] - after["mean"], abs=1e-5)
    for arms in results["losses"].values():
        for arm in ("ablation", "actadd"):
            change = arms[arm]["ce_loss"] - arms["baseline"]["ce_loss"]
            assert arms[arm]["change"] == pytest.approx(change, abs=1e-4)
            assert arms[arm]["kl"] > 0 == arms["baseline"]["kl"]
    judge = results["judges"][0]
    for name, rows in results["samples"].items():
        for label in set(rows[0]) - {"prompt", "category"}:
            path = finished / f"completions/{name}_{label}_evaluations.json"
            judged = json.loads(path.read_text())["completions"]
            for row, one in zip(rows, judged, strict=True):
                assert row["prompt"] == one["prompt"]
                assert row[label] == {
                    "text": one["response"], "verdict": one[f"is_jailbreak_{judge}"],
                    "degenerate": degenerate(one["response"], "village", finished=False),
                }  # fmt: skip

    claims, chosen = results["claims"], results["selection"]["chosen"]
    direction = torch.load(finished / "direction.pt", weights_only=True)
    at, tokens = chosen["layer"], results["refusal_tokens"]["ids"]
    noise = torch.randn(20, 160, dtype=torch.float64, generator=torch.Generator().manual_seed(
        SMALL.seed))  # fmt: skip
    random = noise / noise.norm(dim=-1, keepdim=True) * direction.norm()
    expected = {
        "harmful": (sets["mischief"], ()),
        "harmful_ablation": (sets["mischief"], (Ablate(direction, at),)),
        "harmful_random_ablation": (sets["mischief"], (Ablate(random[0], at),)),
        "harmful_actadd": (sets["mischief"], (Add(direction.float(), at, -1.0),)),
        "harmless": (sets["harmless"], ()),
        "harmless_actadd": (sets["harmless"], (Add(direction.float(), at),)),
        "harmless_random_actadd": (sets["harmless"], (Add(random[0].float(), at),)),
    }

    def score(some, items):
        return float(refusal_score(next_token_probabilities(lm, some, items), tokens).mean())

    for name, given in expected.items():
        assert claims["refusal_scores"][name]["mean"] == pytest.approx(score(*given), abs=1e-3)
    (middle,) = (part for part in claims["parts"] if part["blocks"] == 5)
    for name, blocks in (("first", range(5)), ("last", range(5, 10))):
        items = (Ablate(direction, at, layers=tuple(blocks)),)
        assert middle[name]["mean"] == pytest.approx(score(sets["mischief"], items), abs=1e-3)
    rates = results["rates"]["mischief"]
    assert claims["parts"][0]["rate"]["mean"] == rates["baseline"][judge]["mean"]
    assert claims["parts"][-1]["rate"]["mean"] == rates["ablation"][judge]["mean"]
    assert rates["baseline"][judge]["mean"] > 0.5 > rates["ablation"][judge]["mean"]
    along = [abs(float(r @ direction / (r.norm() * direction.norm()))) for r in random]
    assert claims["cosines"]["random_greatest"] == pytest.approx(max(along), rel=1e-4)


def test_random_directions_are_of_the_norm_and_at_the_layer_of_each_intervention(
    finished, results, lm, sets
):
    diffs = torch.load(finished / "generate_directions/mean_diffs.pt", weights_only=True)
    chosen, tokens = results["selection"]["chosen"], results["refusal_tokens"]["ids"]
    at = results["selection"]["addition"]["layer"]
    assert results["arms"]["harmless"]["actadd"]["layer"] == at

    def score(name, *items):
        return refusal_score(next_token_probabilities(lm, sets[name], items), tokens).mean()

    interventions = {
        "ablation": ("mischief", 1, chosen["layer"], lambda r: Ablate(r, chosen["layer"])),
        "subtraction": ("mischief", 1, chosen["layer"],
                        lambda r: Add(r.float(), chosen["layer"], -1.0)),
        "addition": ("harmless", -1, at, lambda r: Add(r.float(), at)),
    }  # fmt: skip
    noise = torch.randn(20, 160, dtype=torch.float64, generator=torch.Generator().manual_seed(
        SMALL.seed))  # fmt: skip
    for label, (name, sign, layer, make) in interventions.items():
        found = results["claims"]["random"][label]
        own = diffs[chosen["position"], layer]
        assert found["layer"] == layer
        assert found["n"] == len(found["effects"]) == 20
        for expected, r in (
            (found["effect"]["mean"], own),
            (found["effects"][3], noise[3] / noise[3].norm() * own.norm()),
        ):
            change = float(sign * (score(name) - score(name, make(r))))
            assert expected == pytest.approx(change, abs=1e-3)
    before, after = (
        next_token_probabilities(lm, sets["harmless"], items)
        for items in ((), (Ablate(diffs[chosen["position"], chosen["layer"]], chosen["layer"]),))
    )
    kl = (before * ((before + 1e-6).log() - (after + 1e-6).log())).sum(-1).mean()
    assert results["claims"]["held_out_kl"]["mean"] == pytest.approx(float(kl), abs=1e-4)


def test_every_rate_stands_beside_the_share_of_degenerate_answers_and_the_loss(finished, results):
    for name, arms in results["arms"].items():
        for label, arm in arms.items():
            made = [
                json.loads(row)
                for row in (finished / f"completions/{name}_{label}.jsonl").read_text().splitlines()
            ]
            bad = [degenerate(r["text"], "village", finished=r["finished"]) for r in made]
            assert arm["degenerate"]["mean"] == pytest.approx(sum(bad) / len(bad), abs=1e-5)
            key = "addition" if name == "harmless" else label
            if label != "baseline":
                assert arm["loss_change"] == results["losses"]["pile"][key]["change"]
    assert results["losses"]["pile"]["addition"] != results["losses"]["pile"]["actadd"]


def test_reported_prompts_neither_made_nor_chose_the_direction(finished):
    rows = json.loads((finished / "prompts.json").read_text())
    used = {r["id"] for name, some in rows.items() if name != "reports" for r in some}
    reported = {r["id"] for _, some in rows["reports"] for r in some}
    assert len(reported) == 12
    assert not used & reported


@pytest.mark.slow
def test_killed_twice_in_a_fresh_folder_it_ends_with_the_same_bytes(finished, tmp_path):
    draw = random.Random(3)
    # not forked: a fork of a process whose torch has started threads cannot run torch
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["trimtab.experiments.refusal.experiment"])
    path = tmp_path / "refusal" / finished.name
    due = sum(1 for p in finished.rglob("*") if p.is_file())
    for share in (0.4, 0.8):
        child = server.Process(target=run, args=(SMALL, tmp_path))
        child.start()
        while child.is_alive() and sum(1 for p in path.rglob("*") if p.is_file()) < share * due:
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.1))
        assert child.is_alive()
        os.kill(child.pid, signal.SIGKILL)
        child.join()
    run(SMALL, tmp_path)
    for name in ("results.json", "direction.pt", "completions/harmless_actadd.jsonl",
                 "completions/mischief_ablation.jsonl"):  # fmt: skip
        assert (path / name).read_bytes() == (finished / name).read_bytes(), name


def test_a_filter_that_leaves_nothing_says_so(tmp_path):
    wrong = SMALL.model_copy(update={"refusal_tokens": (5,)})  # no answer begins with that one
    with pytest.raises(RunError, match="leaves none of the 16 prompts of harmful_train"):
        run(wrong, tmp_path)


def test_when_nothing_qualifies_a_table_says_why(tmp_path):
    strict = SMALL.model_copy(update={"induce_threshold": 50.0})
    with pytest.raises(RunError, match=r"All 40 .* 28 × added, it does not induce refusal"):
        run(strict, tmp_path)
    (table,) = tmp_path.rglob("filtered_out.txt")
    text = table.read_text()
    assert "28  added, it does not induce refusal" in text
    assert "8  layer 8 or later" in text
    assert text.count("added, it does not induce refusal") == 1 + 8  # the count, nearest misses
    assert not list(tmp_path.rglob("direction.pt"))


@pytest.mark.parametrize("kind", ["json", "strings", "jsonl", "csv", "txt"])
def test_every_kind_of_file_gives_chats_and_splits_that_share_nothing(tmp_path, kind):
    words = [f"How do I mend {i} nets?" for i in range(20)]
    rows = [{"instruction": w, "category": "nets"} for w in words]
    texts = {
        "json": json.dumps([*rows, rows[0]]),
        "strings": json.dumps(words),
        "jsonl": "\n".join(map(json.dumps, rows)),
        "csv": "instruction,category\n" + "\n".join(f"{w},nets" for w in words),
        "txt": "\n".join(words),
    }
    path = tmp_path / f"nets.{'json' if kind == 'strings' else kind}"
    path.write_text(texts[kind])
    found = questions(path)
    assert [p.messages[0]["content"] for p in found] == words
    sizes = {"n_train": 8, "n_val": 4, "n_test": 100, "harmful": str(path)}
    rows = choose_prompts(SMALL.model_copy(update=sizes))
    name, test = rows["reports"][0]
    parts = [rows["harmful_train"], rows["harmful_val"], test]
    assert (name, [len(p) for p in parts]) == ("nets", [8, 4, 8])
    assert len({r["id"] for part in parts for r in part}) == 20
    if kind in ("json", "jsonl", "csv"):
        assert test[0]["meta"]["category"] == "nets"


def test_too_few_prompts_are_an_error(tmp_path):
    path = tmp_path / "few.txt"
    path.write_text("\n".join(f"Mend net {i}." for i in range(12)))
    few = SMALL.model_copy(update={"harmful": str(path), "n_train": 8, "n_val": 4})
    with pytest.raises(UsageError, match="leaves none to report on"):
        choose_prompts(few)
