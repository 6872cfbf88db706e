"""Loading: what comes out."""

import json
import shutil
from pathlib import Path
from typing import Literal

import peft
import pytest
import torch
from safetensors.torch import load_file

from tiny_models import tiny_network, tiny_tokenizer
from trimtab.errors import UsageError
from trimtab.models import LanguageModel, encode, load
from trimtab.models.fingerprint import base_fingerprint, fingerprint
from trimtab.models.load import _dtype
from trimtab.models.threads import use_one_thread_if_small


@pytest.fixture(scope="module")
def village() -> LanguageModel:
    return load()


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """Copies: what load_file gives is the file itself, mapped into memory."""
    return {key: value.clone() for key, value in load_file(folder / "model.safetensors").items()}


def edit_json(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}))


# --- what comes out ---------------------------------------------------------


def test_the_village_is_the_default_in_float32_on_cpu(village: LanguageModel) -> None:
    assert village.name == "village"
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        assert village.device == torch.device("cpu")
        assert village.dtype == torch.float32
    assert not village.model.training


def test_attributes_are_those_of_the_configuration(saved: Path) -> None:
    lm = load(saved)
    assert (lm.n_layers, lm.d_model, lm.context_length) == (4, 32, 256)
    assert lm.pad_token == 2  # <pad>
    assert lm.end_tokens == {1, 3}  # </s>, and <|end|> from the template alone
    assert lm.leading_tokens == [0]  # <s>
    assert (lm.device, lm.dtype) == (torch.device("cpu"), torch.float32)


def test_a_model_in_training_is_put_to_evaluation() -> None:
    network = tiny_network("gpt2", resid_pdrop=0.5).train()
    assert not LanguageModel(network, tiny_tokenizer(), "x").model.training


def test_end_tokens_of_the_generation_configuration_may_be_a_list(folder: Path) -> None:
    edit_json(folder / "generation_config.json", eos_token_id=[5, 6])
    assert load(folder).end_tokens == {1, 3, 5, 6}


def test_pad_falls_back_to_an_end_token(folder: Path) -> None:
    edit_json(folder / "tokenizer_config.json", pad_token=None)
    assert load(folder).pad_token == 1


def test_a_local_folder_is_named_by_its_last_part(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(saved)
    for given in (saved, f"{saved}/", ".", "../tiny-llama"):
        assert load(given).name == "tiny-llama"


@pytest.mark.parametrize(("given", "expected"), [("bf16", "bfloat16"), ("float16", "float16")])
def test_dtype_is_what_was_asked_for(saved: Path, given: str, expected: str) -> None:
    assert load(saved, dtype=given).dtype == getattr(torch, expected)


def test_dtype_follows_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _dtype(None, torch.device("cpu")) == torch.float32
    assert _dtype(None, torch.device("mps")) == torch.float16
    for native, expected in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation, yes=native: yes
        )
        assert _dtype(None, torch.device("cuda")) == expected


def test_loading_is_quiet(saved: Path, adapter: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load(saved)
    load(saved, adapter=adapter)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_loading_leaves_the_logging_as_it_was(saved: Path) -> None:
    from transformers.utils import logging

    logging.set_verbosity_info()
    try:
        load(saved)
        assert logging.get_verbosity() == logging.INFO
        assert logging.is_progress_bar_enabled()
    finally:
        logging.set_verbosity_warning()


# --- fingerprints -----------------------------------------------------------


def test_fingerprint_of_a_bfloat16_checkpoint_does_not_depend_on_the_dtype(
    village: LanguageModel,
) -> None:
    prints = {load(dtype=dtype).fingerprint for dtype in ("bf16", "fp16")}
    assert prints == {village.fingerprint}


def test_fingerprint_changes_with_any_parameter() -> None:
    network = tiny_network("gemma2")
    prints = {fingerprint(network)}
    for parameter in network.parameters():
        original = parameter.detach().clone()
        parameter.data = original * 1.05
        prints.add(fingerprint(network))
        parameter.data = original
    assert len(prints) == 1 + len(list(network.parameters()))
    assert fingerprint(network) in prints


def test_fingerprint_changes_with_the_configuration(folder: Path, saved: Path) -> None:
    edit_json(folder / "config.json", rms_norm_eps=1e-3)
    assert load(folder).fingerprint != load(saved).fingerprint


def test_fingerprint_is_the_same_where_layers_lie_on_disk(village: LanguageModel) -> None:
    parts = ["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"]
    places = {part: "cpu" for part in parts}
    places |= {
        f"model.layers.{layer}": "disk" if layer > 5 else "cpu" for layer in range(village.n_layers)
    }
    assert load(device_map=places).fingerprint == village.fingerprint


# --- adapters ---------------------------------------------------------------


def test_an_adapter_stays_an_adapter(saved: Path, adapter: Path) -> None:
    plain, adapted = load(saved), load(saved, adapter=adapter)
    assert adapted.name == "tiny-llama+kinder"
    assert adapted.fingerprint != plain.fingerprint
    assert adapted.base_fingerprint == plain.base_fingerprint == plain.fingerprint
    ids = torch.arange(7, 20)[None]
    with torch.no_grad():
        changed = adapted.model(ids).logits
        through_base = adapted.anatomy.head(adapted.anatomy.base(ids).last_hidden_state)
        with adapted.model.disable_adapter():
            unchanged = adapted.model(ids).logits
        expected = plain.model(ids).logits
    torch.testing.assert_close(unchanged, expected)
    torch.testing.assert_close(through_base, changed)
    assert (changed - expected).abs().max() > 0.1


def test_any_kind_of_adapter_leaves_the_base_fingerprint(saved: Path) -> None:
    plain = load(saved).fingerprint
    prints = set()
    for settings in (
        peft.LoraConfig(target_modules=["q_proj"], use_dora=True),
        peft.LoraConfig(target_modules=["o_proj"], modules_to_save=["lm_head"]),
        peft.IA3Config(),
    ):
        settings.task_type = "CAUSAL_LM"
        network = peft.get_peft_model(load(saved).model, settings)
        assert base_fingerprint(network) == plain
        prints.add(fingerprint(network))
    assert len(prints - {plain}) == 3


def test_two_adapters_have_two_fingerprints(saved: Path, adapter: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(adapter, tmp_path / "other"))
    edit_json(other / "adapter_config.json", lora_alpha=32)
    assert load(saved, adapter=other).fingerprint != load(saved, adapter=adapter).fingerprint


def test_a_folder_that_holds_only_an_adapter_loads_its_base(saved: Path, adapter: Path) -> None:
    lm = load(adapter)
    assert lm.name == "tiny-llama+kinder"
    assert lm.fingerprint == load(saved, adapter=adapter).fingerprint


def test_an_adapter_without_a_base_says_so(adapter: Path, tmp_path: Path) -> None:
    lost = Path(shutil.copytree(adapter, tmp_path / "lost"))
    edit_json(lost / "adapter_config.json", base_model_name_or_path=None)
    with pytest.raises(UsageError, match="does not say which model"):
        load(lost)


def test_an_adapter_for_another_model_is_refused(adapter: Path) -> None:
    with pytest.raises(UsageError, match=r"adapter .* could not be loaded"):
        load("village", adapter=adapter)


# --- quantised, threads -------------------------------------------------------


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_a_quantised_model_has_the_same_parts(
    village: LanguageModel, quantization: Literal["4bit", "8bit"]
) -> None:
    pytest.importorskip("bitsandbytes")
    lm = load("village", quantization=quantization)
    assert lm.anatomy.describe() == village.anatomy.describe()
    assert lm.fingerprint != village.fingerprint
    ids = torch.tensor([encode(village, "The old mill by the river was")])
    with torch.no_grad():
        gap = lm.model(ids).logits.float() - village.model(ids).logits
    assert 0 < gap.abs().mean() < 1


def test_a_small_model_runs_on_one_thread_and_a_larger_one_as_it_likes(monkeypatch):
    # Not really set: threads that have been started cannot be forked by later tests.
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    lm = load("village", device="cpu")
    use_one_thread_if_small(lm)
    assert asked == [1]
    monkeypatch.setattr("trimtab.models.threads.SMALL", 1_000_000)
    use_one_thread_if_small(lm)
    assert asked == [1]
