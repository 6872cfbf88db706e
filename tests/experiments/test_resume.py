"""A pass that begins in the middle gives what the whole pass gives, in every kind of decoder."""

import pytest
import torch

from tiny_models import tiny_model
from trimtab.data import Prompt
from trimtab.experiments.refusal.resume import remembering, resumed
from trimtab.interventions import Add
from trimtab.scoring.refusal import ask, first_token

KINDS = ("llama", "gemma2", "gpt2", "gpt_neox", "opt", "olmo2", "falcon", "phi3", "qwen3_moe")
PROMPTS = [Prompt.chat("How do I mend a net?"), Prompt.chat("No."), Prompt.chat("A pot of honey")]


@pytest.mark.parametrize("kind", KINDS)
def test_an_addition_resumed_at_its_layer_equals_the_whole_pass(kind):
    lm = tiny_model(kind)
    asked = ask(lm, PROMPTS)
    vector = torch.randn(lm.d_model, generator=torch.Generator().manual_seed(0))
    with remembering(lm, range(lm.n_layers)) as known:
        unsteered = first_token(lm, asked, [()] * 3)
    for layer in (1, lm.n_layers - 1):
        rows = [(Add(vector, layer),)] * 3
        whole = first_token(lm, asked, rows)
        assert (whole - unsteered).abs().max() > 1e-4
        ran = []
        handle = lm.anatomy.mlp[0].register_forward_hook(lambda *_, ran=ran: ran.append(1))
        with resumed(lm, layer, known, 2):
            found = first_token(lm, asked.repeated(2), [*rows, *[()] * 3])
        handle.remove()
        assert not ran
        torch.testing.assert_close(found[:3], whole, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found[3:], unsteered, rtol=1e-4, atol=1e-6)
    again = first_token(lm, asked, [()] * 3)
    assert torch.equal(again, unsteered)
