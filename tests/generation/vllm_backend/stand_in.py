"""A stand-in for vLLM's model and bookkeeping, and what the hooks should make of it, slowly."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import trimtab as tt
from tiny_models import tiny_model
from trimtab.activations.positions import EndOfInstruction
from trimtab.generation.vllm.program import (
    compiled,
    read_programs,
    write_programs,
)
from trimtab.generation.vllm.worker import Steered

LM = tiny_model("llama")
D, N = LM.d_model, LM.n_layers
P, LENGTH = 4, 9  # of every request: prompt and whole


class Layer(nn.Module):
    """As vLLM's decoder layers pass the stream on, without attention between tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn, self.mlp = nn.Linear(D, D), nn.Linear(D, D)

    def forward(self, positions: Tensor, hidden_states: Tensor, residual: Tensor | None) -> Any:
        residual = hidden_states if residual is None else hidden_states + residual
        residual = residual + self.self_attn(residual)
        return self.mlp(residual), residual


class Norm(nn.Module):
    def forward(self, hidden_states: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        stream = hidden_states + residual
        return normed(stream), stream


def normed(x: Tensor) -> Tensor:
    return x / (1 + x.norm(dim=-1, keepdim=True))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(Layer() for _ in range(N))
        self.norm = Norm()

    def forward(self, x: Tensor) -> Tensor:
        hidden, residual = x, None
        for layer in self.layers:
            hidden, residual = layer(torch.zeros(len(x)), hidden, residual)
        return self.norm(hidden, residual)[1]


class Fake:
    """A worker: requests are numbers, and a token's embedding follows from request and position."""

    def __init__(self, folder: Path, rows: list[tuple[Any, ...]]) -> None:
        self.model = Model().double()
        self.rows, self.folder = rows, folder
        self.runner = SimpleNamespace(
            model=self.model, device=torch.device("cpu"), dtype=torch.float64, requests={},
            input_batch=SimpleNamespace(), query_start_loc=SimpleNamespace(),
        )  # fmt: skip
        self.steered = Steered(self.runner)
        self.load()

    def load(self, read: Any = (), at: Any = ()) -> None:
        path = self.folder / "programs.safetensors"
        names = write_programs(path, [compiled(LM, row) for row in self.rows])
        self.steered.load(read_programs(path), read, at)
        for i, name in enumerate(names):
            asked = {"program": name, "prompt_length": P, "capture": f"row-{i}"}
            params = SimpleNamespace(extra_args={"trimtab": asked})
            self.runner.requests[f"r{i}"] = SimpleNamespace(
                sampling_params=params, prompt_token_ids=[0] * LENGTH
            )
        self.names = names

    def step(self, parts: list[tuple[int, int, int]]) -> list[Tensor]:
        """Run (request, first position, tokens) parts in one step; h[n] of each."""
        batch, counts = self.runner.input_batch, [count for _, _, count in parts]
        batch.num_reqs, batch.req_ids = len(parts), [f"r{i}" for i, _, _ in parts]
        batch.num_computed_tokens_cpu = np.array([first for _, first, _ in parts], dtype=np.int32)
        self.runner.query_start_loc.np = np.array([0, *np.cumsum(counts)], dtype=np.int32)
        x = torch.cat([embedding(i, range(a, a + k)) for i, a, k in parts])
        return list(self.model(x).split(counts))


def embedding(request: int, positions: Any) -> Tensor:
    seeds = [torch.Generator().manual_seed(1000 * request + p) for p in positions]
    return torch.stack([torch.randn(D, generator=s, dtype=torch.float64) for s in seeds])


@cache
@torch.no_grad()
def slowly(row: tuple[Any, ...], request: int) -> Tensor:
    """h[0..n] of a whole row, token by token, [n+1, t, d]."""
    model = Model().double()  # without hooks
    found: list[list[Tensor]] = [[] for _ in range(N + 1)]
    row_gates: dict[int, bool] = {}
    for t in range(LENGTH):
        x = embedding(request, [t])[0]
        gates: dict[int, bool] = {}
        for layer in range(N + 1):
            x = edited(x, row, ("residual", layer), t, gates, row_gates)
            found[layer].append(x)
            if layer < N:
                block: Any = model.layers[layer]
                x = x + edited(block.self_attn(x), row, ("writes", layer), t, gates, row_gates)
                x = x + edited(block.mlp(x), row, ("writes", layer), t, gates, row_gates)
    return torch.stack([torch.stack(states) for states in found]).detach()


def edited(
    x: Tensor, row: tuple[Any, ...], place: tuple[str, int], t: int, gates: Any, row_gates: Any
) -> Tensor:
    kind, layer = place
    for number, item in enumerate(row):
        if isinstance(item, tt.Conditional):
            if place == ("residual", item.layer):
                holds = float(x @ unit(item.vector)) > item.threshold
                if t == P - 1:
                    row_gates[number] = holds
                per_row = t >= P - 1 and row_gates[number]
                gates[number] = holds if item.per == "token" else per_row
            if not gates.get(number, False):
                continue
            item = item.intervention
        here = (kind == "residual" and layer == item.layer) or isinstance(item, tt.Ablate)
        touched = {
            "all": True, "prompt": t < P, "response": t >= P - 1, "generated": t >= P,
            "last_prompt": t == P - 1, str(EndOfInstruction(2)): P - 2 <= t < P,
        }  # fmt: skip
        if not here or not touched[str(item.positions)]:
            continue
        if isinstance(item, tt.Add):
            x = x + item.coefficient * item.vector.double()
        else:
            value = item.value if isinstance(item, tt.Clamp) else 0.0
            x = x + (value - x @ unit(item.vector)) * unit(item.vector)
    return x


def unit(vector: Any) -> Tensor:
    return vector.double() / vector.double().norm()


def vector(seed: int) -> Tensor:
    return torch.randn(D, generator=torch.Generator().manual_seed(seed))
