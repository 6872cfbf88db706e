"""`prompts`: one door to every prompt set, by name or by file."""

from pathlib import Path

from trimtab.data.fetch import collections, fetched
from trimtab.data.fields import Fields
from trimtab.data.prompt import Prompt
from trimtab.data.prompt_set import PromptSet
from trimtab.data.rows import SUFFIXES, file_rows, first
from trimtab.data.source import read_source
from trimtab.errors import UsageError

SHIPPED = Path(__file__).parent / "sources"


def prompts(
    source: str | Path,
    split: str | None = None,
    text_field: str | None = None,
    *,
    chat: bool | None = None,
    limit: int | None = None,
) -> PromptSet:
    """The prompts of a source, in its order.

    Args:
        source: `"village/NAME"` or `"village/NAME:SPLIT"`; `"refusal/NAME"`, a set brought by
            `trimtab data fetch refusal`; a file (.jsonl, .json with a list, .csv,
            .tsv, .txt with one text a line, .yaml that describes a source); or the name of a source
            that trimtab describes (`shipped_sources()`), such as `"real-toxicity-prompts"`.
        split: The split, of a village set or a hub data set.
        text_field: The field with the text or the messages, with dots into nested rows. Without it
            the first found of text, prompt, prompt.text, instruction, messages, question is taken.
            All other fields go to `meta`.
        chat: Whether a text is a user's words to answer (True) or raw text to continue (False).
            Without it, `instruction` and `question` are to answer, any other text to continue.
        limit: Stop after this many prompts.

    Raises:
        UsageError: There is no such source, split or field, or the file is empty or broken; with
            the line, and what was found instead.
        RunError: A data set is not in the cache and cannot be fetched.
    """
    if not isinstance(source, str | Path):
        raise UsageError(
            f"prompts takes the name of a source or a file, found a {type(source).__name__}.",
            "Texts to continue: PromptSet([Prompt.raw(text) for text in texts]); a user's words to "
            "answer: PromptSet([Prompt.chat(words) for words in texts]).",
        )
    if limit is not None and limit < 1:
        raise UsageError(f"A limit of {limit} prompts leaves none.", "Give a limit of at least 1.")
    text, path = str(source), Path(source)
    suffix = path.suffix.lower()
    if suffix in (".yaml", ".yml"):
        return _described(path, text, split, text_field, chat, limit)
    if suffix in SUFFIXES:
        if split is not None:
            raise UsageError(
                f"A file has no splits, and {split!r} of {path.name} was asked for.",
                "Use trimtab.split(prompts(...), (0.5, 0.5), seed=0), or a .yaml source.",
            )
        fields = Fields(field=text_field, chat=chat)
        rows = first(file_rows(path), limit)
        return PromptSet([fields.prompt(row, where) for where, row in rows], path.name)
    collection, _, name = text.partition("/")
    if name and collection in collections():
        return _fetched(collection, name, text, split, text_field, chat, limit)
    if text.startswith("village/"):
        return _village(text, split, text_field, chat, limit)
    if described := _shipped(text):
        return _described(described, text, split, text_field, chat, limit)
    raise UsageError(
        f"There is no prompt source {text!r}.",
        f"Give village/NAME, refusal/NAME, a file ({', '.join(SUFFIXES)} or .yaml), or one of "
        f"{', '.join(shipped_sources())}; a data set of the hub is described by a .yaml file.",
    )


def on_hub(source: str | Path) -> bool:
    """Whether the rows of a source are a data set of the hub, and not on this machine."""
    path: Path | None = Path(source)
    if Path(source).suffix.lower() not in (".yaml", ".yml"):
        path = _shipped(str(source))
    return path is not None and path.is_file() and read_source(path).dataset is not None


def shipped_sources() -> list[str]:
    """The names of the sources that trimtab describes."""
    return sorted(path.stem.replace("_", "-") for path in SHIPPED.glob("*.yaml"))


def _shipped(name: str) -> Path | None:
    """The file in which trimtab describes a source of this name."""
    path = SHIPPED / f"{name.replace('-', '_')}.yaml"
    return path if "/" not in name and path.is_file() else None


def _described(
    path: Path,
    name: str,
    split: str | None,
    text_field: str | None,
    chat: bool | None,
    limit: int | None,
) -> PromptSet:
    source = read_source(path)
    if split is not None and source.dataset is None:
        raise UsageError(f"{path.name} describes a file, which has no split {split!r}.")
    given = {"split": split, "chat": chat}
    changes: dict[str, object] = {key: value for key, value in given.items() if value is not None}
    if limit is not None:
        changes["limit"] = min(limit, source.limit or limit)
    if text_field is not None:
        changes |= {"field": text_field, "template": None}
    found = source.model_copy(update=changes).prompts(path.parent)
    return PromptSet(found, Path(name).name)


def _fetched(
    collection: str,
    name: str,
    text: str,
    split: str | None,
    text_field: str | None,
    chat: bool | None,
    limit: int | None,
) -> PromptSet:
    """A set of `fetch`; "refusal/harmful:train" and split="train" are refusal/harmful_train."""
    part = f"_{split}" if split else ""
    path = fetched(collection, name.replace(":", "_") + part)
    fields = Fields(field=text_field, chat=chat)
    rows = first(file_rows(path), limit)
    return PromptSet([fields.prompt(row, where) for where, row in rows], text + part)


def _village(
    text: str, split: str | None, text_field: str | None, chat: bool | None, limit: int | None
) -> PromptSet:
    from trimtab.village.prompts import prompt_rows

    if text_field is not None or chat is not None:
        raise UsageError(f"{text} has prompts of its own making: it takes no field and no chat.")
    name, _, named_split = text.removeprefix("village/").partition(":")
    if split and named_split and split != named_split:
        raise UsageError(
            f"Two splits were asked for: {named_split!r} in {text!r}, and {split!r}.",
            "Name one of them.",
        )
    split = split or named_split or None
    try:
        rows = prompt_rows(name, split)
    except ValueError as error:
        raise UsageError(f"The village has {error}.", "Give one of these.") from None
    full_name = f"village/{name}" + (f":{split}" if split else "")
    return PromptSet(map(Prompt.from_row, rows[:limit]), full_name)
