"""Where blocks, attention, MLP, norms and embeddings live in any decoder that transformers loads.

Found by structure, then proved on a short forward pass (`proof.py`); no table of architectures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from trimtab.errors import UsageError
from trimtab.models.verify_anatomy import prove


@dataclass(frozen=True)
class Anatomy:
    """The parts of a decoder, as the forward pass showed them.

    Attributes:
        base: The decoder without the LM head; `base(input_ids=, attention_mask=)` runs it.
        embedding: The token embedding. Not always h[0]: Gemma scales it, GPT-2 adds positions;
            h[0] is the input of block 0.
        final_norm: What turns h[n] into `base`'s last_hidden_state; None if nothing does.
        head: The LM head, None where the model has none.
        blocks: Block L takes h[L] (first argument or `hidden_states=`) and returns h[L+1], a
            tensor [b, t, d] or the first entry of a tuple.
        attention: Per block, the module that starts its first branch (attention, in nearly all).
        mlp: Per block, the module that starts its last branch (OPT, which has no MLP module: the
            last Linear). The same module as `attention` in a block of one branch.
        writes: Per block, every module whose output is added to the residual stream: attention
            and MLP, and in post-norm blocks (Gemma-2/3, OLMo-2) the norms after them. The output
            is a tensor [b, t, d], [b * t, d] (OPT) or the first entry of a tuple.
        block_path: Where the blocks are, for example "model.layers".
        notes: What is out of the ordinary, in words.
        residual: Modules whose outputs are h[0] to h[n], in a model that has such points between
            its blocks (`lens.py`); then `attention`, `mlp` and `writes` are points, too.
    """

    base: nn.Module
    embedding: nn.Module
    final_norm: nn.Module | None
    head: nn.Module | None
    blocks: tuple[nn.Module, ...]
    attention: tuple[nn.Module, ...]
    mlp: tuple[nn.Module, ...]
    writes: tuple[tuple[nn.Module, ...], ...]
    block_path: str = ""
    notes: tuple[str, ...] = ()
    residual: tuple[nn.Module, ...] = ()

    def describe(self) -> str:
        """What was found, one line a part, for the doctor command."""
        names = {id(module): name for name, module in self.blocks[0].named_modules()}
        writes = ", ".join(names.get(id(module), "?") for module in self.writes[0])
        lines = [
            f"{len(self.blocks)} blocks ({type(self.blocks[0]).__name__}) at {self.block_path}",
            f"base: {type(self.base).__name__}; embedding: {type(self.embedding).__name__}",
            f"attention: {names.get(id(self.attention[0]), '?')}; "
            f"MLP: {names.get(id(self.mlp[0]), '?')}",
            f"added to the residual: {writes}",
            f"final norm: {_class(self.final_norm)}; head: {_class(self.head)}",
        ]
        return "\n".join([*lines, *self.notes])


def find_anatomy(model: Any) -> Anatomy:
    """Find a decoder's parts and prove them on a forward pass of two rows of five tokens.

    Args:
        model: A causal language model of transformers, PEFT-wrapped or not, in eval mode.

    Raises:
        UsageError: The model is no decoder with an additive residual stream, or its parts could
            not be proved; the message says what was found.
    """
    network = _inside_adapter(model)
    embedding, head = network.get_input_embeddings(), network.get_output_embeddings()
    path, base, blocks = _find_blocks(network, embedding)
    proof = prove(network, base, embedding, blocks)
    parts = proof.parts
    return Anatomy(
        base=base,
        embedding=embedding,
        final_norm=proof.final_norm,
        head=head,
        blocks=blocks,
        attention=tuple(part.first for part in parts),
        mlp=tuple(part.last for part in parts),
        writes=tuple(part.writes for part in parts),
        block_path=path,
        notes=proof.notes,
    )


def _inside_adapter(model: Any) -> Any:
    """The transformers model inside a PeftModel, whose modules carry the adapter."""
    if not hasattr(model, "peft_config"):
        return model
    if any(getattr(config, "is_prompt_learning", False) for config in model.peft_config.values()):
        raise UsageError(
            "The adapter is of the prompt-tuning kind: it adds tokens, not weights.",
            "Only adapters that change weights (LoRA and its kin) can be loaded.",
        )
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _find_blocks(
    network: nn.Module, embedding: nn.Module
) -> tuple[str, nn.Module, tuple[nn.Module, ...]]:
    """The longest ModuleList whose owner holds the token embedding too, and that owner.

    So lists of experts inside a block are left out, and the vision tower of a multimodal model.
    """
    modules = dict(network.named_modules())
    found: list[tuple[int, str]] = []
    for path, module in modules.items():
        if isinstance(module, nn.ModuleList):
            owner = modules[path.rpartition(".")[0]]
            if any(inner is embedding for inner in owner.modules()):
                found.append((len(module), path))
    if not found:
        raise UsageError(
            f"No list of blocks was found beside the token embedding of {_class(network)}.",
            "Only decoder language models can be loaded.",
        )
    path = max(found, key=lambda entry: entry[0])[1]
    return path, modules[path.rpartition(".")[0]], tuple(modules[path].children())


def _class(module: nn.Module | None) -> str:
    return "none" if module is None else type(module).__name__
