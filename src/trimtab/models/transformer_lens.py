"""A model through TransformerLens: its named hook points over the weights that are loaded already.

TransformerLens's bridge puts wrappers with hook points into the modules of a transformers model.
They go into a second tree of modules that shares every tensor with the first, which stays as it is.
"""

from __future__ import annotations

import copy
import importlib
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import AutoTokenizer

from trimtab.errors import RunError, UsageError
from trimtab.models.anatomy import Anatomy
from trimtab.models.language_model import LanguageModel

_TOLERANCE = 1e-3  # of the logits' size: TransformerLens computes attention in its own way
_twins: WeakKeyDictionary[LanguageModel, LanguageModel] = WeakKeyDictionary()


def to_transformer_lens(lm: LanguageModel) -> Any:
    """The model as a TransformerLens `TransformerBridge`, for users of its tools.

    It shares the weights with `lm`; hooks added to one are not on the other. Hook points have
    TransformerLens's names: h[L] passes `blocks.{L}.hook_resid_pre`, and h[n]
    `blocks.{n-1}.hook_resid_post`.

    Args:
        lm: A loaded model.

    Returns:
        A new `transformer_lens.model_bridge.TransformerBridge`.

    Raises:
        UsageError: The extra is not installed, the model has an adapter or is quantised, or
            TransformerLens does not know the architecture.
    """
    try:
        bridges: Any = importlib.import_module("transformer_lens.model_bridge")
    except ImportError as error:
        raise UsageError(
            f"The package transformer_lens cannot be imported: {error}.",
            "In an environment of its own: pip install 'trimtab[transformer-lens]'.",
        ) from error
    if hasattr(lm.model, "peft_config") or getattr(lm.model, "is_quantized", False):
        raise UsageError(
            f"{lm.name} has an adapter or is quantised, which TransformerLens cannot wrap.",
            "Use backend='transformers', or merge the adapter into the weights.",
        )
    shared = {id(tensor): tensor for tensor in (*lm.model.parameters(), *lm.model.buffers())}
    twin = copy.deepcopy(lm.model, shared)
    twin.config.architectures = [type(twin).__name__]  # a model made by hand does not say it
    try:
        with TemporaryDirectory() as folder:  # it loads the tokenizer anew, with a BOS: from here
            lm.tokenizer.save_pretrained(folder)
            return bridges.TransformerBridge.boot_transformers(
                lm.name, hf_model=twin, tokenizer=AutoTokenizer.from_pretrained(folder)
            )
    except (ValueError, NotImplementedError, AttributeError, KeyError) as error:
        text = str(error).strip().splitlines() or [type(error).__name__]
        raise UsageError(
            f"TransformerLens cannot wrap {lm.name} ({type(lm.model).__name__}): {text[0]:.200}",
            "Use backend='transformers', which runs any decoder.",
        ) from error


def lens_model(lm: LanguageModel) -> LanguageModel:
    """The same model for our own use, read and steered at TransformerLens's hook points.

    Made once for each `lm`, and compared with it on a forward pass.

    Raises:
        UsageError: As `to_transformer_lens`; or a part has no hook point.
        RunError: The bridge computes something else than the model.
    """
    if lm.anatomy.residual:
        return lm
    if lm not in _twins:
        bridge = to_transformer_lens(lm)
        _ = lm.fingerprint, lm.base_fingerprint  # of the model itself; the copy keeps them
        twin = copy.copy(lm)
        twin.model = bridge.original_model
        twin.anatomy = _anatomy(lm, bridge)
        _compare(lm, twin)
        _twins[lm] = twin
    return _twins[lm]


def _anatomy(lm: LanguageModel, bridge: Any) -> Anatomy:
    """The parts by their places in the tree: wrappers, and the hook points of what they give."""
    ours, theirs = lm.anatomy, bridge.original_model
    paths = {id(module): path for path, module in lm.model.named_modules()}
    points = {id(point) for point in bridge.hook_dict.values()}

    def wrapper(module: nn.Module) -> Any:
        found = theirs
        for name in filter(None, paths[id(module)].split(".")):
            found = found[int(name)] if name.isdigit() else getattr(found, name)
        return found

    def point(module: nn.Module, name: str) -> Any:
        found = getattr(wrapper(module), name, None)
        if id(found) not in points:
            raise UsageError(
                f"TransformerLens has no hook point {name} at {paths[id(module)]} of {lm.name}.",
                "Use backend='transformers'.",
            )
        return found

    def outputs(modules: tuple[nn.Module, ...]) -> tuple[nn.Module, ...]:
        return tuple(point(module, "hook_out") for module in modules)

    residual = [point(block, "hook_in") for block in ours.blocks]
    return replace(
        ours,
        base=wrapper(ours.base),
        embedding=wrapper(ours.embedding),
        final_norm=None if ours.final_norm is None else wrapper(ours.final_norm),
        head=None if ours.head is None else wrapper(ours.head),
        blocks=tuple(wrapper(block) for block in ours.blocks),
        attention=outputs(ours.attention),
        mlp=outputs(ours.mlp),
        writes=tuple(outputs(modules) for modules in ours.writes),
        residual=(*residual, point(ours.blocks[-1], "hook_out")),
        notes=(*ours.notes, "through the hook points of TransformerLens"),
    )


@torch.no_grad()
def _compare(lm: LanguageModel, twin: LanguageModel) -> None:
    """Both give the same logits, and every hook point is passed once."""
    passed: list[nn.Module] = []
    needed = {p for p in (*twin.anatomy.residual, *sum(twin.anatomy.writes, ()))}
    handles = [p.register_forward_hook(lambda point, *_: passed.append(point)) for p in needed]
    size = int(lm.model.config.get_text_config().vocab_size)
    ids = torch.arange(10, device=lm.device).view(2, 5) % size
    try:
        logits = [
            one.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
            for one in (lm, twin)
        ]
    except RuntimeError as error:
        raise RunError(
            f"TransformerLens fails on {lm.name}: {str(error).splitlines()[0]:.200}",
            "Use backend='transformers'.",
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    first, second = (found.float() for found in logits)
    gap = float((first - second).abs().max() / first.abs().max().clamp(min=1e-6))
    allowed = max(_TOLERANCE, 16 * torch.finfo(lm.dtype).eps)
    if not gap <= allowed or sorted(map(id, passed)) != sorted(map(id, needed)):
        raise RunError(
            f"TransformerLens does not compute {lm.name} as transformers does: logits differ by "
            f"{gap:.2g} of their size, and {len(set(passed))} of {len(needed)} hook points were "
            "passed.",
            "Use backend='transformers'.",
        )
