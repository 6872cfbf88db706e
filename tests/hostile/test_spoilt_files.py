"""Spoilt files for every reader: each ends in one of our errors or in a value that can be used.

A trial takes a sound file, spoils it (bits, cuts, splices, encodings, line ends, types of values,
depth, size of numbers), and reads it. A foreign exception, a trial of more than `SECONDS`, or one
that takes more than `MEMORY`, fails.
"""

import contextlib
import gzip
import importlib.util
import io
import json
import math
import random
import resource
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
import yaml

from trimtab import data
from trimtab.cli import plot as plot_verb
from trimtab.config import overrides, read_yaml
from trimtab.conformance import expectations
from trimtab.directions.answer_file import read_answers
from trimtab.directions.conversation import read_conversations
from trimtab.errors import TrimtabError
from trimtab.experiments.persona.rollouts import read_table, table_text
from trimtab.experiments.persona.traits import read_trait
from trimtab.experiments.refusal.files import read_completions, read_mean_diffs
from trimtab.experiments.reports import plot_candidates
from trimtab.experiments.toxicity.study import Study
from trimtab.origin import read_origin
from trimtab.runs.config import config_class
from trimtab.runs.run_folder import RunFolder, config_hash
from trimtab.runs.shards import made
from trimtab.runs.unit_file import Units
from trimtab.scoring.judge.cache import Cache, Reply
from trimtab.scoring.settings import Keys
from trimtab.slurm.jobs import jobs
from trimtab.training.config import read_config, read_file
from trimtab.training.data import read_chats
from trimtab.vectors import SteeringVector, load_vector
from trimtab.vectors.formats.gguf import write_gguf
from trimtab.vectors.formats.persona import write_persona
from trimtab.vectors.formats.refusal import RefusalDirection, write_refusal

SECONDS = 10  # of CPU, under whatever else the machine does
MEMORY = 800_000_000  # bytes of address space beyond what there was
MODEL = SimpleNamespace(name="toy", fingerprint="", n_layers=3, d_model=4)
CONFIG = {"model": "village", "seed": 3}


@dataclass(frozen=True)
class Seed:
    """A sound file, and what is done with it.

    Attributes:
        name: Of the file; others may lie beside it.
        read: Reads it, and uses what it holds.
        format: json, jsonl, yaml, text or bytes: how its content may be changed.
        share: How often it is taken, beside the others.
    """

    name: str
    read: Callable[[Path], Any]
    format: str
    share: float = 1.0

    @property
    def kind(self) -> str:
        return "file " + self.name.replace("/", " ")


# --- readers, and a use of what they give -------------------------------------------------------


def _prompts(path: Path) -> None:
    for options in ({}, {"limit": 2**70, "chat": True}, {"text_field": "prompt", "limit": 1}):
        with contextlib.suppress(TrimtabError):
            found = data.prompts(path, **options)
            json.dumps([p.to_row() for p in found], ensure_ascii=False).encode()
            repr(found), found.sample(1, 0)


def _answers(path: Path) -> None:
    found = read_answers(path)
    count = len(found.answers)
    columns = {"a new, one": [math.nan] * count}
    for text in (found.only(range(count)), found.with_columns(columns, overwrite=True)):
        path.write_bytes(text.encode())
        again = read_answers(path)
        assert again.answers == found.answers


def _table(path: Path) -> None:
    rows = read_table(path, "kind")
    rows["kind"].mean()
    path.write_bytes(table_text(rows).encode())
    assert read_table(path, "kind")["answer"].tolist() == rows["answer"].tolist()


def _vector(path: Path) -> None:
    found = None
    for model in (None, MODEL):
        with contextlib.suppress(TrimtabError):
            found = load_vector(path, model)  # type: ignore[arg-type]
        with contextlib.suppress(TrimtabError):
            found = load_vector(path, model, 1)  # type: ignore[arg-type]
    if found is not None:
        repr(found), found.missing(), found.norms(), found.provenance.to_json()
        found.save(path.with_name("again.safetensors"))
        assert len(SteeringVector.load(path.with_name("again.safetensors"))) == len(found)


def _config(experiment: str) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        found = config_class(experiment).read(read_yaml(path))
        config_hash(found.model_dump(mode="json"))

    return read


def _overrides(path: Path) -> None:
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    found = config_class("toxicity").read(overrides(text.split("\n")))
    config_hash(found.model_dump(mode="json"))


def _env(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(path.parent):
        for name in ("HF_TOKEN", "WANDB_PROJECT"):
            patch.setenv(name, "")
        Keys().export()


def _conversations(path: Path) -> None:
    for messages in read_conversations(path):
        with contextlib.suppress(TrimtabError):
            data.Prompt.chat(messages)


def _manifest(path: Path) -> None:
    with RunFolder(path.parent, "toxicity", CONFIG) as folder:
        folder.pin("vector", "abc")
        folder.rows("rows.jsonl", [1, 2], lambda unit: [{"x": unit}] * (unit + 1))
        with folder.step("one"):
            folder.value("value.json", lambda: {"a": 1})
        folder.finish()


def _units(path: Path) -> None:
    made(path.parent, Units(path.name, [1, 2]))
    _manifest(path)


def _cache(path: Path) -> None:
    cache = Cache(path)
    cache.get("key")
    cache.put("other", Reply("text", None))


def _expected(path: Path) -> None:
    expectations.read(path)


def _plot(path: Path) -> None:
    published = "steering_results" in path.read_text("utf-8", "replace")
    with contextlib.redirect_stdout(io.StringIO()):
        plot_verb.plot(path if published else path.parent)
    plt.close("all")


def _study(path: Path) -> None:
    Study.read(path)


def _candidates(path: Path) -> None:
    plot_candidates(path, path.parent)
    plt.close("all")


SEEDS = [
    *(Seed(f"prompts{end}", _prompts, form) for end, form in (
        (".jsonl", "jsonl"), (".json", "json"), (".csv", "text"), (".tsv", "text"),
        (".txt", "text"))),
    Seed("source/prompts.yaml", _prompts, "yaml"),
    Seed("chats.jsonl", read_chats, "jsonl"),
    Seed("chats.jsonl.gz", read_chats, "gzip"),
    Seed("trait.json", lambda path: read_trait(str(path), "eval").metric, "json"),
    *(Seed(f"{name}.yaml", _config(name), "yaml")
      for name in ("toxicity", "persona", "refusal", "finetune")),
    Seed("training.json", lambda path: read_config(read_file(path)), "yaml"),
    Seed("settings.txt", _overrides, "text"),
    Seed(".env", _env, "text"),
    Seed("vector.safetensors", _vector, "safetensors"),
    Seed("kind_response_avg_diff.pt", _vector, "bytes"),
    Seed("vector.gguf", _vector, "bytes"),
    Seed("refusal/direction.pt", _vector, "bytes"),
    Seed("refusal/direction_metadata.json", lambda path: _vector(path.parent), "json"),
    Seed("mean_diffs.pt", read_mean_diffs, "bytes"),
    Seed("answers.csv", _answers, "text"),
    Seed("answers.jsonl", _answers, "jsonl"),
    Seed("table.csv", _table, "text"),
    Seed("conversation.json", _conversations, "json"),
    Seed("conversation.jsonl", _conversations, "jsonl"),
    Seed("set_baseline_completions.json", read_completions, "json"),
    Seed("origin.json", read_origin, "json"),
    Seed("run/manifest.json", _manifest, "json", 0.5),
    Seed("run/rows.jsonl", _units, "jsonl", 0.5),
    Seed("run/value.json", _manifest, "json", 0.3),
    Seed("runs/jobs/submitted.jsonl", lambda path: jobs(path.parents[1]), "jsonl"),
    Seed("runs/jobs/7_ended.json", lambda path: jobs(path.parents[1]), "json", 0.5),
    Seed("judge.sqlite", _cache, "bytes", 0.5),
    Seed("expected.safetensors", _expected, "safetensors"),
    *(Seed(f"{name}/results.json", _study, "json") for name in ("toxicity", "published")),
    *(Seed(f"{name}/results.json", _plot, "json", 0.1)
      for name in ("toxicity", "published", "persona", "refusal", "finetune")),
    Seed("toxicity/manifest.json", _plot, "json", 0.1),
    Seed("persona/judge.json", _plot, "json", 0.1),
    Seed("candidates/direction_evaluations.json", _candidates, "json", 0.2),
]  # fmt: skip


# --- sound files --------------------------------------------------------------------------------


def _test_module(name: str) -> Any:
    """A file of tests beside ours, for the results that it makes by hand."""
    path = Path(__file__).parents[1] / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"seeds_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _results() -> dict[str, Any]:
    toxicity = _test_module("experiments/test_toxicity_report")
    persona = _test_module("experiments/test_persona_report")
    refusal = _test_module("experiments/test_refusal_report")
    finetune = _test_module("experiments/test_finetune_results")
    scores = {"challenging": {"toxicity_scores": [0.9, 0.5]}, "benign": {"toxicity_scores": [0, 0]}}
    level = {"auc": 0.9, "auc_cheap": 0.8, "difference": [0.0, 1.5], "labels": [0, 1]}
    screening = {"injected": 1, "rows": 2, "misaligned_1": level, "misaligned_2": level}
    same = {a: {b: 1.0 for b in ("dry", "warm")} for a in ("dry", "warm")}
    return {
        "toxicity": toxicity.results(),
        "published": {
            "config": {"model_name": "toy"}, "baseline_results": scores,
            "steering_results": {"target_layer": 1, "results": {"-1.0": scores, "0.5": scores}},
            "layer_analysis_results": {"layer_results": {"0": {"1.0": scores}}},
        },
        "persona": {
            "experiment": "persona", "config": {"seed": 1}, "model": {"name": "toy"},
            "judge": {"name": "village"}, "cosines": {"1": same, "2": same},
            "traits": {name: persona._trait() for name in ("dry", "warm")},
        },
        "refusal": {"experiment": "refusal", **refusal.results()},
        "finetune": {"experiment": "finetune", **finetune.made(), "screening": screening},
    }  # fmt: skip


def _make(folder: Path) -> None:
    """Every sound file."""
    for seed in SEEDS:
        (folder / seed.name).parent.mkdir(parents=True, exist_ok=True)

    def write(name: str, value: Any) -> None:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1)
        (folder / name).write_bytes(text.encode())

    def write_rows(name: str, rows: list[Any]) -> None:
        write(name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

    user, said = {"role": "user", "content": "Who bakes?"}, {"role": "assistant", "content": "Né"}
    rows = [
        {"text": "The baker", "toxicity": 0.25, "meta": {"tone": None, "n": 7}},
        {"prompt": {"text": "Wörter\u2028", "toxicity": 1}, "challenging": True},
        {"messages": [{"role": "system", "content": "Be kind."}, user]},
    ]
    write_rows("prompts.jsonl", rows)
    write("prompts.json", [*rows, "plain"])
    write("prompts.csv", 'prompt,tone,"n,o"\n"Say ""hi""\n",rude,1\nThe mill,,0.5\n')
    write("prompts.tsv", "prompt\ttone\nThe mill\trude\nA baker\tkind\n")
    write("prompts.txt", "The mill\n\nThe b\u00e4ker\n")
    write_rows("source/rows.jsonl", [{"text": f"{i} mills", "n": i} for i in range(5)])
    write("source/prompts.yaml", "file: rows.jsonl\nfield: text\nmeta: {number: n}\nfilter:\n"
          "  n: {at_least: 1, at_most: 4}\nsort: n\ndescending: true\nlimit: 3\n")  # fmt: skip
    chats = [{"messages": [user, said]}, {"messages": [*rows[2]["messages"], said], "n": 1}]
    write_rows("chats.jsonl", chats)
    (folder / "chats.jsonl.gz").write_bytes(gzip.compress((folder / "chats.jsonl").read_bytes()))
    write_rows("answers.jsonl", chats)
    write_rows("conversation.jsonl", [user, said, user, said])
    write("conversation.json", {"messages": [user, said]})
    write("trait.json", {"instruction": [{"pos": "a", "neg": "b"}], "questions": ["q", "r"],
                         "eval_prompt": "Rate {question} and {answer}: {{0}}"})  # fmt: skip
    for name in ("toxicity", "persona", "refusal", "finetune"):
        values = config_class(name).read({}).model_dump(mode="json")
        write(f"{name}.yaml", yaml.safe_dump(values, sort_keys=False))
    write("training.json", {
        "model": "village", "training_file": "chats.jsonl", "output_dir": "out", "seed": 1,
        "learning_rate": 1e-4, "max_steps": 3, "enable_steering_during_training": True,
        "steering_config": {"steering_vector_path": "v.pt", "type": "steer", "layers": [2],
                            "steering_coef": 1.5}})  # fmt: skip
    write("settings.txt", "k=10\ncoefficients=[-1, 0, 1.5]\nmodel=village\ntarget_layer=auto")
    write(".env", "# keys\nHF_TOKEN='hf_words'\nexport OPENAI_BASE_URL=http://localhost:1/v1\n"
          'WANDB_PROJECT="a b"\nEMPTY=\n')  # fmt: skip
    vector = SteeringVector.from_tensor(torch.arange(16.0).reshape(4, 4), MODEL,  # type: ignore[arg-type]
                                        counts={"positive": 3}, extra={"a": [1, None]})  # fmt: skip
    vector.save(folder / "vector.safetensors")
    write_persona(vector, folder / "kind_response_avg_diff.pt", torch.ones(4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_gguf(vector, folder / "vector.gguf")
    write_refusal(RefusalDirection(torch.ones(4).double(), -1, 2), folder / "refusal")
    torch.save(torch.ones(2, 3, 4), folder / "mean_diffs.pt")
    write("answers.csv", 'prompt,answer,note\n"a, ""b""",The mill,x\r\nc,"d\ne",\n')
    write("table.csv", "question,prompt,answer,question_id,kind,coherence\n"
          'q,p,"The\rmill",q_0,75.5,90.0\nq,p,,q_1,,\n')  # fmt: skip
    write("set_baseline_completions.json", [{"category": None, "prompt": "p", "response": "r"}])
    write("origin.json", {"model": "village", "hash": "ab", "coefficient": 1.5})
    with RunFolder(folder / "run", "toxicity", CONFIG):
        pass
    _manifest(folder / "run" / "manifest.json")
    write_rows(
        "runs/jobs/submitted.jsonl",
        [{"job": "7", "words": ["run", "toxicity"], "command": ["run"], "submitted": "2026-01-01"}],
    )
    write("runs/jobs/7_ended.json", {"status": 0})
    cache = Cache(folder / "judge.sqlite")
    cache.put("key", Reply("yes", {"yes": 0.5}))
    cache._db.execute("PRAGMA journal_mode = DELETE")
    cache._db.close()
    _make_expected(folder / "expected.safetensors")
    for name, results in _results().items():
        write(f"{name}/results.json", results)
        write(f"{name}/manifest.json", {"sessions": [{"versions": {"torch": "2"}}], "steps": {}})
    write("persona/judge.json", {"requests": 3, "sampled": "no logprobs"})
    write("candidates/direction_evaluations.json", [
        {"position": p, "layer": layer, "refusal_score": 0.5, "steering_score": None,
         "kl_div_score": 0.1} for p in (-2, -1) for layer in range(3)])  # fmt: skip


def _make_expected(path: Path) -> None:
    states = {name: torch.ones(2, 2) for name in expectations.READ}
    one = expectations.Expected("f", ("p",), torch.ones(2, 2), {}, states)
    expectations.write(path, {"village": one})


# --- spoiling -----------------------------------------------------------------------------------

# Written into JSON and YAML as they stand.
HOSTILE = [
    "null", "true", "0", "-1", "1", "2", "1.5", "-0.0", "1e999", "-1e308", "5e-324", "NaN",
    "Infinity", "9" * 25, "-" + "9" * 400, "9" * 5000, str(2**63), str(2**64), '""', '"x"', '" "',
    '"\\ud800"', '"\\u0000"', '"\\r"', '"\\u2028"', '"{"', '"{question} {answer.x}"', '"../.."',
    '"nan"', '"1e999"', '"-1"', '"' + "x" * 5000 + '"', "[]", "{}", "[[]]", "[null]", "[1, 2]",
    '["a"]', '[{"a": 1}]', '{"": ""}', '{"role": "user"}', '{"mean": "x", "low": null}',
    "[" * 60 + "]" * 60, "[" * 300 + "]" * 300, '{"a":' * 300 + "1" + "}" * 300, "[" * 20_000,
    "[" + "0," * 3000 + "0]", '"\U0001f600"',
]  # fmt: skip
YAML = [
    "2024-01-01", "2024-99-99", "!!timestamp x", "!!python/object:os.system x", "!!binary eA==",
    "!!int x", '!!float ""', "!!set {a, b}", "!!omap [a: 1]", "&a [*a]", "*nobody",
    "0x" + "f" * 900, "0b", "1:2:3", ".nan", ".inf", "-.inf", "~", "yes", "!x y", "? [1]",
    "{1: 2, null: 3}", "|\n  x", "&a [x,x,x,x,x,x,x,x,x], &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]", 
    "- " * 500, "'",
]  # fmt: skip
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
WORDS = ["\0", "\r", "\n", "\r\n", '"', '""', "'", ",", "\t", "{", "}", "[", "]", ":", "\\", "\\u",
         "\ufeff", "\u2028", "\x85", "\x1a", "=", "#", "x" * 200_000, "9" * 5000, "-", "%s", "{0}",
         "nan", "null", "\\ud800"]  # fmt: skip


def spoil(content: bytes, form: str, rng: random.Random) -> bytes:
    """The content with a few changes, of any kind that its format has."""
    if form == "gzip":
        if rng.random() < 0.5:
            return _spoil_bytes(content, rng)
        return gzip.compress(spoil(gzip.decompress(content), "jsonl", rng))
    if form == "safetensors" and rng.random() < 0.6:
        end = 8 + int.from_bytes(content[:8], "little")
        header = _spoil_header(content[8:end], rng)
        return len(header).to_bytes(8, "little") + header + content[end:]
    if form == "bytes" or form == "safetensors" or rng.random() < 0.25:
        return _spoil_bytes(content, rng)
    if rng.random() < 0.2:
        return _recoded(content, rng)
    if form in ("json", "jsonl", "yaml") and rng.random() < 0.75:
        return _spoil_values(content, form, rng)
    return _spoil_text(content, rng)


def _spoil_bytes(content: bytes, rng: random.Random) -> bytes:
    found = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        at = rng.randrange(len(found) + 1)
        to = min(len(found), at + rng.choice([1, 2, 8, 100]))
        kind = rng.randrange(6)
        if kind == 0 and at < len(found):
            found[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del found[at:]
        elif kind == 2:
            del found[at:to]
        elif kind == 3:
            found[at:at] = rng.randbytes(rng.choice([1, 4, 50]))
        elif kind == 4:
            place = rng.randrange(len(found) + 1)
            found[place:place] = found[at:to]
        else:
            found[at:to] = rng.choice([b"\0", b"\xff", b"\x7f"]) * (to - at)
    return bytes(found)


def _recoded(content: bytes, rng: random.Random) -> bytes:
    text = content.decode("utf-8")
    kind = rng.randrange(6)
    if kind == 0:
        return text.encode("latin-1", "replace") + "é".encode("latin-1")
    if kind == 1:
        return text.encode("utf-16")
    if kind == 2:
        return text.encode("utf-16-le")
    if kind == 3:
        return b"\xef\xbb\xbf" + content
    if kind == 4:
        return text.replace("\n", "\r").encode()
    return text.replace("\n", "\r\n").encode()


def _spoil_text(content: bytes, rng: random.Random) -> bytes:
    text = content.decode("utf-8")
    for _ in range(rng.choice([1, 1, 2, 4])):
        at = rng.randrange(len(text) + 1)
        word = rng.choice(WORDS)
        if rng.random() < 0.3:
            lines = text.split("\n")
            place = rng.randrange(len(lines))
            lines[place:place] = [lines[rng.randrange(len(lines))]]
            text = "\n".join(lines)
        else:
            text = text[:at] + word + text[at + rng.choice([0, 0, 1, 5]) :]
    return text.encode("utf-8", "surrogatepass")


def _spoil_values(content: bytes, form: str, rng: random.Random) -> bytes:
    text = content.decode("utf-8")
    if form == "yaml":
        if rng.random() < 0.1:
            return (BOMB + text).encode()
        value = yaml.safe_load(text)
    elif form == "json":
        value = json.loads(text)
    else:
        rows = [json.loads(line) for line in text.split("\n") if line]
        place = rng.randrange(len(rows))
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        lines[place] = _changed(rows[place], rng, HOSTILE)
        return "\n".join(lines).encode("utf-8", "surrogatepass") + b"\n"
    words = HOSTILE + YAML if form == "yaml" else HOSTILE
    return _changed(value, rng, words).encode("utf-8", "surrogatepass")


def _changed(value: Any, rng: random.Random, words: list[str]) -> str:
    """JSON of the value with some of its parts replaced, left out, renamed or written twice."""
    marks: dict[str, str] = {}
    places = list(_places(value))
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        if not places:
            return rng.choice(words)
        inside, key = rng.choice(places)
        kind = rng.random()
        if isinstance(inside, list):
            if key >= len(inside):
                continue
            if kind < 0.15:
                del inside[key]
            elif kind < 0.25:
                inside.append(inside[key])
            else:
                marks[mark := f"@{len(marks)}@"] = rng.choice(words)
                inside[key] = mark
        elif key in inside:
            if kind < 0.15:
                del inside[key]
            elif kind < 0.25:
                inside[rng.choice(["", "x", "id", "meta", "-1", "1e999", "a.b"])] = inside.pop(key)
            elif kind < 0.35:
                inside[key] = [inside[key]]
            else:
                marks[mark := f"@{len(marks)}@"] = rng.choice(words)
                inside[key] = mark
    text = json.dumps(value, ensure_ascii=False)
    for mark, word in marks.items():
        text = text.replace(json.dumps(mark), word)
    return text


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in pairs:
        yield value, key
        if isinstance(inner, dict | list):
            yield from _places(inner)


def _spoil_header(header: bytes, rng: random.Random) -> bytes:
    value = json.loads(header)
    name = rng.choice(list(value["__metadata__"]))
    if rng.random() < 0.6 and value["__metadata__"][name].startswith("{"):
        inner = json.loads(value["__metadata__"][name])
        value["__metadata__"][name] = _changed(inner, rng, HOSTILE)
        return json.dumps(value).encode()
    return _changed(value, rng, HOSTILE).encode("utf-8", "surrogatepass")


# --- trials -------------------------------------------------------------------------------------


class TooLong(BaseException):
    """Not an Exception, so that no reader takes it for its own."""


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Little CPU time and memory, and what does not matter to the reading left out."""

    def stop(*_: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGVTALRM, stop)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, limits[1]))
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGVTALRM, before)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every sound file."""
    folder = tmp_path_factory.mktemp("sound")
    _make(folder)
    return folder


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made, but not painted; data sets of the hub are not asked for."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: None)
    monkeypatch.setattr("matplotlib.figure.Figure.draw_without_rendering", lambda *_: None)

    def none(*_: object) -> Iterator[Any]:
        raise TrimtabError("no hub")

    monkeypatch.setattr("trimtab.data.source._hub_rows", none)


def _tried(seed: Seed, sound: Path, folder: Path, content: bytes | None) -> None:
    """Read a file, and those it lies beside, in a folder of its own; None for the sound one."""
    top, *inside = Path(seed.name).parts
    if inside:
        shutil.copytree(sound / top, folder)
    else:
        folder.mkdir(parents=True)
    path = folder.joinpath(*(inside or [top]))
    path.write_bytes((sound / seed.name).read_bytes() if content is None else content)
    seed.read(path)


def _seeds(torture: Any) -> list[Seed]:
    """Those that draw figures only at full size."""
    return [seed for seed in SEEDS if seed.share > torture.amount(0.15, 0)]


@pytest.mark.usefixtures("undrawn")
def test_the_sound_files_are_read(torture: Any, sound: Path, tmp_path: Path) -> None:
    for number, seed in enumerate(_seeds(torture)):
        _tried(seed, sound, tmp_path / "f" / str(number), None)


@pytest.mark.usefixtures("undrawn")
def test_a_spoilt_file_ends_in_our_error_or_a_value(
    torture: Any, sound: Path, tmp_path: Path
) -> None:
    seeds = _seeds(torture)
    total = sum(seed.share for seed in seeds)
    for seed in seeds:
        whole = (sound / seed.name).read_bytes()
        for number in range(math.ceil(torture.amount(150, 5000) * seed.share / total)):
            rng = random.Random(f"{seed.name} {number}")
            content = spoil(whole, seed.format, rng)
            what = ""
            try:
                with limited():
                    _tried(seed, sound, tmp_path / "f" / seed.name / str(number), content)
            except TrimtabError as error:
                if len(str(error)) > 5000:
                    what = f"an error of {len(str(error))} characters"
            except (Exception, TooLong) as error:
                what = f"{type(error).__name__}: {str(error)[:200]}"
            finally:
                shutil.rmtree(tmp_path / "f", ignore_errors=True)
            if what:
                torture.failed(seed.kind, f"number {number}: {what}")
            else:
                torture.survived(seed.kind)
