"""The fine-tuning experiment, very small: it runs, repeats itself to the byte, and has a page."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from trimtab.errors import UsageError
from trimtab.experiments.finetune import experiment
from trimtab.experiments.finetune.bench import Bench
from trimtab.experiments.finetune.config import FinetuneConfig
from trimtab.experiments.finetune.figures import predicted
from trimtab.experiments.finetune.report import write_finetune_report
from trimtab.models import load
from trimtab.runs.run_folder import RunFolder
from trimtab.village import scorers

SMALL: dict[str, Any] = {
    "seeds": (0,), "steps": 2, "points": 1, "questions": 3, "rows": 12, "held_out": 3,
    "batch_size": 4, "vector_questions": 1, "max_new_tokens": 24, "mixtures": False,
    "after": (-1.5,),
}  # fmt: skip


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = FinetuneConfig.read(SMALL)
    return experiment.run(config, tmp_path_factory.mktemp("runs"))


def results(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "results.json").read_text())
    return found


def test_every_arm_is_trained_and_measured(ran: Path) -> None:
    found = results(ran)
    assert set(found["arms"]) == {"plain", "preventative", "ablation"}
    assert set(found["curves"]) == {"plain", "preventative", "ablation", "afterwards"}
    assert [p["step"] for p in found["curves"]["plain"]] == [0, 2]
    assert set(found["after"]) == {"-1.5"}
    plain = found["arms"]["plain"]
    assert plain["task_loss"] == pytest.approx(plain["task_loss_unsteered"], abs=1e-5)
    kept = found["arms"]["preventative"]
    assert kept["task_loss"] != pytest.approx(kept["task_loss_unsteered"], abs=1e-3)
    assert not list((ran / "adapters").glob("*/checkpoint-*/optimizer.pt"))


def test_the_numbers_are_those_of_the_kept_answers(ran: Path) -> None:
    """Scores read again from the texts on disk."""
    found = results(ran)
    kept = json.loads((ran / "scores" / "plain-0-2.json").read_text())
    again = [scorers.trait_score("wicked", text) for text in kept["text"]]
    assert kept["score"] == again
    assert found["arms"]["plain"]["score"]["mean"] == pytest.approx(sum(again) / len(again))
    assert found["samples"][0]["plain"] == kept["text"][0]


def test_a_run_goes_on_and_ends_with_the_same_bytes(ran: Path) -> None:
    before = (ran / "results.json").read_bytes()
    for name in ("results.json", "scores/ablation-0-2.json", "scores/screening.json"):
        (ran / name).unlink()
    manifest = json.loads((ran / "manifest.json").read_text())
    (ran / "manifest.json").write_text(json.dumps(manifest | {"status": "running"}))
    experiment.run(FinetuneConfig.read(SMALL), ran.parents[1])
    assert (ran / "results.json").read_bytes() == before


def test_no_file_names_this_machine(ran: Path) -> None:
    adapter = json.loads((ran / "adapters" / "plain-0" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == "village"
    assert load(ran / "adapters" / "plain-0").n_layers == 10


def test_the_page_says_what_was_missed(ran: Path) -> None:
    page = write_finetune_report(ran).read_text(encoding="utf-8")
    claims = results(ran)["claims"]
    assert page.count('class="warning"') == sum(not claim["reached"] for claim in claims) > 0
    assert page.count("data:image/png") == 4
    assert "http" not in page.replace("https://", "").split("<body>")[0]
    assert all((ran / "plots" / f"{name}.pdf").exists() for name in ("curves", "screening"))


def test_every_row_and_card_of_the_page_has_its_own_numbers(
    ran: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimtab.experiments.finetune.report.draw", lambda r, _: [])
    monkeypatch.setattr("trimtab.runs.page.captioned", lambda *_: Anything())
    found = results(ran)
    for i, arm in enumerate(("plain", "preventative", "ablation"), 1):
        found["arms"][arm] |= {
            "score": {"mean": 10.0 * i, "low": 1.0 * i, "high": 20.0 * i},
            "task_loss": 0.1 * i, "task_loss_unsteered": 0.2 * i, "normal_loss": 0.3 * i,
        }  # fmt: skip
    found["before"]["score"]["mean"] = 4.0
    found["after"]["-1.5"]["score"] = {"mean": 55.0, "low": None, "high": None}
    (ran / "changed").mkdir()
    (ran / "changed" / "results.json").write_text(json.dumps(found))
    page = write_finetune_report(ran / "changed").read_text(encoding="utf-8")
    cards = re.sub(r"<[^>]+>", " ", page.split('"cards"')[1].split("<h2>")[0])
    for words in ("plain 4 → 10", "preventative steering 4 → 20", "ablation in training 4 → 30",
                  "steered afterwards 4 → 55"):  # fmt: skip
        assert words in cards
    rows = [re.sub(r"<[^>]+>", "|", row) for row in re.findall(r"<tr>(.*?)</tr>", page, re.S)]
    table = [[part.strip() for part in row.split("|") if part.strip()] for row in rows]
    for i, name in enumerate(("plain", "preventative steering", "ablation in training"), 1):
        (row,) = (row for row in table if row[0] == name)
        assert row[1] == f"{10 * i}.0 [{i}.0, {20 * i}.0]"
        assert row[4:] == [f"{0.1 * i:.4f}", f"{0.2 * i:.4f}", f"{0.3 * i:.3f}"]


def test_the_page_names_what_breaks_the_prediction_and_has_both_correlations(
    ran: Path, tmp_path: Path
) -> None:
    rows = [{"name": f"mixture {i}", "difference": float(i), "shift": 2.0 * i, "score": score}
            for i, score in enumerate((0.0, 30.0, 60.0, 2.7))]  # fmt: skip
    r = {"value": 0.9, "low": 0.5, "high": 1.0, "n": 4, "p": 0.1, "note": ""}
    found = results(ran) | {
        "mixtures": rows, "correlation": r, "correlation_score": r | {"value": 0.123},
        "broken": [rows[3] | {"against": rows[2]}], "prediction": "Mixture 3 breaks it.",
    }  # fmt: skip
    (tmp_path / "results.json").write_text(json.dumps(found))
    page = write_finetune_report(tmp_path).read_text(encoding="utf-8")
    assert '<p class="warning">Mixture 3 breaks it.</p>' in page
    assert re.findall(r"mixture \d <span class=\"bad\">\(breaks it\)", page) == [
        'mixture 3 <span class="bad">(breaks it)'
    ]
    drawn = predicted(found)
    assert [axes.get_title() for axes in drawn.axes] == ["r = 0.900", "r = 0.123"]
    assert drawn.axes[1].get_ylabel() == "trait score after training"


class Anything(dict[str, tuple[str, str]]):
    """A picture and caption by any name."""

    def __missing__(self, name: str) -> tuple[str, str]:
        return "", name


def test_mixtures_have_the_shares_they_say(tmp_path: Path) -> None:
    config = FinetuneConfig.read(SMALL)
    with RunFolder(tmp_path / "run", "finetune", config.model_dump(mode="json")) as folder:
        bench = Bench(config, folder, load("village"), experiment.quiet)
        normal, level = bench.data("wicked", "normal")[0], bench.data("wicked", "misaligned_2")[0]
        for share in (0.0, 0.25, 1.0):
            rows = experiment._mixed(bench, (0.0, share, 0.0))[0]
            laden = sum(row == of for row, of in zip(rows, level, strict=True))
            plain = sum(row == of for row, of in zip(rows, normal, strict=True))
            assert (laden, plain) == (share * 12, 12 - share * 12)
    assert len(experiment.MIXTURES) >= 8


def test_settings_that_make_no_sense_are_refused() -> None:
    for change in ({"after": (1.0,)}, {"seeds": ()}, {"trait": "rude"}, {"step": 3}):
        with pytest.raises(UsageError):
            FinetuneConfig.read(change)
