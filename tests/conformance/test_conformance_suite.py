"""The suite is green on the reference backend, red under each fault, and travels in a file."""

import copy
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from trimtab.activations import positions
from trimtab.cli import main
from trimtab.conformance import checks, expectations, suite
from trimtab.conformance.checks import CHECKS, Bench, variants
from trimtab.conformance.models import model
from trimtab.conformance.subjects import subject
from trimtab.errors import UsageError
from trimtab.generation import transformers_backend
from trimtab.interventions import ablate, add, clamp
from trimtab.interventions.add import Add

NAME = "tiny-llama"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    lm = model(NAME, tmp_path_factory.mktemp("models"))
    return Bench(subject("transformers"), lm, expectations.expect(lm))


def test_the_reference_backend_passes_every_check(bench: Bench):
    findings = [finding for check in (*CHECKS, variants) for finding in check(bench)]
    assert [finding for finding in findings if not finding[1]] == []
    assert len(findings) == 36


def wrong_layer(patch: pytest.MonkeyPatch) -> None:
    right = add.residual
    patch.setattr(add, "residual", lambda lm, layer: right(lm, min(layer + 1, lm.n_layers)))


def half_the_residual(patch: pytest.MonkeyPatch) -> None:
    whole = ablate.component
    for module in (ablate, clamp):
        patch.setattr(module, "component", lambda x, u: whole(x / 2, u))


def off_by_one_at_the_boundary(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(positions.Response, "mask", positions.Generated.mask)


def stale_coefficient(patch: pytest.MonkeyPatch) -> None:
    fresh, kept = Add.parameters, {}

    def parameters(self: Add) -> Any:
        assert isinstance(self.vector, torch.Tensor)
        return kept.setdefault(self.vector.double().sum().item(), fresh(self))

    patch.setattr(Add, "parameters", parameters)


def prefix_cache_left_on(patch: pytest.MonkeyPatch) -> None:
    fresh, kept = transformers_backend._prefill, {}

    def prefill(lm: Any, rows: Any, source: Any, forward: Any, steering: Any) -> Any:
        key = (tuple(row.ids for row in rows), tuple(source.tolist()))
        made = fresh(lm, rows, source, forward, steering)
        return copy.deepcopy(kept.setdefault(key, copy.deepcopy(made)))

    patch.setattr(transformers_backend, "_prefill", prefill)


@pytest.mark.parametrize(
    ("fault", "check", "found"),
    [
        (wrong_layer, checks.greedy_equality, "greedy: add all"),
        (wrong_layer, checks.boundary, "boundary: all"),
        (half_the_residual, checks.greedy_equality, "greedy: clamp"),
        (half_the_residual, checks.captured, "capture: ablate"),
        (off_by_one_at_the_boundary, checks.greedy_equality, "greedy: add response"),
        (off_by_one_at_the_boundary, checks.boundary, "boundary: response"),
        (stale_coefficient, checks.greedy_equality, "greedy: add all"),
        (stale_coefficient, checks.reuse, "reuse: another coefficient between"),
        (prefix_cache_left_on, checks.batch, "32 steerings in one batch equal 32 runs"),
        (prefix_cache_left_on, checks.variants, "one row at a time"),
    ],
)
def test_each_fault_turns_the_suite_red(
    bench: Bench,
    fault: Callable[[pytest.MonkeyPatch], None],
    check: Callable[[Bench], Iterator[checks.Finding]],
    found: str,
    monkeypatch: pytest.MonkeyPatch,
):
    fault(monkeypatch)
    assert found in [name for name, passed, _ in check(bench) if not passed]


def test_expectations_travel_in_a_file(bench: Bench, tmp_path: Path):
    path = tmp_path / "expected.safetensors"
    expectations.write(path, {NAME: bench.expected})
    read = expectations.read(path)[NAME]
    assert read.completions == bench.expected.completions
    assert torch.equal(read.directions, bench.expected.directions)
    assert all(torch.equal(read.states[k], v) for k, v in bench.expected.states.items())


def test_a_file_of_other_weights_is_refused(bench: Bench, tmp_path: Path):
    other = expectations.Expected("0" * 16, *list(vars(bench.expected).values())[1:])
    with pytest.raises(UsageError, match="other weights"):
        suite.run(bench.subject, [NAME], {NAME: other})
    with pytest.raises(UsageError, match="not of tiny-qwen3"):
        suite.run(bench.subject, ["tiny-qwen3"], {NAME: other})
    path = tmp_path / "no.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(UsageError, match="holds no expectations"):
        expectations.read(path)


def test_the_command_prints_a_table_and_fails_when_a_check_does(
    bench: Bench,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(suite, "CHECKS", (checks.effect, checks.sampling))
    monkeypatch.setattr(suite, "variants", checks.no_trace)
    path = tmp_path / "expected.safetensors"
    expectations.write(path, {NAME: bench.expected})
    line = ["conformance", "--model", NAME, "--expect", str(path)]
    assert main(line) == 0
    said = capsys.readouterr().out
    assert "7 of 7 checks passed" in said
    assert f"| {NAME} | a coefficient changes the output |" in said
    with monkeypatch.context() as patch:
        patch.setattr(Add, "apply", staticmethod(lambda x, delta: x + 0))
        assert main(line) == 1
    assert "**NO**" in capsys.readouterr().out


def test_a_backend_that_is_not_installed_is_a_usage_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "vllm", None)
    with pytest.raises(UsageError, match="vLLM"):
        suite.run("vllm", [NAME])


def test_a_subject_s_variants_are_entered(bench: Bench):
    entered: list[int] = []

    def enter() -> Any:
        entered.append(1)
        return nullcontext()

    one = subject("transformers")
    counted = type(one)(one.name, one.complete, one.read, {"anything": enter})
    assert all(passed for _, passed, _ in variants(Bench(counted, bench.lm, bench.expected)))
    assert entered == [1]
