"""What the suite asks of a model: prompts, and named lists of interventions."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.conformance.reference import forward
from trimtab.data import Prompt
from trimtab.generation.rows import Item
from trimtab.interventions import Ablate, Add, Clamp, Conditional
from trimtab.models import LanguageModel, encode

POSITIONS = ("all", "prompt", "response", "generated", "last_prompt")
LONG = 200  # words of the long prompt, more than a chunk
_ENGLISH = (
    "The morning was quiet, and then",
    "My neighbour came by with a basket of",
    "What I like about the market is",
)
_MANY = 32


def prompts(lm: LanguageModel) -> list[Prompt]:
    """Four to continue; the last one is long."""
    if "w17" in lm.tokenizer.get_vocab():  # a tiny model of the suite
        generator = torch.Generator().manual_seed(3)

        def words(count: int) -> str:
            return " ".join(
                f"w{i}" for i in torch.randint(3, 256, (count,), generator=generator).tolist()
            )

        return [Prompt.raw(words(count)) for count in (2, 5, 11, LONG)]
    sentence = " The baker asked the miller for a sack of flour and a pot of honey."
    return [Prompt.raw(text) for text in (*_ENGLISH, sentence.strip() + sentence * (LONG // 15))]


def directions(lm: LanguageModel, prompt: Prompt) -> Float[Tensor, "40 d"]:
    """Random directions, each as long as the residual stream is in the model's middle."""
    ids = encode(lm, prompt)
    _, states = forward(lm, ids, len(ids), ())
    size = states[lm.n_layers // 2].norm(dim=-1).median().float()
    noise = torch.randn(40, lm.d_model, generator=torch.Generator().manual_seed(4))
    scaled: Tensor = noise / noise.norm(dim=-1, keepdim=True) * size
    return scaled


def cases(lm: LanguageModel, v: Float[Tensor, "40 d"]) -> dict[str, tuple[Item, ...]]:
    """The interventions of each case; every one but "plain" and "zero" should tell."""
    middle, n = lm.n_layers // 2, lm.n_layers
    size = float(v[0].norm())
    either_way = Conditional(Add(v[4], middle + 1, positions="response"), v[5], middle, 0.0)
    other_way = Conditional(Add(v[4], middle + 1, positions="response"), -v[5], middle, 0.0)
    return {
        "plain": (),
        "zero": (Add(v[0], middle, coefficient=0.0),),
        **{f"add {name}": (Add(v[0], middle, 1.0, name),) for name in POSITIONS},
        "add at h[0]": (Add(v[1], 0, 0.5),),
        "add at h[n]": (Add(v[1], n, 1.0),),
        "ablate": (Ablate(v[2], middle),),
        "ablate response": (Ablate(v[2], middle, "response", [0, middle]),),
        "clamp": (Clamp(v[3], middle, size),),
        "condition": (either_way,),
        "condition, negated": (other_way,),
        "condition per token": (
            Conditional(Add(v[6], middle, positions="all"), v[7], middle, 0.0, per="token"),
        ),
        "several": (
            Add(v[0], middle, 0.5, "prompt"),
            Clamp(v[8], middle, size / 2, "response"),
            Ablate(v[9], middle),
        ),
    }


def many(lm: LanguageModel, v: Float[Tensor, "40 d"]) -> list[tuple[Item, ...]]:
    """32 steerings, no two alike."""
    rows: list[tuple[Item, ...]] = []
    for i in range(_MANY):
        layer = i % (lm.n_layers + 1)
        if i % 4 == 3:
            per: Literal["row", "token"] = "row" if i % 8 == 3 else "token"
            rows.append((Conditional(Add(v[i], layer), v[i + 1], layer // 2, 0.0, per),))
            continue
        items = (
            Add(v[i], layer, 0.5 + i / _MANY, POSITIONS[i % 3]),
            Ablate(v[i], layer, POSITIONS[i % 3]),
            Clamp(v[i], layer, float(v[i].norm()) * (i / _MANY), POSITIONS[i % 3]),
        )
        rows.append((items[i % 3],) if i % 4 else (items[i % 3], items[(i + 1) % 3]))
    return rows
