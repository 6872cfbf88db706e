"""What is read of a chat completion, checked: an endpoint may send anything."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0, le=2**53)]
# A little above 0 is rounding, and minus infinity a probability of 0; NaN is not below anything.
LogProbability = Annotated[float, Field(le=1e-3)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class Likely(_Part):
    """One of the likeliest tokens at a place."""

    token: str
    logprob: LogProbability


class Place(_Part):
    """A token of the reply, and the likeliest ones in its place."""

    token: str
    top_logprobs: list[Likely] | None = None


class LogProbabilities(_Part):
    """Of the tokens of a reply."""

    content: list[Place] | None = None


class TextPart(_Part):
    """A part of a message's content; only text has `text`."""

    text: str = ""


class Message(_Part):
    """What the model said."""

    content: str | list[TextPart] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class Choice(_Part):
    """A reply, and why it ended."""

    message: Message
    logprobs: LogProbabilities | None = None
    finish_reason: Any = None


class Tokens(_Part):
    """What was paid for."""

    prompt_tokens: Count = 0
    completion_tokens: Count = 0


class Completion(_Part):
    """The body of a response; a score does not need `usage`, which may be anything."""

    choices: Annotated[list[Choice], Field(min_length=1)]
    usage: Tokens | Any = None

    @property
    def tokens(self) -> Tokens:
        return self.usage if isinstance(self.usage, Tokens) else Tokens()
