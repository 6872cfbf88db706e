"""A model spread over devices, or partly on disk, does what it does in one piece.

The devices are pretended (`two_devices.py`), so the file runs itself in a process of its own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import trimtab as tt
from tiny_models import tiny_model, tiny_network, tiny_tokenizer
from trimtab.activations import Last
from trimtab.interventions import Ablate, Add, Clamp, Conditional
from trimtab.models import LanguageModel
from trimtab.scoring.loss import losses, text_sequence

TEXTS = ["The baker smiled.", "How do I mend a fishing net? Tell me", "Good morning!"]
ARCHITECTURES = ("llama", "gemma2")  # the latter ties head and embedding, and norms what it adds


def vector(lm: LanguageModel) -> Any:
    """The same numbers for every copy of the model."""
    values = torch.randn(5, 32, generator=torch.Generator().manual_seed(3))
    return tt.SteeringVector.from_tensor(values, lm)


def measure(lm: LanguageModel) -> dict[str, Any]:
    """States read, answers under every intervention, and losses."""
    v = vector(lm)
    cells = [
        None, *(Add(v, layer, 2.0) for layer in range(5)),
        Add(v, 3, 4.0, positions="response", normalize=True), Ablate(v, 2), Clamp(v, 4, 1.0),
        Conditional(Add(v, 3, 2.0), v, 1, 0.0), Conditional(Add(v, 3, 2.0), v, 1, 0.0, per="token"),
    ]  # fmt: skip
    kind = {"max_new_tokens": 5, "temperature": 1.0, "samples": 2}
    with tt.steer(lm, Add(v, 1, 3.0), Ablate(v, 3)):
        steered = tt.capture(lm, TEXTS, at=Last(2)).values
    lost = losses(lm, [text_sequence(lm, text) for text in TEXTS], [(), (Add(v, 3, 2.0),)])
    return {
        "fingerprint": lm.fingerprint,
        "states": tt.capture(lm, TEXTS, at=Last(2)).values.tolist(),
        "steered states": steered.tolist(),
        "answers": [list(c.tokens) for c in tt.generate(lm, TEXTS, steering=cells, **kind)],
        "losses": [[loss.nll, loss.kl] for cell in lost for loss in cell],
    }


def assert_alike(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found["fingerprint"] == expected["fingerprint"]
    assert found["answers"] == expected["answers"]
    assert len({tuple(answer) for answer in found["answers"]}) > len(found["answers"]) / 2
    for name in ("states", "steered states", "losses"):
        one, two = torch.tensor(found[name]), torch.tensor(expected[name])
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
    assert found["states"] != found["steered states"]


def places(network: Any, first: str, second: str) -> dict[str, str]:
    """A device map: embeddings and blocks 0 and 1 on the one device, all else on the other."""
    blocks = max((m for m in network.modules() if isinstance(m, torch.nn.ModuleList)), key=len)
    names = {id(module): name for name, module in network.named_modules()}
    found = {names[id(block)]: first if i < 2 else second for i, block in enumerate(blocks)}
    tensors = [*network.named_parameters(remove_duplicate=False), *network.named_buffers()]
    embedding = network.get_input_embeddings().weight
    for name, tensor in tensors:
        if not any(name.startswith(f"{block}.") for block in found):
            module = name.rpartition(".")[0]
            inward = tensor is embedding or "emb" in module
            found[module] = first if inward else second  # a tied head stays with the embedding
    return found


def spread(architecture: str, first: str, second: str, **options: Any) -> LanguageModel:
    import accelerate

    network = tiny_network(architecture)
    network = accelerate.dispatch_model(network, places(network, first, second), **options)
    return LanguageModel(network, tiny_tokenizer(), f"tiny-{architecture}")


@pytest.fixture(scope="module")
def on_two_devices() -> dict[str, Any]:
    """What the pretended devices gave, by architecture."""
    child = subprocess.run(
        [sys.executable, __file__],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr[-3000:]
    found: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_on_two_devices_as_on_one(on_two_devices: dict[str, Any], architecture: str) -> None:
    found = on_two_devices[architecture]
    assert found["blocks are on"] == ["far:0", "far:0", "far:1", "far:1"]
    assert_alike(found, measure(tiny_model(architecture)))


def test_a_vector_lands_where_the_hidden_states_are(on_two_devices: dict[str, Any]) -> None:
    for architecture in ARCHITECTURES:
        landed = on_two_devices[architecture]["vectors landed on"]
        # h[2] is taken where block 1 leaves it: before accelerate moves it to block 2's device.
        assert landed == [["far:0"], ["far:0"], ["far:0"], ["far:1"], ["far:1"]]


def test_blocks_on_disk_are_steered_alike_and_stay_there(tmp_path: Path) -> None:
    lm = spread("llama", "cpu", "disk", offload_dir=tmp_path, main_device="cpu")
    away = [name for name, p in lm.model.named_parameters() if p.is_meta]
    assert any("layers.2" in name for name in away)
    assert_alike(measure(lm), measure(tiny_model("llama")))
    assert [name for name, p in lm.model.named_parameters() if p.is_meta] == away


def _landings(lm: LanguageModel) -> list[list[str]]:
    """Per layer, the devices on which a vector met the hidden states."""
    met: list[list[str]] = []
    plain = Add.apply

    def apply(x: Any, delta: Any) -> Any:
        assert x.device == delta.device
        met[-1].append(str(x.device))
        return plain(x, delta)

    Add.apply = staticmethod(apply)  # type: ignore[method-assign]
    for layer in range(lm.n_layers + 1):
        met.append([])
        with tt.steer(lm, Add(vector(lm), layer, 1.0)), torch.no_grad():
            lm.model(torch.tensor([[5, 6, 7]], device=lm.device))
    Add.apply = staticmethod(plain)  # type: ignore[method-assign]
    return met


def _main() -> None:
    import two_devices

    two_devices.set_up()
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for architecture in ARCHITECTURES:
        lm = spread(architecture, "far:0", "far:1", force_hooks=True)
        blocks = [next(block.parameters()).device for block in lm.anatomy.blocks]
        found[architecture] = {
            **measure(lm),
            "blocks are on": [str(device) for device in blocks],
            "vectors landed on": _landings(lm),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    _main()
