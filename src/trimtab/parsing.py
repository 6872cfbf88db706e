"""What text files hold: UTF-8, lines, JSON and YAML; each is read to a value or a `UsageError`.

Values are those of JSON, and such that nothing further on fails over them: nested at most `DEPTH`
deep, text that UTF-8 can write, whole numbers that fit a float.
"""

import io
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from trimtab.errors import UsageError
from trimtab.files import reading

DEPTH = 100  # levels of lists and mappings
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # an escape; half of a pair may be missing
_DIGITS = 300  # of whole numbers; floats end at 1e308
_NODES = 100_000  # of a YAML text, its aliases written out


def read_text(path: str | Path) -> str:
    """The text of a file in UTF-8, its line ends as they are, without a byte order mark.

    Raises:
        UsageError: It cannot be read, or is not UTF-8.
    """
    with reading(path):
        data = Path(path).read_bytes()
    return decoded(data, str(path))


def read_json(path: str | Path, remedy: str = "Correct it, or make it again.") -> Any:
    """The value of a JSON file.

    Raises:
        UsageError: It cannot be read, or is not JSON.
    """
    return parse_json(read_text(path), str(path), remedy)


def decoded(data: bytes, where: str, first: bool = True) -> str:
    """UTF-8 bytes as text, without a byte order mark if they are the first of their file.

    Raises:
        UsageError: They are in another encoding; the line is counted from the start of `data`.
    """
    if first and data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UsageError(f"{where}: the file is UTF-16, not UTF-8.", "Save it as UTF-8.")
    try:
        return data.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        at = error.start + (3 if first and data.startswith(b"\xef\xbb\xbf") else 0)
        number = data.count(b"\n", 0, at) + 1
        line = f", line {number}" if b"\n" in data[:-1] else ""
        raise UsageError(
            f"{where}{line}: not UTF-8 (byte {data[at]:#04x}).",
            "Save the file as UTF-8, for example with: iconv -f latin1 -t utf-8.",
        ) from None


def lines(data: Iterable[bytes], where: str) -> Iterator[tuple[str, str]]:
    r"""(`where`, line N) and each line, without its end, which is \n, \r\n or \r.

    Nothing else ends one: U+2028, U+0085 and form feeds are text.

    Args:
        data: A file opened for reading bytes, or anything else that gives lines ending in b"\n".
    """
    number = 0
    for line in data:
        text = decoded(line, f"{where}, line {number + 1}", first=number == 0)
        for part in io.StringIO(text, newline=""):
            number += 1
            yield f"{where}, line {number}", part.rstrip("\r\n")


def parse_json(text: str, where: str, remedy: str = "Correct or remove it.") -> Any:
    """The value of a JSON text; `where` names it in errors.

    Raises:
        UsageError: It is not JSON, or is nested too deep, or holds a number or characters that
            nothing could be done with.
    """
    try:
        value = json.loads(text, parse_int=_integer)
        if text.count("[") + text.count("{") > DEPTH:
            _check_depth(value)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"{where}: not valid Unicode (a lone surrogate).", "Remove or replace that character."
        ) from None
    except RecursionError:
        raise UsageError(f"{where}: not valid JSON (nested too deep).", remedy) from None
    except ValueError as error:
        raise UsageError(f"{where}: not valid JSON ({error}).", remedy) from None
    return value


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text, of the kinds that JSON has; a date is text.

    Raises:
        UsageError: It is not YAML, has tags of other kinds or whole numbers of more than 64 bits,
            or is too large once its aliases are written out.
    """
    try:
        node = yaml.compose(text, _Loader)
        if node is None:
            return None
        _measure(node, {})
        loader = _Loader("")
        value = loader.construct_document(node)
        _check_scalars(value)
        return value
    except RecursionError:
        raise UsageError(
            f"{where} is not valid YAML (nested too deep).", "Use fewer levels."
        ) from None
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark
        line = f" in line {at.line + 1}" if at else ""
        raise UsageError(
            f"{where} is not valid YAML: {error.problem}{line}.", "Correct it there."
        ) from None
    # PyYAML's constructors leave `!!int x`, `!!float ""` and `!!bool x` to Python.
    except (yaml.YAMLError, LookupError, ValueError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"{where} is not valid YAML: {said:.200}.", "Correct it.") from None


_NOT_JSON = ("timestamp", "binary", "omap", "pairs", "set")


def yaml_text(value: Any) -> str:
    """A value as YAML, keys in their order; `parse_yaml` gives it back."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """PyYAML's, but text with anything that it could lose when it breaks lines is escaped."""


def _text_node(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    plain = not re.search("[\x85\u2028\u2029\ufeff\r]", text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, None if plain else '"')


_Dumper.add_representer(str, _text_node)


class _Loader(yaml.SafeLoader):
    """YAML's core schema alone: the tags that JSON has a value for."""

    def fetch_flow_collection_start(self, token: Any) -> None:
        if self.flow_level > DEPTH:  # what follows would take time quadratic in the depth
            raise RecursionError
        super().fetch_flow_collection_start(token)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.yaml_constructors = {
    tag: make
    for tag, make in yaml.SafeLoader.yaml_constructors.items()
    if tag not in {f"tag:yaml.org,2002:{name}" for name in _NOT_JSON}
}


def _measure(node: yaml.Node, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """How many nodes there are with every alias written out, and how deep they are nested."""
    if id(node) in known:
        measured = known[id(node)]
        if measured is None:
            raise ValueError("an alias stands inside what it means")
        return measured
    known[id(node)] = None
    if node.tag.endswith(":int") and len(node.value) > _DIGITS:
        raise ValueError(f"a whole number of {len(node.value)} digits")
    children: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        children = node.value
    elif isinstance(node, yaml.MappingNode):
        children = [part for pair in node.value for part in pair]
    parts = [_measure(child, known) for child in children]
    size = 1 + sum(size for size, _ in parts)
    depth = 1 + max((depth for _, depth in parts), default=0)
    if size > _NODES and size > 2 * len(known):
        raise ValueError("its aliases stand for too much")
    if depth > DEPTH:
        raise RecursionError
    known[id(node)] = size, depth
    return size, depth


def _integer(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"a whole number of {len(text)} digits")
    return int(text)


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEPTH + 1):
        inner = [v.values() if isinstance(v, dict) else v for v in level]
        level = [v for values in inner for v in values if isinstance(v, dict | list)]
        if not level:
            return
    raise RecursionError


def _check_scalars(value: Any) -> None:
    """Of a tree that was measured."""
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_scalars(key)
            _check_scalars(inner)
    elif isinstance(value, list):
        for inner in value:
            _check_scalars(inner)
    elif isinstance(value, int) and abs(value) >= 2**64:
        raise ValueError(f"a whole number of {value.bit_length()} bits")
    elif isinstance(value, str):
        value.encode()
