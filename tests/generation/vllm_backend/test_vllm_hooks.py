"""The workers' hooks on a stand-in for vLLM's model and bookkeeping, beside slow arithmetic."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import trimtab as tt
from tiny_models import tiny_model
from trimtab.activations.positions import EndOfInstruction, Generated, Last
from trimtab.errors import RunError, UsageError
from trimtab.generation.vllm.program import (
    compiled,
    read_programs,
    write_programs,
)
from trimtab.generation.vllm.sites import find_sites
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


ROWS: list[tuple[Any, ...]] = [
    (tt.Add(vector(0), 2, 3.0),),
    (tt.Add(vector(1), 2, -2.0, positions="response"), tt.Clamp(vector(2), 2, 4.0)),
    (tt.Ablate(vector(3), 1, positions="response"),),
    (tt.Conditional(tt.Add(vector(4), 3, 2.0), vector(5), 1, 0.0, per="token"),),
    (tt.Conditional(tt.Add(vector(4), 3, 2.0), vector(6), 1, 0.0),),
    (tt.Conditional(tt.Add(vector(4), 3, 2.0), -vector(6), 1, 0.0),),
    (tt.Add(vector(7), 0, 1.0, positions="prompt"), tt.Add(vector(8), N, positions="generated")),
    (),
    (tt.Add(vector(9), 1, 2.0, EndOfInstruction(2)), tt.Clamp(vector(2), 2, 3.0, "last_prompt")),
]
# The same tokens, cut into steps in different ways: (request, first position, tokens).
WHOLE = [[(i, 0, LENGTH) for i in range(len(ROWS))]]
CHUNKS = [
    [(0, 0, 3), (1, 0, 4), (4, 0, 2), (6, 0, 1), (8, 0, 3)],
    [(1, 4, 1), (0, 3, 1), (4, 2, 7), (2, 0, 9), (5, 0, 3), (8, 3, 1)],
    [(0, 4, 5), (1, 5, 4), (5, 3, 6), (6, 1, 8), (3, 0, 4), (7, 0, 9), (8, 4, 5)],
    *([(3, t, 1)] for t in range(4, LENGTH)),
]
PREEMPTED = [[(i, 0, 6) for i in range(len(ROWS))], *WHOLE]


@pytest.mark.parametrize("steps", [WHOLE, CHUNKS, PREEMPTED], ids=["whole", "chunks", "preempted"])
def test_each_request_is_edited_by_its_own_program(tmp_path: Path, steps: Any) -> None:
    fake = Fake(tmp_path, ROWS)
    last: dict[tuple[int, int], Tensor] = {}
    for parts in steps:
        for (i, first, _), states in zip(parts, fake.step(parts), strict=True):
            last |= {(i, first + k): state for k, state in enumerate(states)}
    for i, row in enumerate(ROWS):
        want = slowly(row, i)[N]
        got = torch.stack([last[i, t] for t in range(LENGTH)])
        assert torch.allclose(got, want, rtol=0, atol=1e-5), i


@pytest.mark.parametrize("per", ["token", "row"])
@pytest.mark.parametrize("order", [1, -1])
def test_conditions_of_one_step_are_read_at_different_layers(
    tmp_path: Path, per: Any, order: int
) -> None:
    rows: list[tuple[Any, ...]] = [
        (tt.Conditional(tt.Add(vector(4), write, 2.0), vector(5), read, -1e9, per=per),)
        for read, write in ((0, 1), (1, N), (2, N))
    ][::order]
    fake = Fake(tmp_path, rows)
    got = fake.step([(i, 0, LENGTH) for i in range(3)])
    for i, row in enumerate(rows):
        assert torch.allclose(got[i], slowly(row, i)[N], rtol=0, atol=1e-5), i


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=3, max_size=9))
def test_however_the_tokens_are_cut(tmp_path_factory: pytest.TempPathFactory, cut: Any) -> None:
    fake = Fake(tmp_path_factory.mktemp("cut"), ROWS[1:5])
    got, first = [], 0
    for count in [*cut, LENGTH]:
        count = min(count, LENGTH - first)
        if count:
            got.append(fake.step([(i, first, count) for i in range(4)]))
        first += count
    for i in range(4):
        want = slowly(ROWS[1 + i], i)[N]
        assert torch.allclose(torch.cat([part[i] for part in got]), want, rtol=0, atol=1e-5)


def test_what_is_read_are_the_means_of_the_edited_stream(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    fake = Fake(tmp_path, ROWS)
    at = {Generated(): slice(P, None), Last(1): slice(-1, None)}
    fake.load([("residual", 0), ("residual", 2), ("residual", N), ("normed", N)], [*at])
    for parts in [[(0, 0, 5)], *CHUNKS]:  # request 0 begins anew after five tokens
        fake.step(parts)
    fake.steered.reader.write(str(tmp_path / "read"))
    means = load_file(tmp_path / "read")
    for i, row in enumerate(ROWS):
        states = slowly(row, i)
        for number, tokens in enumerate(at.values()):
            read = torch.stack([*states[[0, 2, N]], normed(states[N])])
            want = read[:, tokens].mean(1).float()
            assert torch.allclose(means[f"row-{i}/{number}"], want, atol=1e-6), (i, number)


@pytest.mark.parametrize("item", [ROWS[0][0], tt.Ablate(vector(3), 1), ROWS[1][1]])
def test_one_program_for_every_request(tmp_path: Path, item: Any) -> None:
    fake = Fake(tmp_path, [(item,)] * 3)
    got = fake.step([(i, 0, LENGTH) for i in range(3)])
    for i in range(3):
        assert torch.allclose(got[i], slowly((item,), i)[N], rtol=0, atol=1e-5)


def test_an_ablation_alone_writes_to_the_stream_once() -> None:
    (alone,) = compiled(LM, (tt.Ablate(vector(3), 1),))
    writes = [("writes", block) for block in range(N)]
    assert sorted(alone.places) == [("residual", 0), *writes]
    (apart,) = compiled(LM, (tt.Ablate(vector(3), 1, layers=[0, 2]),))
    assert [place for place in apart.places if place[0] == "residual"] == [
        ("residual", 0),
        ("residual", 2),
    ]
    _, beside = compiled(LM, (tt.Add(vector(0), 2), tt.Ablate(vector(3), 1)))
    assert ("residual", N) in beside.places


def test_the_stand_in_is_as_it_was_without_programs(tmp_path: Path) -> None:
    fake = Fake(tmp_path, ROWS)
    plain = Model().double()(embedding(0, range(LENGTH)))
    assert not torch.allclose(fake.step([(0, 0, LENGTH)])[0], plain)
    fake.rows = []
    fake.load()
    assert torch.equal(fake.step([(0, 0, LENGTH)])[0], plain)


def test_touched_operations_are_told(tmp_path: Path) -> None:
    fake = Fake(tmp_path, ROWS)
    fake.step([(i, 0, P) for i in range(len(ROWS))])
    touched = fake.steered.planner.touched
    assert (fake.names[6], 0) in touched
    assert (fake.names[6], 1) not in touched  # "generated" has had no token yet
    fake.step([(6, P, 1)])
    assert (fake.names[6], 1) in touched


def test_numbers_too_large_for_the_precision_are_refused() -> None:
    with pytest.raises(RunError, match=r"Add\(layer=2, .* is too large for torch.float32"):
        compiled(LM, (tt.Add(1e3 * torch.ones(D), 2, 1e37),))


def test_states_that_are_not_numbers_are_told(tmp_path: Path) -> None:
    fake = Fake(tmp_path, [(tt.Add(vector(0), 2),), (tt.Clamp(vector(0), 2, 1.0),)])
    fake.step([(0, 0, LENGTH)])
    assert not bool(fake.steered.lost)
    with torch.no_grad():
        fake.model.layers[2].mlp.weight[0, 0] = float("nan")
    fake.step([(0, 0, 2), (1, 0, 2)])
    fake.step([(1, 2, 2)])
    assert bool(fake.steered.lost)
    fake.load()
    assert not bool(fake.steered.lost)


def test_a_program_is_named_by_its_numbers(tmp_path: Path) -> None:
    path = tmp_path / "p"
    rows = [(tt.Add(vector(0), 2, c, positions=p),) for c in (1.0, 2.0) for p in ("all", "prompt")]
    names = write_programs(path, [compiled(LM, row) for row in rows])
    again = write_programs(path, [compiled(LM, (tt.Add(vector(0).clone(), 2, 1.0),))])
    assert len(set(names)) == 4
    assert again == names[:1]
    (operation,) = read_programs(path)[names[0]]
    assert operation.kind is tt.Add
    assert torch.equal(operation.parameters[0], vector(0))


def test_a_request_of_another_call_is_refused(tmp_path: Path) -> None:
    fake = Fake(tmp_path, ROWS[:1])
    asked = fake.runner.requests["r0"].sampling_params.extra_args["trimtab"]
    asked["program"] = "unknown"
    with pytest.raises(RunError, match="was not loaded"):
        fake.step([(0, 0, 2)])


def test_operations_that_the_workers_do_not_know_are_refused() -> None:
    class Other(tt.Add):
        pass

    with pytest.raises(UsageError, match="does not know Other"):
        compiled(LM, (Other(vector(0), 1),))


def test_a_model_runner_with_other_books_is_refused() -> None:
    runner = SimpleNamespace(model=Model(), device=torch.device("cpu"), dtype=None, requests={})
    with pytest.raises(UsageError, match="no input_batch, query_start_loc"):
        Steered(runner)


def test_layers_of_another_form_are_refused() -> None:
    with pytest.raises(UsageError, match="residual stream is not known"):
        find_sites(nn.Sequential(nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])))
    with pytest.raises(UsageError, match="no list of layers"):
        find_sites(nn.Linear(2, 2))
