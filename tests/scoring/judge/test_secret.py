"""A key in an endpoint's words: whole or cut, nothing of it is shown."""

import logging
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from trimtab.errors import UsageError
from trimtab.scoring.judge import faults, secret
from trimtab.scoring.judge.client import Client

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
keys = st.text(LETTERS, min_size=8, max_size=60)
words = st.text(st.characters(codec="utf-8", exclude_characters=LETTERS + "*"), max_size=300)
space = st.text(" \t\n", max_size=3)


def parts(key: str) -> set[str]:
    return {key[i : i + 8] for i in range(len(key) - 7)}


@st.composite
def quoted(draw: st.DrawFn) -> tuple[str, str]:
    """A key, and words with the key and pieces of it among them."""
    key = draw(keys)
    text = draw(words)
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(key)))
        text += key[start : start + draw(st.integers(0, len(key)))] + draw(words)
    return key, text


def client(key: str) -> Client:
    return Client("http://127.0.0.1:9/v1", SecretStr(key), concurrency=1)


@settings(deadline=None)
@given(quoted(), space, space, st.sampled_from([400, 401, 403, 404, 422, 429, 500]), st.booleans())
@example(("sk-a1B2c3D4e5F6g7H8i9J0k1L2", "x" * 176 + "sk-a1B2c3D4e5F6g7H8i9J0k1L2"), " ", "", 400,
         True)  # fmt: skip
def test_no_part_of_a_key_is_in_an_error(
    key_and_text: tuple[str, str], before: str, after: str, status: int, structured: bool
) -> None:
    key, text = key_and_text
    response: Any = SimpleNamespace(status_code=status, text=text, headers={}, request=None)
    body = {"message": text, "code": text} if structured else None
    error = openai.APIStatusError(text, response=response, body=body)
    found = faults.explained(error, f"http://h/{key}", client(before + key + after).without_key)
    assert not any(part in str(found) for part in parts(key))
    assert f"status {status}" in str(found)


@settings(deadline=None)
@given(quoted(), st.data())
def test_what_is_not_of_the_key_stays(key_and_text: tuple[str, str], data: st.DataObject) -> None:
    key, text = key_and_text
    shown = secret.without(key, text)
    assert not any(part in shown for part in parts(key))
    kept = data.draw(words)
    assert secret.without(key, kept) == kept
    assert secret.without(key, f"{kept} {key} {kept}") == f"{kept} *** {kept}"


@given(st.text(LETTERS, min_size=1, max_size=7))
def test_a_short_key_is_found_whole(key: str) -> None:
    assert secret.without(key, f"({key})") == "(***)"


@pytest.mark.parametrize("key", ["sk-line\nbreak-in-it", "sk-\u201cquoted\u201d-key", "sk-a space"])
def test_a_key_that_cannot_be_sent_is_an_error_that_does_not_show_it(key: str) -> None:
    with pytest.raises(UsageError, match="key has a space") as caught:
        client(key)
    assert "sk-" not in str(caught.value)


def test_logs_of_the_client_library_lack_the_key(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    key, log = "sk-a1B2c3D4e5F6", logging.getLogger("openai._base_client")
    with secret.out_of_logs(client(key).without_key):
        log.debug("Headers(%r)", {"x-echo": key})
        try:
            raise ValueError(f"Illegal header Bearer {key}")
        except ValueError:
            log.debug("Encountered", exc_info=True)
    assert key not in caplog.text
    assert "Headers({'x-echo': '***'})" in caplog.text
    assert "Illegal header Bearer ***" in caplog.text
    log.debug("after")
    assert "after" in caplog.text
