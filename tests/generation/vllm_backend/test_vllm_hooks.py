"""The workers' hooks on a stand-in for vLLM's model and bookkeeping, beside slow arithmetic."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_in import (
    LENGTH,
    LM,
    D,
    Fake,
    Model,
    N,
    P,
    embedding,
    normed,
    slowly,
    vector,
)
from torch import Tensor, nn

import trimtab as tt
from trimtab.activations.positions import EndOfInstruction, Generated, Last
from trimtab.errors import RunError, UsageError
from trimtab.generation.vllm.program import (
    compiled,
    read_programs,
    write_programs,
)
from trimtab.generation.vllm.sites import find_sites
from trimtab.generation.vllm.worker import Steered

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
