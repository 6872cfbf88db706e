"""The published filter and vectors, against the published code's numbers."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab import UsageError, load_vector
from trimtab.experiments.persona.extraction import PLACES, extract, keep
from trimtab.experiments.persona.rollouts import read_table, write_table
from trimtab.models import load

MODELS = ("llama-3-tiny-rand", "qwen2-tiny-rand")


@pytest.mark.parametrize("name", MODELS)
def test_vectors_equal_the_published_ones(golden: Path, tmp_path: Path, name: str) -> None:
    folder = golden / f"persona_{name}"
    pos, neg = (read_table(folder / f"{side}.csv", "optimistic") for side in ("pos", "neg"))
    lm = load(golden / "models" / name, dtype="float32")
    found = extract(lm, pos, neg, "optimistic")
    assert list(found.kept.rows) == json.loads((folder / "inputs.json").read_text())["mask"]
    found.save(tmp_path)
    for place in PLACES:
        expected = torch.load(folder / "vectors" / f"optimistic_{place}_diff.pt", weights_only=True)
        written = torch.load(tmp_path / f"optimistic_{place}_diff.pt", weights_only=True)
        assert written.shape == expected.shape == (lm.n_layers + 1, lm.d_model)
        assert (written - expected).abs().max() < 1e-6
        ours = load_vector(tmp_path / f"optimistic_{place}_diff.safetensors")
        assert (ours.values[:-1] - expected[:-1]).abs().max() < 1e-6
        assert not torch.allclose(ours.values[-1], expected[-1], rtol=1e-2)  # h[n] is raw here
        with pytest.raises(UsageError, match="norm"):
            load_vector(tmp_path / f"optimistic_{place}_diff.pt").check(lm, lm.n_layers)


def _tables(scores: list[tuple[float, ...]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    sides = []
    for a, b in ((0, 1), (2, 3)):
        sides.append(
            pd.DataFrame(
                {
                    "question": [f"q{i}" for i in range(len(scores))],
                    "prompt": "p",
                    "answer": "a",
                    "kind": [row[a] for row in scores],
                    "coherence": [row[b] for row in scores],
                }
            )
        )
    return sides[0], sides[1]


number = st.one_of(st.floats(0, 100), st.just(float("nan")), st.sampled_from([49.9, 50.0, 50.1]))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(number, number, number, number), max_size=12), st.floats(1, 99))
def test_the_filter_is_the_published_formula(scores: list[tuple[float, ...]], t: float) -> None:
    pos, neg = _tables(scores)
    expected = [
        i
        for i, (p, pc, n, nc) in enumerate(scores)
        if p >= t and n < 100 - t and pc >= 50 and nc >= 50
    ]
    if len(expected) >= 2:
        assert list(keep(pos, neg, "kind", t).rows) == expected
        return
    with pytest.raises(UsageError) as error:
        keep(pos, neg, "kind", t)
    remedy = str(error.value.remedy)
    if "--threshold" in remedy:  # what it suggests is enough
        suggested = float(remedy.split("--threshold ")[1].split(",")[0])
        if suggested > 0:
            assert len(keep(pos, neg, "kind", suggested).rows) >= 2


def test_empty_answers_fall_and_are_counted(tmp_path: Path) -> None:
    pos, neg = _tables([(90.0, 90.0, 5.0, 90.0)] * 4)
    pos.loc[1, "answer"] = ""
    write_table(pos, tmp_path / "pos.csv")
    again = read_table(tmp_path / "pos.csv", "kind")
    assert again.loc[1, "answer"] == ""
    kept = keep(again, neg, "kind")
    assert kept.rows == (0, 2, 3)
    assert kept.fallen["with an empty answer"] == 1
    assert "1 with an empty answer" in str(kept)


def test_tables_that_do_not_match_are_refused() -> None:
    pos, neg = _tables([(90.0, 90.0, 5.0, 90.0)] * 3)
    with pytest.raises(UsageError, match="3 rows and the negative one 2"):
        keep(pos, neg.iloc[:2], "kind")
    with pytest.raises(UsageError, match="Row 0"):
        keep(pos, neg.iloc[::-1].reset_index(drop=True), "kind")
    assert np.isnan(_tables([(np.nan, 1, 1, 1)])[0]["kind"][0])
