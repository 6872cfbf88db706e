"""Cross-entropy and KL against one text at a time, in float64, with a hook written by hand."""

import math

import pytest
import torch

from trimtab.data import Prompt
from trimtab.errors import UsageError
from trimtab.generation import Completion
from trimtab.interventions import Add
from trimtab.models import load
from trimtab.scoring import TokenSequence, completion_sequence, losses, text_sequence, total

TEXTS = ["Explain how to move the violet box.", "A lamp.", "Tell me about the garden gate, please."]
LAYER = 3


@pytest.fixture(scope="module")
def lm(golden):
    return load(str(golden / "models/llama-3-tiny-rand"), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def vector(lm):
    return torch.randn(lm.d_model, generator=torch.Generator().manual_seed(0)) * 0.2


def slow(lm, sequence, vector=None, first=0):
    """(nll, kl) sums by a float64 pass over one text, adding the vector from position `first`."""
    model, ids = lm.model.double(), torch.tensor([sequence.ids])

    def add(_, args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        changed = hidden.clone()
        changed[:, first:] += vector.double()
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    with torch.no_grad():
        plain = model(ids).logits[0].log_softmax(-1)
        steered = plain
        if vector is not None:
            handle = lm.anatomy.blocks[LAYER - 1].register_forward_hook(add)
            steered = model(ids).logits[0].log_softmax(-1)
            handle.remove()
    lm.model.float()
    nll = kl = 0.0
    for t in range(max(1, sequence.start), len(sequence.ids)):
        nll -= steered[t - 1, sequence.ids[t]].item()
        kl += (plain[t - 1].exp() * (plain[t - 1] - steered[t - 1])).sum().item()
    return nll, kl


def test_unsteered_and_steered_losses_are_the_slow_ones(lm, vector):
    sequences = [text_sequence(lm, text) for text in TEXTS]
    unsteered, steered = losses(lm, sequences, [(), (Add(vector, LAYER),)])
    for sequence, plain, changed in zip(sequences, unsteered, steered, strict=True):
        assert (plain.nll, plain.kl) == (pytest.approx(slow(lm, sequence)[0], rel=1e-5), 0.0)
        nll, kl = slow(lm, sequence, vector)
        assert changed.nll == pytest.approx(nll, rel=1e-5)
        assert changed.kl == pytest.approx(kl, rel=1e-3, abs=1e-5)
        assert kl > 1e-3
        assert changed.tokens == len(sequence.ids) - 1


def test_the_padding_of_a_batch_changes_nothing(lm, vector):
    sequences = [text_sequence(lm, text) for text in TEXTS]
    cell = [(Add(vector, LAYER),)]
    together = losses(lm, sequences, cell)[0]
    for sequence, loss in zip(sequences, together, strict=True):
        alone = losses(lm, [sequence], cell)[0][0]
        assert loss.nll == pytest.approx(alone.nll, rel=1e-5)
        assert loss.kl == pytest.approx(alone.kl, rel=1e-3, abs=1e-5)


def test_only_the_completion_counts_and_response_steers_from_its_first_token(lm, vector):
    prompt = Prompt.raw(TEXTS[0])
    tokens = tuple(lm.tokenizer("in the garden", add_special_tokens=False).input_ids)
    sequence = completion_sequence(lm, Completion(prompt, tokens, "", True))
    assert sequence.ids[sequence.start :] == tokens
    cell = (Add(vector, LAYER, positions="response"),)
    ((found,),) = losses(lm, [sequence], [cell])
    nll, kl = slow(lm, sequence, vector, first=sequence.prompt_length - 1)
    assert found.tokens == len(tokens)
    assert found.nll == pytest.approx(nll, rel=1e-5)
    assert found.kl == pytest.approx(kl, rel=1e-3)


def test_coefficient_zero_costs_exactly_nothing(lm, vector):
    sequences = [text_sequence(lm, text) for text in TEXTS]
    plain, zero = losses(lm, sequences, [(), (Add(vector, LAYER, 0.0),)])
    assert total(plain).nll == total(zero).nll
    assert total(zero).kl == 0.0


def test_a_text_of_one_token_counts_for_nothing(lm):
    (found,) = losses(lm, [TokenSequence((5,), 1, 1), text_sequence(lm, TEXTS[0])])
    assert found[0].tokens == 0
    assert math.isfinite(found[1].nll)


def test_no_text_is_an_error(lm):
    with pytest.raises(UsageError, match="no text"):
        losses(lm, [])
