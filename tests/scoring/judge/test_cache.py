"""Replies on disk: by the whole request, at once, and for several processes."""

import sqlite3
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.errors import RunError, UsageError
from trimtab.scoring.judge import cache as cache_module
from trimtab.scoring.judge.cache import Cache, Reply, key_of

REQUEST = {"model": "m", "messages": [{"role": "user", "content": "q"}], "seed": 0}
# Loaded by its path: the package around it would load torch.
WRITER = f"""
import importlib.util, os, sys
spec = importlib.util.spec_from_file_location("cache", {cache_module.__file__!r})
sys.modules["cache"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
cache = module.Cache(sys.argv[1])
for i in range(20):
    cache.put(f"{{sys.argv[2]}}{{i}}", module.Reply("x", None))
os._exit(1)  # as a crash would: nothing is closed
"""


def test_a_key_is_of_place_and_request_and_of_nothing_else():
    key = key_of("http://a/v1", REQUEST)
    assert len(key) == 64
    assert key == key_of("http://a/v1/", dict(reversed(REQUEST.items())))
    others = [
        key_of("http://b/v1", REQUEST),
        key_of("http://a/v1", REQUEST | {"model": "n"}),
        key_of("http://a/v1", REQUEST | {"seed": 1}),
        key_of("http://a/v1", REQUEST | {"messages": [{"role": "user", "content": "p"}]}),
    ]
    assert len({key, *others}) == 5


@settings(deadline=None)
@given(
    st.text(),
    st.none() | st.dictionaries(st.text(), st.floats(0, 1)),
    st.none() | st.text(),
    st.integers(0, 10**9),
)
def test_a_reply_comes_back_as_it_was(text, probabilities, first, tokens):
    cache, reply = Cache(None), Reply(text, probabilities, first, tokens, 1)
    cache.put("k", reply)
    assert cache.get("k") == reply
    assert cache.get("other") is None


def test_processes_share_a_file_and_a_crash_loses_nothing(tmp_path):
    path = tmp_path / "new" / "judge.sqlite"
    command = [sys.executable, "-c", WRITER, str(path)]
    running = [subprocess.Popen([*command, name]) for name in "ab"]
    assert [process.wait() for process in running] == [1, 1]
    cache = Cache(path)
    assert all(cache.get(f"{name}{i}") == Reply("x", None) for name in "ab" for i in range(20))


@pytest.mark.parametrize(
    "stored",
    ["", "[]", "{", '{"text": ["a"], "probabilities": null}', '{"text": "a"}', "[" * 99_999,
     '{"text": "a", "probabilities": {"8": NaN}}', '{"text": "a", "probabilities": {"8": 1e9}}',
     '{"text": "a", "probabilities": {"8": ' + "9" * 9999 + "}}"],
)  # fmt: skip
def test_an_entry_that_is_no_reply_is_asked_for_again(tmp_path, stored):
    cache, reply = Cache(tmp_path / "c"), Reply("x", {"8": 0.5})
    with sqlite3.connect(tmp_path / "c") as other:
        other.execute("INSERT INTO replies VALUES ('k', ?)", (stored,))
    assert cache.get("k") is None
    assert cache.put("k", reply) == reply
    assert Cache(tmp_path / "c").get("k") == reply


def test_of_two_processes_that_asked_alike_both_have_the_first_reply(tmp_path):
    one, other = Cache(tmp_path / "c"), Cache(tmp_path / "c")
    assert one.put("k", Reply("first", None)) == Reply("first", None)
    assert other.put("k", Reply("second", None)) == Reply("first", None)
    assert one.get("k") == other.get("k") == Reply("first", None)


def test_a_file_that_breaks_later_is_an_error_with_a_remedy(tmp_path):
    cache = Cache(tmp_path / "c")
    with sqlite3.connect(tmp_path / "c") as other:
        other.execute("DROP TABLE replies")
    with pytest.raises(RunError, match=r"cannot be read.*Move the file away"):
        cache.get("k")
    with pytest.raises(RunError, match="cannot be written"):
        cache.put("k", Reply("x", None))


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("These are notes. " * 100)
    with pytest.raises(UsageError, match="cache of an earlier run"):
        Cache(tmp_path / "notes.txt")
