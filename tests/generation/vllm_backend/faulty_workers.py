"""Workers with one fault each, to see the suite turn red; vLLM imports them in its processes."""

from typing import Any

import torch

from trimtab.activations import positions
from trimtab.generation.vllm import sites, worker
from trimtab.generation.vllm.worker import SteeringWorker


class WrongLayer(SteeringWorker):
    """Hooks one layer late."""

    def trimtab_install(self) -> dict[str, Any]:
        right = sites.Sites.attach

        def attach(self: sites.Sites, place: Any, edit: Any) -> Any:
            late = min(place[1] + 1, len(self.layers) - (place[0] == "writes"))
            return right(self, (place[0], late), edit)

        sites.Sites.attach = attach  # type: ignore[method-assign]
        return super().trimtab_install()


class HalfTheResidual(SteeringWorker):
    """Takes what a layer adds for the whole stream, and leaves the rest as it is."""

    def trimtab_install(self) -> dict[str, Any]:
        def on_input(block: Any, edit: Any) -> Any:
            def hook(_: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
                return (args[0], edit(args[1]), *args[2:])

            return lambda module, args, kwargs: (hook(module, args), kwargs)

        sites._on_input = on_input
        return super().trimtab_install()


class OffByOne(SteeringWorker):
    """Takes the response to begin with the first answer token."""

    def trimtab_install(self) -> dict[str, Any]:
        positions.Response.mask = positions.Generated.mask  # type: ignore[method-assign]
        return super().trimtab_install()


class StaleCoefficient(SteeringWorker):
    """Keeps the numbers an `Add` at a layer had when it was first seen with this direction."""

    def trimtab_install(self) -> dict[str, Any]:
        fresh, kept = worker.read_programs, {}

        def read_programs(path: str) -> Any:
            programs = dict(fresh(path))
            for program in programs.values():
                for operation in program:
                    vector = operation.parameters[0]
                    if operation.kind.__name__ == "Add" and bool(vector.any()):
                        direction = torch.nn.functional.normalize(vector.abs(), dim=0)
                        key = (operation.places, tuple(direction.mul(1e3).round().tolist()))
                        old = kept.setdefault(key, vector)
                        object.__setattr__(operation, "parameters", (old,))
            return programs

        worker.read_programs = read_programs
        return super().trimtab_install()
