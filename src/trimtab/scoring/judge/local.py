"""A model loaded here as the judge: the same messages, exact probabilities of whole replies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trimtab.activations.batches import each_batch
from trimtab.data import Prompt
from trimtab.errors import UsageError
from trimtab.generation import generate
from trimtab.models import LanguageModel, encode, encode_answer
from trimtab.scoring.judge.aggregation import judgement
from trimtab.scoring.judge.metric import Judgement, Kind, Metric
from trimtab.scoring.judge.usage import Estimate, Usage
from trimtab.scoring.refusal import first_token, padded

WORDS: dict[Kind, tuple[str, ...]] = {
    "0_100": tuple(str(number) for number in range(101)),
    "0_10": (*(str(digit) for digit in range(10)), "REFUSAL"),
    "binary": ("YES", "NO", "REFUSAL"),
}
TOKENS_AT_A_TIME = 16_384
LEAST_PROBABILITY = 1e-3  # of the beginning of a reply, for its continuations to be looked at
VERDICT_TOKENS = 128
Path = tuple[int, ...]


@dataclass(frozen=True)
class Replies:
    """The replies that count, as a tree of tokens.

    Attributes:
        following: By the tokens so far, the tokens that may come next.
        words: By all its tokens, the reply.
    """

    following: dict[Path, set[int]]
    words: dict[Path, str]


@dataclass(frozen=True)
class Beginning:
    """The first tokens of a reply to one of the prompts, and how likely they are."""

    prompt: int
    tokens: Path
    probability: float


class LocalJudge:
    """Asks a model that is loaded here; replies of several tokens count whole.

    An endpoint tells the first token alone, which for many models is the first digit of a number.
    Here the tokens after it are looked at too: 8 is told from 85.
    """

    usage = Usage()

    def __init__(self, lm: LanguageModel) -> None:
        self.name, self._lm = lm.name, lm

    @property
    def source(self) -> str:
        """The model and its fingerprint."""
        return f"{self.name} {self._lm.fingerprint}"

    def estimate(
        self, metrics: Sequence[Metric], questions: Sequence[str], answers: Sequence[str]
    ) -> Estimate:
        """Nothing: it runs here."""
        return Estimate()

    def rate(
        self,
        metrics: Sequence[Metric],
        questions: Sequence[str],
        answers: Sequence[str],
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, list[Judgement]]:
        """By metric name, a judgement for each answer; none where it exceeds the context.

        Raises:
            UsageError: The model has no chat template, or a metric's template no {answer}.
        """
        pairs = list(zip(questions, answers, strict=True))
        found = {}
        for number, metric in enumerate(metrics):
            prompts = [Prompt.chat(metric.message(q, a)) for q, a in pairs]
            found[metric.name] = self._judgements(metric.kind, prompts)
            if progress is not None:
                progress((number + 1) * len(pairs), len(metrics) * len(pairs))
        return found

    def _judgements(self, kind: Kind, prompts: Sequence[Prompt]) -> list[Judgement]:
        encode(self._lm, Prompt.chat("?"))  # what is wrong with this one is wrong with all
        rows: dict[int, list[int]] = {}
        results = [Judgement(None)] * len(prompts)
        for i, prompt in enumerate(prompts):
            try:
                rows[i] = encode(self._lm, prompt)
            except UsageError as error:
                results[i] = Judgement(None, error.message)
        if kind == "binary_text":
            asked = [prompts[i] for i in rows]
            made = generate(self._lm, asked, max_new_tokens=VERDICT_TOKENS) if asked else []
            found = [judgement(kind, {}, completion.text) for completion in made]
        else:
            replies = _replies(self._lm, WORDS[kind])
            read = probabilities(self._lm, list(rows.values()), replies)
            found = [judgement(kind, row, "") for row in read]
        for i, result in zip(rows, found, strict=True):
            results[i] = result
        return results


def probabilities(
    lm: LanguageModel, prompts: Sequence[list[int]], replies: Replies
) -> list[dict[str, float]]:
    """For each prompt the probability of each reply, complete: "8" excludes "85".

    Beginnings less likely than `LEAST_PROBABILITY` are not followed: their replies count 0.
    """
    found: list[dict[str, float]] = [defaultdict(float) for _ in prompts]
    frontier = [Beginning(i, (), 1.0) for i in range(len(prompts))]
    while frontier:
        frontier = _a_token_further(lm, prompts, replies, frontier, found)
    return found


def _a_token_further(
    lm: LanguageModel,
    prompts: Sequence[list[int]],
    replies: Replies,
    frontier: Sequence[Beginning],
    found: Sequence[dict[str, float]],
) -> list[Beginning]:
    """Beginnings that are a token longer; the replies that end here are added to `found`."""
    rows = [prompts[start.prompt] + list(start.tokens) for start in frontier]
    ahead: list[Beginning] = []

    def read(batch: list[int]) -> None:
        asked = padded(lm, [rows[i] for i in batch])
        table = first_token(lm, asked, [()] * len(batch))
        for i, distribution in zip(batch, table, strict=True):
            start = frontier[i]
            words = found[start.prompt]
            after = {t: float(distribution[t]) for t in replies.following[start.tokens]}
            if start.tokens in replies.words:
                words[replies.words[start.tokens]] += start.probability * (1 - sum(after.values()))
            for token, share in after.items():
                longer = Beginning(start.prompt, (*start.tokens, token), start.probability * share)
                if longer.tokens not in replies.following:
                    words[replies.words[longer.tokens]] += longer.probability
                elif longer.probability >= LEAST_PROBABILITY:
                    ahead.append(longer)

    each_batch([len(row) for row in rows], TOKENS_AT_A_TIME, lm.device, read)
    return ahead


def _replies(lm: LanguageModel, words: Sequence[str]) -> Replies:
    """Each word as the tokens that follow a chat, with and without a space before it."""
    following: dict[Path, set[int]] = {(): set()}
    ends: dict[Path, str] = {}
    for word in words:
        for reply in (word, f" {word}"):
            ids, start = encode_answer(lm, Prompt.chat("?"), reply)
            path = tuple(ids[start:])
            ends[path] = word
            for length in range(len(path)):
                following.setdefault(path[:length], set()).add(path[length])
    return Replies(following, ends)
