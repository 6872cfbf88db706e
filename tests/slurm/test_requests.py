"""Slurm options on the command line, the array they make, and times."""

import pytest

from trimtab.cli import main
from trimtab.errors import UsageError
from trimtab.slurm.jobs import jobs
from trimtab.slurm.submit import commands, minutes, read_request


def request(text):
    return read_request(text.split())


def test_without_slurm_nothing_is_taken():
    assert request("run toxicity --time 5") is None


def test_slurm_options_leave_the_command_line():
    made = request("run toxicity --k 3 --slurm --partition gpu --gpus=2 --shards 4")
    assert made.words == ("run", "toxicity", "--k", "3")
    assert made.options == {"partition": "gpu", "gpus": "2"}
    assert made.shards == 4


def test_models_times_shards():
    made = request("run toxicity --model a --model b --slurm --shards 2")
    assert commands(made) == [
        ["run", "toxicity", "--model", model, "--shard", f"{k}/2"] for model in "ab" for k in (1, 2)
    ]
    assert commands(request("run toxicity --model a --slurm")) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [("30", 30), ("30:01", 31), ("2:00:00", 120), ("1-12", 2160), ("1-12:30", 2190)],
)
def test_times(text, expected):
    assert minutes(text) == expected


@pytest.mark.parametrize(
    "text", ["village card --slurm", "run toxicity --slurm --shards 0", "run x --slurm --gpus"]
)
def test_mistakes(text):
    with pytest.raises(UsageError):
        request(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("run toxicity --bogus 3", "no setting 'bogus'"),
        ("run toxicity --model a --model b --k few", "k cannot be 'few'"),
        ("run persona --traits wicked,gloomy --recipe nope", "no recipe 'nope'"),
        ("run toxcity", "Did you mean"),
        ("run", "goes with an experiment"),
        ("run refusal --help", "goes with an experiment"),
    ],
)
def test_slips_are_found_before_the_queue(text, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*text.split(), "--slurm", "--shards", "2"]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_is_right_is_submitted(monkeypatch):
    monkeypatch.setattr("trimtab.slurm.submit.submit", lambda request: [request.words[1]])
    for text in (
        "run toxicity --model a --model b --k 3 --recipe qwen3-8b",
        "run persona --traits wicked,gloomy --shard 1/2",
        "run refusal --runs elsewhere --set n_train=8",
        "run finetune --trait optimistic",
    ):
        assert main([*text.split(), "--slurm", "--gpus", "1"]) == 0


def test_no_time():
    with pytest.raises(UsageError, match="not a time"):
        minutes("soon")


def test_no_jobs_yet(tmp_path):
    with pytest.raises(UsageError, match="No job"):
        jobs(tmp_path)
