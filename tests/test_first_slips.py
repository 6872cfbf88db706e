"""What one types before reading the reference: each slip is an error that shows what to type."""

from functools import cache

import pytest
import torch

import trimtab as tt
from tiny_models import tiny_model
from trimtab.vectors.formats.gguf import write_gguf

CHAT = [{"role": "user", "content": "Who?"}]


@cache
def lm():
    return tiny_model("llama")


def vector():
    return tt.SteeringVector.from_tensor(torch.ones(lm().n_layers + 1, lm().d_model), lm())


@pytest.mark.parametrize(
    ("slip", "instead"),
    [
        (lambda v, f: tt.load_vector(f, model="village"), r'tt\.load\("village"\)'),
        (lambda v, f: tt.load_vector(f, model=lm().model), r"LlamaForCausalLM.*what tt\.load"),
        (lambda v, f: v.check("village"), r"tt\.load\("),
        (lambda v, f: tt.SteeringVector.from_tensor(v[2], "village", 2), r"tt\.load\("),
        (lambda v, f: tt.generate("village", ["a"]), r"tt\.load\("),
        (lambda v, f: tt.capture("village", ["a"]), r"tt\.load\("),
        (lambda v, f: tt.steer("village", tt.Add(v, 2)).__enter__(), r"tt\.load\("),
        (lambda v, f: tt.generate(lm(), [CHAT]), r"Prompt 0 is a list.*tt\.Prompt\.chat\(\["),
        (lambda v, f: tt.generate(lm(), CHAT), r"Prompt 0 is a dict.*tt\.Prompt\.chat\(\["),
        (lambda v, f: tt.capture(lm(), [CHAT]), r"Text 0: A list .*tt\.Prompt\.chat\(\["),
        (lambda v, f: tt.steer(lm(), [tt.Add(v, 2), None]).__enter__(), r"list.*steer\(lm, a, b\)"),
        (lambda v, f: tt.load(lm().model), r"LanguageModel\(model, tokenizer"),
        (lambda v, f: tt.prompts(["a", "b"]), r"list.*PromptSet\(\[Prompt\.raw"),
        (lambda v, f: v.save(f.with_name("x.gguf")), r"x\.safetensors; .*write_gguf"),
        (lambda v, f: v.save(f.with_name("x.PT")), r"Name it x\.safetensors\.$"),
    ],
)
def test_the_error_shows_what_to_type_instead(tmp_path, slip, instead):
    file = tmp_path / "direction.safetensors"
    vector().save(file)
    with pytest.raises(tt.UsageError, match=instead):
        slip(vector(), file)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_what_the_errors_show_works(tmp_path):
    loaded = tt.LanguageModel(lm().model, lm().tokenizer, "its name")
    assert loaded.fingerprint == lm().fingerprint
    words = tt.PromptSet([tt.Prompt.chat(words) for words in ("a", "b")])
    with tt.steer(loaded, tt.Add(vector(), 2), tt.Ablate(vector(), 2)):
        assert len(tt.generate(loaded, words, max_new_tokens=1)) == 2
    write_gguf(tt.SteeringVector.from_tensor(vector()[2], loaded, 2), tmp_path / "x.gguf")
    assert len(tt.load_vector(tmp_path / "x.gguf", model=loaded)) == loaded.n_layers + 1
