"""The same tokens are touched however the model is run: against one row, one pass, by hand."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from steering_oracle import chosen, model, padded, random_rows, slow_logits, vector
from torch import Tensor
from transformers import DynamicCache

from trimtab.activations.positions import EndOfInstruction, LastPrompt
from trimtab.errors import RunError
from trimtab.interventions import Ablate, Add, Clamp, steer
from trimtab.models import LanguageModel

TOLERANCE = 1e-5
POSITIONS = ["all", "prompt", "generated", "response", LastPrompt(), EndOfInstruction(2)]


def intervention(lm: LanguageModel, kind: str, layer: int, positions: Any) -> Any:
    v = vector(lm, layer + 1)
    if kind == "add":
        return Add(v, layer, 0.7, positions)
    if kind == "clamp":
        return Clamp(v, layer, 1.5, positions)
    return Ablate(v, layer, positions)


def run_chunks(lm: LanguageModel, batch: dict[str, Tensor], cuts: list[int]) -> Tensor:
    """Logits of the whole batch, fed in pieces through a cache (in one pass without `cuts`)."""
    width = batch["input_ids"].shape[1]
    edges = [0, *cuts, width]
    cache = DynamicCache(config=lm.model.config.get_text_config()) if cuts else None
    pieces = []
    with torch.no_grad():
        for start, end in pairwise(edges):
            out = lm.model(
                batch["input_ids"][:, start:end],
                attention_mask=batch["attention_mask"][:, :end],
                position_ids=batch["position_ids"][:, start:end],
                past_key_values=cache,
            )
            pieces.append(out.logits)
    return torch.cat(pieces, 1)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_batch_padding_and_chunking_equals_one_row_in_one_pass(data: st.DataObject) -> None:
    lm = model(data.draw(st.sampled_from(["llama", "gpt2", "qwen3", "opt"])))
    lengths = data.draw(st.lists(st.integers(2, 12), min_size=1, max_size=5))
    prompts = [data.draw(st.integers(1, n)) for n in lengths]
    side = data.draw(st.sampled_from(["left", "right"]))
    layer = data.draw(st.integers(0, lm.n_layers))
    kind = data.draw(st.sampled_from(["add", "clamp", "ablate"]))
    item = intervention(lm, kind, layer, data.draw(st.sampled_from(POSITIONS)))
    rows = random_rows(data.draw(st.integers(0, 99)), lengths)
    batch = padded(rows, side, extra=data.draw(st.integers(0, 2)))
    width = batch["input_ids"].shape[1]
    cuts = data.draw(st.lists(st.integers(1, width - 1), max_size=4, unique=True).map(sorted))
    if not any(chosen(item.positions, p, n) for p, n in zip(prompts, lengths, strict=True)):
        return
    with steer(lm, item, prompt_lengths=prompts):
        logits = run_chunks(lm, batch, cuts)
    for i, row in enumerate(rows):
        expected = slow_logits(lm, row, prompts[i], item)
        found = logits[i][batch["attention_mask"][i] == 1]
        assert (found - expected).abs().max() <= TOLERANCE


def generate(lm: LanguageModel, batch: dict[str, Tensor], **options: Any) -> Any:
    return lm.model.generate(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        max_new_tokens=6,
        min_new_tokens=6,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
        **options,
    )


@pytest.mark.parametrize("positions", ["all", "prompt", "generated", "response"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_generation_alone_in_a_batch_and_without_cache(architecture: str, positions: str) -> None:
    """16 rows with a cache, 16 without, 4 alone: one teacher-forced pass explains them all."""
    lm = model(architecture)
    rows = random_rows(3, [3, 9, 5, 7] * 4)
    prompts = [len(row) for row in rows]
    item = Add(vector(lm, 5), 2, 1.0, positions)
    batch = padded(rows, "left")
    outputs = []
    for use_cache in (True, False):
        with steer(lm, item):
            outputs.append(generate(lm, batch, use_cache=use_cache))
    with steer(lm, item):
        alone = [generate(lm, padded([row], "left")) for row in rows[:4]]
    width = batch["input_ids"].shape[1]
    for i, row in enumerate(rows):
        answer = outputs[0].sequences[i, width:].tolist()
        expected = slow_logits(lm, row + answer[:-1], prompts[i], item)[prompts[i] - 1 :]
        for output in outputs:
            assert output.sequences[i, width:].tolist() == answer
            assert (torch.stack(output.logits)[:, i] - expected).abs().max() <= TOLERANCE
        if i < 4:
            assert alone[i].sequences[0, len(row) :].tolist() == answer
            assert (torch.stack(alone[i].logits)[:, 0] - expected).abs().max() <= TOLERANCE


def test_chunked_prefill_of_generate_needs_prompt_lengths() -> None:
    lm = model("llama")
    rows = random_rows(4, [9, 6])
    item = Add(vector(lm, 5), 2, 1.0, "response")
    batch = padded(rows, "left")
    with steer(lm, item):
        plain = generate(lm, batch)
    with steer(lm, item, prompt_lengths=[9, 6]):
        chunked = generate(lm, batch, prefill_chunk_size=4)
    assert torch.equal(plain.sequences, chunked.sequences)
    difference = torch.stack(plain.logits) - torch.stack(chunked.logits)
    assert difference.abs().max() <= TOLERANCE
    with pytest.raises(RunError, match="prompt_lengths"), steer(lm, item):
        generate(lm, batch, prefill_chunk_size=4)


def test_beams_and_several_samples_of_a_prompt_keep_their_prompt() -> None:
    lm = model("llama")
    rows = random_rows(6, [4, 7])
    batch = padded(rows, "left")
    item = Add(vector(lm, 5), 2, 1.0, "response")
    found = []
    for use_cache in (True, False):
        with steer(lm, item):
            output = generate(lm, batch, num_beams=3, use_cache=use_cache)
        found.append(output.sequences)
    assert torch.equal(*found)


def test_the_multimodal_wrapper_which_hides_the_mask_from_its_decoder() -> None:
    lm = model("gemma3_multimodal")
    rows = random_rows(8, [4, 7])
    item = Add(vector(lm, 5), 2, 1.0, "response")
    batch = padded(rows, "left")
    with steer(lm, item, prompt_lengths=[4, 7]), torch.no_grad():
        logits = lm.model(**batch).logits
    for i, row in enumerate(rows):
        expected = slow_logits(lm, row, len(row), item)
        found = logits[i][batch["attention_mask"][i] == 1]
        assert (found - expected).abs().max() <= 5 * TOLERANCE  # larger logits than the others'


def test_embeddings_instead_of_ids() -> None:
    lm = model("llama")
    rows = random_rows(9, [4, 7])
    batch = padded(rows, "left")
    item = Add(vector(lm, 5), 2, 1.0, "response")
    with steer(lm, item, prompt_lengths=[4, 7]), torch.no_grad():
        from_ids = lm.model(**batch).logits
        ids = batch.pop("input_ids")
        from_embeddings = lm.model(inputs_embeds=lm.anatomy.embedding(ids), **batch).logits
    assert torch.equal(from_ids, from_embeddings)
