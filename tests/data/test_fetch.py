"""`trimtab data fetch`: published sets from a server of our own, with mild words of our own."""

import csv
import hashlib
import http.server
import io
import json
import threading
from pathlib import Path

import pytest
import yaml

from trimtab.cli import main
from trimtab.data import prompts
from trimtab.data.fetch import DOWNLOADS, cache_folder, collections, fetch, plain, raw_files
from trimtab.errors import RunError, UsageError
from trimtab.experiments.refusal.config import RefusalConfig
from trimtab.experiments.refusal.prompts import choose_prompts

SECRET = "wobble"  # stands in every prompt, and must stand in no message


def asked(kind: str, count: int) -> list[str]:
    return [f"How do I {SECRET} the {kind} number {i}?" for i in range(count)]


def table(rows: list[dict[str, str]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def behaviours(kind: str) -> list[dict[str, str]]:
    rows = [
        {"Behavior": text, "FunctionalCategory": "standard", "SemanticCategory": "pots", "Tags": ""}
        for text in asked(kind, 6)
    ]
    rows[0]["FunctionalCategory"] = "copyright"
    rows[1]["Tags"] = "context, hash_check"
    return rows


def originals() -> dict[str, str]:
    """Files of the published shapes, some prompts in several of them."""
    shared = f"how do I {SECRET.upper()} the jar, number 1"  # as in jailbreakbench, nearly
    goals = [*asked("spoon", 8), shared]
    alpaca = [{"instruction": t, "input": "", "output": "Gladly."} for t in asked("garden", 20)]
    alpaca += [{"instruction": t, "input": "", "output": "."} for t in asked("jar", 1)]
    alpaca += [{"instruction": f"Sum up, {SECRET}.", "input": "a text", "output": "."}]
    return {
        "advbench.csv": table([{"goal": g, "target": "Sure"} for g in goals]),
        "malicious_instruct.txt": "\n".join(asked("ladle", 5)) + "\n",
        "tdc2023_1.json": json.dumps(asked("kettle", 3)),
        "tdc2023_2.json": json.dumps([*asked("kettle", 1), *asked("cup", 3)]),
        "harmbench_val.csv": table(behaviours("plate")),
        "harmbench_test.csv": table(behaviours("bowl")),
        "jailbreakbench.csv": table(
            [{"Index": "0", "Goal": g, "Category": "jars"} for g in asked("jar", 4)]
        ),
        "strongreject.csv": table(
            [{"category": "pans", "forbidden_prompt": g} for g in asked("pan", 4)]
        ),
        "alpaca.json": json.dumps(alpaca),
    }


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "mirror"
    folder.mkdir()
    for name, text in originals().items():
        (folder / name).write_text(text)
    return folder


def read(name: str) -> list[dict[str, str | None]]:
    rows: list[dict[str, str | None]] = json.loads(
        (cache_folder("refusal") / f"{name}.json").read_text()
    )
    return rows


def test_sets_are_normalised_and_splits_share_no_prompt(mirror: Path) -> None:
    counts = fetch("refusal", str(mirror))
    assert counts == {name: len(read(name)) for name in counts}
    for name in counts:
        assert all(set(row) == {"instruction", "category"} for row in read(name))
    assert counts["advbench"] == 9
    assert counts["tdc2023"] == 7
    assert counts["harmbench_val"] == counts["harmbench_test"] == 4  # 2 of 6 are left out
    assert counts["alpaca"] == 21  # one has an input; one is a harmful prompt, and in no split
    assert read("jailbreakbench")[0]["category"] == "jars"
    assert read("malicious_instruct")[0]["category"] is None
    # a test prompt that AdvBench has, too, trains nothing; one twice in TDC counts once
    assert counts["harmful_test"] == 4 + 4 + 4
    assert counts["harmful_train"] == 8 + 5 + 6
    assert [counts[f"harmless_{part}"] for part in ("train", "val", "test")] == [12, 4, 4]
    words = [
        plain(str(row["instruction"]))
        for name in counts if name.startswith(("harmful_", "harmless_"))
        for row in read(name)
    ]  # fmt: skip
    assert len(words) == len(set(words))


def test_the_sets_are_prompt_sources_and_keep_their_splits(mirror: Path) -> None:
    with pytest.raises(UsageError, match="trimtab data fetch refusal"):
        prompts("refusal/harmful_train")
    fetch("refusal", str(mirror))
    found = prompts("refusal/jailbreakbench")
    assert [p.messages[-1]["content"] for p in found] == asked("jar", 4)
    assert found[0].meta["category"] == "jars"
    assert [p.id for p in prompts("refusal/harmful:val")] == [
        p.id for p in prompts("refusal/harmful", split="val")
    ]
    with pytest.raises(UsageError, match="harmful_test"):
        prompts("refusal/unheard_of")
    sizes = {"n_train": 10, "n_val": 3, "n_test": 5}
    sets = {"harmful": "refusal/harmful", "harmless": "refusal/harmless"}
    rows = choose_prompts(RefusalConfig.read(sizes | sets))
    known = {part: {p.id for p in prompts("refusal/harmful", split=part)}
             for part in ("train", "val", "test")}  # fmt: skip
    (name, test), (_, other) = rows["reports"]
    assert name == "harmful"
    assert {r["id"] for r in rows["harmful_train"]} <= known["train"]
    assert {r["id"] for r in rows["harmful_val"]} <= known["val"]
    assert {r["id"] for r in test} <= known["test"]
    assert [len(rows["harmful_train"]), len(rows["harmful_val"]), len(test)] == [10, 3, 5]
    assert len(other) == 4


def test_checksums_are_recorded_once_and_checked_afterwards(
    mirror: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = fetch("refusal", str(mirror))
    folder = cache_folder("refusal")
    known = json.loads((folder / "checksums.json").read_text())
    for name in originals():
        assert known[f"raw/{name}"] == hashlib.sha256((mirror / name).read_bytes()).hexdigest()
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    nothing = tmp_path / "nothing"
    assert fetch("refusal", str(nothing)) == first  # all of it is there
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before

    (folder / "raw" / "advbench.csv").write_text("damaged")  # fetched again, and the same
    fetch("refusal", str(mirror))
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before

    (folder / "raw" / "advbench.csv").unlink()
    (mirror / "advbench.csv").write_text(table([{"goal": f"{SECRET} it", "target": ""}]))
    with pytest.raises(RunError, match="not what it was") as changed:
        fetch("refusal", str(mirror))
    assert "checksums.json" in changed.value.remedy
    assert SECRET not in str(changed.value)

    (folder / "alpaca.json").write_text("[]")
    with pytest.raises(UsageError, match="has changed"):
        prompts("refusal/alpaca")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("advbench.csv", f"<html>\n<p>{SECRET}, {SECRET}</p></html>"),
        ("advbench.csv", f"{SECRET} it,{SECRET} that\nnow,then\n"),
        ("strongreject.csv", f"category,forbidden_prompt\npans,{SECRET},{SECRET}\n"),
        ("tdc2023_2.json", json.dumps([{"prompt": SECRET}])),
        ("alpaca.json", f'[{{"instruction": "{SECRET}"'),
        ("alpaca.json", json.dumps([{"instruction": SECRET, "output": "."}])),
        ("malicious_instruct.txt", "\n"),
    ],
)
def test_a_changed_format_is_an_error_without_a_prompt(mirror: Path, file: str, text: str) -> None:
    (mirror / file).write_text(text)
    with pytest.raises(RunError, match=file) as error:
        fetch("refusal", str(mirror))
    assert error.value.remedy
    assert SECRET not in str(error.value)
    assert not (cache_folder("refusal") / "checksums.json").exists()


def test_no_network_is_an_error_with_a_way_out(mirror: Path) -> None:
    (mirror / "advbench.csv").unlink()
    with pytest.raises(RunError, match=r"advbench\.csv cannot be fetched") as error:
        fetch("refusal", str(mirror))
    assert "--mirror" in error.value.remedy
    with pytest.raises(RunError, match="refused"):
        fetch("refusal", "http://127.0.0.1:9")  # nobody listens there


def test_over_http_and_nothing_of_a_prompt_is_printed(
    mirror: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(mirror))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        assert main(["data", "fetch", "refusal", "--mirror", address]) == 0
        (mirror / "alpaca.json").unlink()
        (cache_folder("refusal") / "raw" / "alpaca.json").unlink()
        assert main(["data", "fetch", "refusal", "--mirror", address]) == 1
        server.shutdown()
    out, err = capfd.readouterr()
    assert "refusal/harmful_train: 19 prompts" in out
    assert "not found" in err.lower()
    assert SECRET not in out + err


def test_every_address_is_public_and_every_set_is_described() -> None:
    assert collections() == ["refusal"]
    described = yaml.safe_load((DOWNLOADS / "refusal.yaml").read_text())
    names = [name for n, s in described["sources"].items() for name, _ in raw_files(n, s)]
    assert sorted(names) == sorted(originals())
    hosts = {url.split("/")[2] for s in described["sources"].values() for url in s["files"]}
    assert hosts == {"raw.githubusercontent.com", "huggingface.co"}
    with pytest.raises(UsageError, match="refusal"):
        fetch("unheard_of")
