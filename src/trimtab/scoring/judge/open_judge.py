"""A judge by its name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import SecretStr

from trimtab.errors import UsageError, require
from trimtab.scoring.judge.metric import Judge
from trimtab.scoring.judge.village import VillageJudge, check_metric
from trimtab.scoring.settings import OPENAI_URL, Keys

CONCURRENCY = 100


def open_judge(
    spec: str,
    *,
    base_url: str | None = None,
    cache: str | Path | None = None,
    concurrency: int = CONCURRENCY,
    timeout: float = 60.0,
    price: tuple[float, float] | None = None,
    device: str | None = None,
    estimate_only: bool = False,
) -> Judge:
    """A judge by name.

    Args:
        spec: "village" (its own scorers); "openai:MODEL" (or a bare name such as gpt-4.1-mini), a
            model at an OpenAI-compatible endpoint; "hf:MODEL", a Hugging Face id or folder that is
            loaded here.
        base_url: Of the endpoint; None: OPENAI_BASE_URL, or else OpenAI's own.
        cache: An SQLite file that keeps every answer of the endpoint, so that none is paid for
            twice; None keeps them while the judge lives.
        concurrency: The most requests at a time.
        timeout: Seconds to wait for one answer of the endpoint.
        price: USD for a million tokens in and out, where the price table has none or an old one.
        device: Where a model of "hf:" runs.
        estimate_only: Nothing will be sent, so no key is needed.

    Raises:
        UsageError: There is no such judge, no key for the endpoint, or the cache is no cache.
    """
    kind, _, model = spec.partition(":")
    if spec == "village":
        return VillageJudge()
    if kind == "hf" and model:
        from trimtab.models import load
        from trimtab.scoring.judge.local import LocalJudge

        return LocalJudge(load(model, device=device))
    if spec.startswith("gpt-"):
        kind, model = "openai", spec
    if kind == "openai" and model:
        from trimtab.scoring.judge.client import Client
        from trimtab.scoring.judge.endpoint import EndpointJudge

        keys = Keys()
        url = base_url or keys.openai_base_url or OPENAI_URL
        key = SecretStr("none") if estimate_only else keys.for_judge(url)
        client = Client(url, key, cache=cache, concurrency=concurrency, timeout=timeout)
        return EndpointJudge(model, client, price)
    raise UsageError(
        f"There is no judge {spec!r}.",
        "Give village, openai:MODEL (an OpenAI-compatible endpoint), or hf:MODEL (a Hugging Face "
        "id or a folder).",
    )


def check_judge(spec: str, base_url: str | None = None, metrics: Sequence[str] = ()) -> None:
    """Refuse a judge that `open_judge` would refuse, without the weights of one that runs here.

    Args:
        spec, base_url: As of `open_judge`.
        metrics: Names of what it is to judge beside the coherence.

    Raises:
        UsageError: There is no such judge or model, it knows no such metric, a package is missing,
            or there is no key for its endpoint.
    """
    kind, _, model = spec.partition(":")
    if kind == "hf" and model:
        from trimtab.models.outline import outline
        from trimtab.models.template import chat_template

        chat_template(outline(model).tokenizer)
        return
    open_judge(spec, base_url=base_url, estimate_only=True)  # its name, before package and key
    if spec == "village":
        for metric in metrics:
            check_metric(metric)
        return
    require("openai")
    open_judge(spec, base_url=base_url)
