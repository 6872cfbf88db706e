"""What cannot be run is refused before any weights are read, in one line, and leaves no folder."""

import importlib.util
import json
import shutil
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import trimtab as tt
from trimtab.cli import main
from trimtab.errors import TrimtabError
from trimtab.runs.config import EXPERIMENTS, config_class, read_recipe, recipes
from trimtab.runs.run_folder import RunFolder, run_path
from trimtab.scoring import text_sequence

KEYS = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "TOGETHER_API_KEY", "TRIMTAB_GUARD_KEY", "HF_TOKEN")
FEW = "--data few.csv --challenging 4 --benign 4"
SETS = "--harmful bad.txt --harmless good.txt --n-train 8 --n-val 4"
TEXTS = "--text-corpus good.txt --instructions chats.jsonl"
SHORT = "--max-new-tokens 8"
# A command -> what its one line must name; and must not, after a bar.
REFUSED = {
    # settings left out, for which another model has nothing here
    "run refusal --model real": "harmful=FILE harmless=FILE text_corpus=FILE instructions=FILE",
    "run refusal --model real ": "trimtab data fetch refusal",
    "run refusal --model real --harmful bad.txt": "harmless is refusal/harmless | harmful is",
    f"run refusal --model real {SHORT} {SETS}": "--set text_corpus=FILE instructions=FILE",
    f"run toxicity --model real {SHORT}": "--set data=FILE",
    "run finetune --model real": "--set data=village",
    "layers --model real": "--set data=FILE",
    # files, sets and their sizes
    f"run toxicity --model real {SHORT} --data few.csv": "few.csv has 60 different prompts; 100",
    "run toxicity --data missing.csv": "missing.csv",
    "run toxicity --ordinary-text missing.txt": "missing.txt",
    "run refusal --model real --harmful bad.txt --harmless good.txt --n-train 900": "bad.txt",
    f"run refusal --model real {SHORT} {SETS} --instructions good.txt": "good.txt has no answers",
    "run persona --model real --traits nothing": "'nothing'",
    "run persona --judge village --traits formal": "'formal'",
    "run finetune --rows 5000": "480 examples",
    "run finetune --questions 5000": "5000",
    # packages
    "run toxicity --scorer detoxify": "trimtab[detoxify]",
    "run finetune --seed 3": "trimtab[train]",
    "run toxicity --backend vllm": "trimtab[vllm]",
    "run refusal --backend transformer_lens": "trimtab[transformer-lens]",
    "run toxicity --quantization 4bit": "bitsandbytes",
    # the model
    "run toxicity --model no/such": "'no/such' | classifier",
    "run persona --model no/such": "'no/such' | key",
    "run persona --model raw": "chat template | key",
    "run toxicity --model village --model no/such": "'no/such' | report",
    "run toxicity --model ./bad.txt": "bad.txt",
    "run toxicity --model hollow": "hollow has no weights",
    "run toxicity --model cut": "damaged",
    "run toxicity --adapter nowhere": "nowhere",
    "run toxicity --device abacus": "abacus",
    "run toxicity --dtype float7": "float7",
    "run toxicity --layers [99]": "99",
    f"run persona --model real {SHORT} --layers [99]": "99 | key",
    "run finetune --layer 99 --set seed=0": "99",
    "run persona --model real --judge village --max-new-tokens 900": "512",
    f"run refusal --model raw {SHORT} {SETS} {TEXTS}": "chat template",
    f"run refusal --model real {SHORT} {SETS} {TEXTS} --refusal-tokens [99999999]": "99999999",
    # scorers, judges and keys
    "run toxicity --scorer village/nonsense": "nonsense",
    f"run toxicity --model real {SHORT} {FEW} --scorer no/such": "The classifier 'no/such'",
    f"run toxicity --model real {SHORT} {FEW} --scorer llm:gpt-4.1-mini": "OPENAI_API_KEY",
    f"run persona --model real {SHORT}": "OPENAI_API_KEY",
    f"run persona --model real {SHORT} --judge hf:no/such": "'no/such'",
    f"run persona --model real {SHORT} --judge nonsense": "'nonsense'",
    f"run refusal --model real {SHORT} {SETS} {TEXTS} --judges [nonsense]": "'nonsense'",
    f"run refusal --model real {SHORT} {SETS} {TEXTS} --judges [llamaguard]": "LlamaGuard",
    f"run refusal --model real {SHORT} {SETS} {TEXTS} --judges [llm] --guard-url http://a/v1":
        "TRIMTAB_GUARD_KEY",
    # single steps
    "refusal directions --model real --out out": "--harmful FILE --harmless FILE",
    "refusal directions --model raw --harmful bad.txt --harmless good.txt --out out": "template",
    "refusal select --model real --directions missing.pt --out out": "missing.pt",
    "refusal complete --model real --direction missing --out out": "missing",
    "refusal loss --model real --direction direction --text bad.txt --out out": "alpaca",
    "refusal loss --model real --direction direction --out out": "--text-corpus FILE",
    "persona evaluate --model real --trait formal --max-new-tokens 8 --out out/t.csv": "API_KEY",
    "persona evaluate --model raw --trait formal --max-new-tokens 8 --out out/t.csv": "template",
    "persona evaluate --model real --trait wicked --out out/t.csv": "'wicked'",
    "persona evaluate --model real --trait formal --judge village --out out/t.csv": "'formal'",
    "persona sweep --model real --trait formal --vector v.safetensors": "API_KEY",
    "persona sweep --model real --trait formal --vector missing.pt": "missing.pt",
    "persona shift --base real --tuned real --vector v.safetensors --layer 2": "--prompts FILE",
    "persona shift --base real --tuned no/such --vector v.safetensors --layer 2 --prompts good.txt "
    "--text good.txt": "'no/such'",
    "project --model real --vector v.safetensors --layer 99 --file chats.jsonl": "99",
    "project --model raw --vector v.safetensors --layer 2 --file chats.jsonl": "template",
    "screen --model real --vector missing.pt --layer 2 --file chats.jsonl": "missing.pt",
    "screen --model no/such --vector v.safetensors --layer 2 --file chats.jsonl": "'no/such'",
    "monitor --model raw --vector v.safetensors --layer 2 --file chats.jsonl": "template",
    "train --config train.yaml": "missing.jsonl",
    "train --config train.yaml --set training_file=chats.jsonl": "template",
    "train --config train.yaml --set training_file=chats.jsonl model=no/such": "'no/such'",
    "train --config steered.yaml": "missing.pt",
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, golden: Path) -> Path:
    """A folder with models, prompts and vectors, as a user may have."""
    folder = tmp_path_factory.mktemp("place")
    for name in ("real", "raw", "hollow", "cut"):
        shutil.copytree(golden / "models/llama-3-tiny-rand", folder / name)
    (folder / "raw/chat_template.jinja").unlink()
    (folder / "hollow/model.safetensors").unlink()
    weights = (folder / "cut/model.safetensors").read_bytes()
    (folder / "cut/model.safetensors").write_bytes(weights[:-100])
    rows = [f"The miller has {i} sacks." for i in range(60)]
    (folder / "few.csv").write_text("text\n" + "\n".join(rows) + "\n")
    (folder / "bad.txt").write_text("".join(f"Tip over cart {i}.\n" for i in range(40)))
    (folder / "good.txt").write_text("".join(f"Mend cart {i}.\n" for i in range(40)))
    chat = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Good day."}]
    (folder / "chats.jsonl").write_text((json.dumps({"messages": chat}) + "\n") * 3)
    tt.SteeringVector.from_tensor(torch.randn(9, 16)).save(folder / "v.safetensors")
    (folder / "direction").mkdir()
    torch.save(torch.randn(16, dtype=torch.float64), folder / "direction/direction.pt")
    (folder / "direction/direction_metadata.json").write_text('{"pos": -1, "layer": 2}')
    (folder / "train.yaml").write_text("model: raw\ntraining_file: missing.jsonl\n")
    (folder / "steered.yaml").write_text(
        "model: real\ntraining_file: chats.jsonl\nenable_steering_during_training: true\n"
        "steering_config: {steering_vector_path: missing.pt, layers: [2]}\n"
    )
    return folder


@pytest.fixture
def weightless(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, where reading weights is a failure, and neither keys nor trl are there."""

    def read(*_: object, **__: object) -> None:
        raise AssertionError("weights were read")

    monkeypatch.chdir(place)
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    for auto in ("AutoModelForCausalLM", "AutoModelForSequenceClassification"):
        monkeypatch.setattr(getattr(transformers, auto), "from_pretrained", read)
    found = importlib.util.find_spec
    absent = {"detoxify", "vllm", "transformer_lens", "bitsandbytes"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name in absent else found(name, *a)
    )
    return place


def _refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    status = main(words)
    out, err = capsys.readouterr()
    line = err.splitlines()[-1]
    assert status in (1, 2), err
    assert line.startswith("error: ")
    assert "weights were read" not in err
    assert "unexpected" not in err
    assert out == ""
    return line


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_run_is_refused_before_weights_are_read(
    words: str,
    weightless: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    named, _, unnamed = REFUSED[words].partition(" | ")
    if "trimtab[train]" in named:
        real = importlib.util.find_spec
        monkeypatch.delitem(sys.modules, "trl", raising=False)
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda n, *a: None if n == "trl" else real(n, *a)
        )
    before = sorted(weightless.rglob("*"))
    said = _refused(words.split(), capsys)
    assert named in said
    assert not unnamed or unnamed not in said
    left = [p for p in sorted(weightless.rglob("*")) if p not in before]
    assert not [p for p in left if "cache" not in p.parts], left


@pytest.mark.parametrize("recipe", recipes())
def test_the_checks_of_every_recipe_run_in_its_experiment_without_weights(
    recipe: str, weightless: Path
) -> None:
    experiment = recipes()[recipe]
    config: Any = config_class(experiment).read(read_recipe(recipe))
    check = import_module(f"trimtab.experiments.{experiment}.checks").check
    if config.model == "village":
        check(config)
        return
    with pytest.raises(TrimtabError) as caught:
        check(config)
    assert config.model in str(caught.value)  # it is on the hub, which the tests do not ask


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_the_village_passes_every_check(experiment: str, weightless: Path) -> None:
    import_module(f"trimtab.experiments.{experiment}.checks").check(
        config_class(experiment).read({})
    )


@pytest.mark.parametrize(
    ("experiment", "settings"),
    [
        ("toxicity", {"data": "few.csv", "challenging": 4, "benign": 4, "scorer": "village"}),
        ("persona", {"judge": "village", "traits": ["wicked"]}),
        ("refusal", {
            "harmful": "bad.txt", "harmless": "good.txt", "n_train": 8, "n_val": 4,
            "text_corpus": "good.txt", "instructions": "chats.jsonl",
        }),
        ("refusal", {
            "harmful": "village/mischief", "harmless": "village/harmless",
            "text_corpus": "village/scenes:test", "instructions": "village/chats:test",
            "judges": ["village/refusal"],
        }),
        ("finetune", {"data": "village"}),
    ],
    ids=["toxicity", "persona", "refusal", "refusal of the village", "finetune"],
)  # fmt: skip
def test_another_model_that_is_given_all_it_needs_passes(
    experiment: str, settings: dict[str, Any], weightless: Path
) -> None:
    values = {"model": "real", "max_new_tokens": 8} | settings
    import_module(f"trimtab.experiments.{experiment}.checks").check(
        config_class(experiment).read(values)
    )


def test_a_run_that_was_begun_goes_on_though_its_data_have_gone(
    weightless: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trimtab.experiments.checks import check_new

    config: Any = config_class("toxicity").read({"data": "gone.csv"})
    values = config.model_dump(mode="json")
    path = run_path(weightless / "runs", "toxicity", config.model, values)
    with pytest.raises(TrimtabError, match=r"gone\.csv"):
        check_new("toxicity", config, weightless / "runs")
    with RunFolder(path, "toxicity", values):
        check_new("toxicity", config, weightless / "runs")
    shutil.rmtree(weightless / "runs")


@pytest.mark.parametrize("recipe", recipes())
def test_the_doctor_knows_every_recipe(
    recipe: str, weightless: Path, capsys: pytest.CaptureFixture[str], golden: Path
) -> None:
    folder = str(golden / "models/llama-3-tiny-rand")
    main(["doctor", "--recipe", recipe, "--model", folder])
    lines = capsys.readouterr().out.splitlines()
    subjects = {line.split()[1]: line.split()[0] for line in lines if not line.startswith(" ")}
    assert subjects["model"] == "ok"
    assert ("judge" if recipes()[recipe] == "persona" else "scorer") in subjects


def test_ordinary_text_longer_than_the_context_is_cut(golden: Path) -> None:
    lm = tt.load(golden / "models/llama-3-tiny-rand")
    found = text_sequence(lm, "The miller has many sacks. " * 900)
    assert len(found.ids) == lm.context_length
    assert found.ids == text_sequence(lm, "The miller has many sacks. " * 800).ids
    with pytest.raises(tt.UsageError, match="512"):
        tt.generate(lm, ["The miller has many sacks. " * 900])


def test_an_outline_has_what_the_loaded_model_has(golden: Path) -> None:
    from trimtab.models.outline import outline

    for name in ("llama-3-tiny-rand", "qwen2-tiny-rand"):
        look, lm = outline(golden / "models" / name), tt.load(golden / "models" / name)
        assert (look.name, look.n_layers) == (lm.name, lm.n_layers)
        assert look.context_length == lm.context_length
