"""What goes in: prompts, prompt sets, their sources and their splits."""

from trimtab.data.loading import on_hub, prompts, shipped_sources
from trimtab.data.prompt import Message, Prompt, prompt_id
from trimtab.data.prompt_set import PromptSet
from trimtab.data.splits import split

__all__ = [
    "Message",
    "Prompt",
    "PromptSet",
    "on_hub",
    "prompt_id",
    "prompts",
    "shipped_sources",
    "split",
]
