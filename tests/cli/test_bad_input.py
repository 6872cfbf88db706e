"""Bad input to a run: one line with cause and remedy, its status, and nothing written is lost."""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest
import torch

import trimtab as tt
from trimtab.cli import explain, main

SMALL = [
    "challenging=8", "benign=4", "k=2", "layers=[5]", "coefficients=[-1, 1]", "max_new_tokens=16",
    "layer_challenging=1", "layer_benign=1", "random_controls=0", "ordinary_texts=2",
]  # fmt: skip


def _words(runs: Path, *settings: str) -> list[str]:
    return ["run", "toxicity", "--runs", str(runs), "--set", *SMALL, *settings]


def _file(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


def _village_with(folder: Path, spoil: Callable[[Path], None]) -> Path:
    copy = folder / "model"
    shutil.copytree(str(files("trimtab.village") / "weights"), copy)
    spoil(copy / "model.safetensors")
    return copy


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def _hostile(path: Path) -> None:
    """A header that claims more bytes than there are in the world."""
    path.write_bytes((2**62).to_bytes(8, "little") + b'{"a":{}}')


def _missing_data(folder: Path) -> list[str]:
    return [f"data={folder / 'missing.jsonl'}"]


def _empty_data(folder: Path) -> list[str]:
    return [f"data={_file(folder, 'empty.jsonl', '')}"]


def _broken_data(folder: Path) -> list[str]:
    broken = _file(folder, "broken.jsonl", '{"text": ')
    return [f"data={broken}"]


def _long_prompt(folder: Path) -> list[str]:
    rows = [{"text": f"The miller said, {i} " * (400 if i == 0 else 1)} for i in range(16)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    return [f"data={_file(folder, 'long.jsonl', text)}"]


def _few_prompts(folder: Path) -> list[str]:
    return [f"data={_file(folder, 'few.jsonl', json.dumps({'text': 'The miller said,'}))}"]


def _truncated_model(folder: Path) -> list[str]:
    return [f"model={_village_with(folder, _truncated)}", "scorer=village", "data=village"]


def _hostile_model(folder: Path) -> list[str]:
    return [f"model={_village_with(folder, _hostile)}", "scorer=village", "data=village"]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (_missing_data, "missing.jsonl"),
        (_empty_data, "empty.jsonl"),
        (_broken_data, "broken.jsonl"),
        (_few_prompts, "few.jsonl"),
        (_long_prompt, "512"),
        (_truncated_model, "damaged"),
        (_hostile_model, "damaged"),
        (lambda _: ["layers=[99]"], "99"),
        (lambda _: ["target_layer=99"], "99"),
        (lambda _: ["target_layer=-1"], "-1"),
        (lambda _: ["scorer=village/nonsense"], "nonsense"),
        (lambda _: ["device=abacus"], "abacus"),
        (lambda _: ["model=/nowhere/at/all", "scorer=village", "data=village"], "/nowhere/at/all"),
        (lambda _: ["model=nobody/nothing", "scorer=village", "data=village"], "nobody/nothing"),
        (lambda _: ["coefficients=[]"], "coefficients"),
        (lambda _: ["coefficients=[0]"], "coefficients"),
    ],
    ids=lambda value: getattr(value, "__name__", "").strip("_<>") or None,
)
def test_bad_input_is_one_line_and_status_2(
    settings: Callable[[Path], list[str]],
    named: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    status = main(_words(tmp_path / "runs", *settings(tmp_path)))
    out, err = capsys.readouterr()
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert status == 2, err
    assert len(errors) == 1
    assert err.endswith(errors[0] + "\n")
    assert named in errors[0]
    assert "Traceback" not in err
    assert "report" not in out


@pytest.mark.parametrize("spoil", [_truncated, _hostile], ids=["truncated", "hostile"])
def test_a_spoilt_vector_file(spoil: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "vector.safetensors"
    values = torch.randn(11, 160)
    tt.SteeringVector.from_tensor(values).save(path)
    spoil(path)
    with pytest.raises(tt.TrimtabError) as caught:
        tt.load_vector(path)
    status, line = explain(caught.value)
    assert status == 2
    assert "vector.safetensors" in line
    assert "\n" not in line


def test_a_vector_of_another_width() -> None:
    lm = tt.load("village")
    narrow = tt.SteeringVector.from_tensor(torch.randn(lm.n_layers + 1, lm.d_model - 1))
    with (
        pytest.raises(tt.UsageError) as caught,
        tt.steer(lm, tt.Add(narrow, layer=2)),
    ):
        pass
    status, line = explain(caught.value)
    assert status == 2
    assert str(lm.d_model) in line
    assert str(lm.d_model - 1) in line


def _limited(limit: int | None, *words: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process whose files may not grow beyond `limit` bytes."""

    def limit_files() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    program = "import sys; from trimtab.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", program, *words],
        preexec_fn=limit_files, capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MPLCONFIGDIR": str(Path.home())},
    )  # fmt: skip


def test_no_space_stops_the_run_and_loses_nothing(tmp_path: Path) -> None:
    words = _words(tmp_path)
    for limit in (6_500, 60_000):  # enough for the completions, not a vector; then, not a picture
        stopped = _limited(limit, *words)
        assert stopped.returncode == 1, stopped.stderr
        assert "Traceback" not in stopped.stderr
        assert stopped.stderr.splitlines()[-1].startswith("error: Cannot write")
        assert "report" not in stopped.stdout
    written = next(tmp_path.rglob("completions/baseline.jsonl"))
    before = written.read_bytes()
    assert before.count(b"\n") == 12
    results = next(tmp_path.rglob("results.json")).read_bytes()

    done = _limited(None, *words)
    assert done.returncode == 0, done.stderr
    assert written.read_bytes() == before
    assert next(tmp_path.rglob("results.json")).read_bytes() == results
    assert Path(done.stdout.splitlines()[-1].removeprefix("report: ")).is_file()
    assert not list(tmp_path.rglob("*.tmp"))
