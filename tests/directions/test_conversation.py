"""Drift over a conversation, against hidden states read by hand."""

import math

import pytest
import torch

from trimtab import UsageError
from trimtab.data import Prompt
from trimtab.directions.conversation import drift, read_conversations
from trimtab.directions.projection import Axis
from trimtab.models import encode, encode_answer, load
from trimtab.vectors import SteeringVector

LAYER = 3


def test_every_turn_is_read_with_all_that_was_said_before_it(golden):
    lm = load(golden / "models" / "qwen2-tiny-rand", dtype="float32")
    torch.manual_seed(2)
    vector = SteeringVector.from_tensor(torch.randn(lm.n_layers + 1, lm.d_model), lm)
    v = vector[LAYER].double()
    said = ["Who bakes?", "The baker.", "And who mills?", "The miller does."]
    roles = ["user", "assistant"] * 2
    talk = [{"role": r, "content": c} for r, c in zip(roles, said, strict=True)]
    empty = [talk[0], {"role": "assistant", "content": ""}]
    turns = drift(lm, [talk, empty], Axis(vector, LAYER))
    assert [(t.conversation, t.turn, t.text) for t in turns] == [
        (0, 1, said[1]), (0, 2, said[3]), (1, 1, ""),
    ]  # fmt: skip
    assert math.isnan(turns[2].response)
    for turn, end in zip(turns, (1, 3, 1), strict=True):
        prompt = Prompt.chat(talk[:end])
        ids, start = encode_answer(lm, prompt, turn.text or "x")
        assert ids[:start] == encode(lm, prompt)
        with torch.no_grad():
            hidden = lm.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[LAYER]
        along = hidden[0].double() @ v / v.norm()
        assert turn.before == pytest.approx(float(along[start - 1]), abs=1e-5)
        if turn.text:
            assert turn.response == pytest.approx(float(along[start:].mean()), abs=1e-5)


@pytest.mark.parametrize("text", ["{}", "[]", "[1]", '[{"content": "x"}]', "{"])
def test_what_is_no_conversation_is_refused(tmp_path, text):
    file = tmp_path / "talk.json"
    file.write_text(text)
    with pytest.raises(UsageError):
        read_conversations(file)
