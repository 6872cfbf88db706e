"""Parts of the toxicity experiment by themselves: prompts, pools, choice, units, configuration."""

import json
import math

import pytest

from trimtab.config import overrides
from trimtab.data import Prompt
from trimtab.errors import RunError, UsageError
from trimtab.experiments.toxicity import findings, numbers
from trimtab.experiments.toxicity.bench import analysed_layers, target_layer
from trimtab.experiments.toxicity.config import ToxicityConfig
from trimtab.experiments.toxicity.prompts import choose_prompts, read_splits
from trimtab.experiments.toxicity.results import depth
from trimtab.experiments.toxicity.vector import fed, pools
from trimtab.generation import Completion
from trimtab.runs.completions import UNSTEERED, Cell, Draws, Scored, _units
from trimtab.runs.config import read_recipe, recipes
from trimtab.scoring import Loss, scorer


def row(score, cell=UNSTEERED, text="a b", name=None, subset="challenging", toxicity=1.0):
    prompt = Prompt.raw(name or f"p {score}", subset=subset, split="test", toxicity=toxicity)
    return Scored(cell, Completion(prompt, (1, 2), text, True), score, (0.0, 1.0))


# -- prompts -----------------------------------------------------------------------------------


def rtp_file(tmp_path, n=40, known=True):
    """A file of the shape of RealToxicityPrompts."""
    path = tmp_path / "rtp.jsonl"
    rows = [
        {
            "filename": "x", "challenging": False,
            "prompt": {"text": f"Sentence {i} begins", "toxicity": i / n if known else None},
            "continuation": {"text": "and ends.", "toxicity": 0.5},
        }
        for i in range(n)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(r) + "\n" for r in [*rows[1::2], *rows[0::2], rows[3]]))
    return path


def test_challenging_are_the_most_toxic_and_benign_the_least(tmp_path):
    config = ToxicityConfig.read({
        "model": "m", "data": str(rtp_file(tmp_path)), "challenging": 8, "benign": 6,
        "test_fraction": 0.25,
    })  # fmt: skip
    splits = read_splits(choose_prompts(config, scorer("village")))
    for subset, best in (("challenging", range(32, 40)), ("benign", range(6))):
        chosen = [p for part in splits.values() for p in part if p.meta["subset"] == subset]
        assert {p.text for p in chosen} == {f"Sentence {i} begins" for i in best}
        assert all(p.meta["toxicity"] == int(p.text.split()[1]) / 40 for p in chosen)
    assert [len(splits[s]) for s in ("development", "test")] == [6 + 4, 2 + 2]
    ids = [{p.id for p in part} for part in splits.values()]
    assert not ids[0] & ids[1]


def test_a_prompt_whose_toxicity_is_no_number_is_left_out_wherever_it_stands(tmp_path):
    path = tmp_path / "rated.csv"
    rated = [0.1, 0.9, "nan", 0.2, 0.8, 0.3, 0.7, 0.95]
    path.write_text("text,toxicity\n" + "".join(f"It begins {r},{r}\n" for r in rated))
    config = ToxicityConfig.read(
        {"model": "m", "data": str(path), "challenging": 2, "benign": 2, "test_fraction": 0.5}
    )
    splits = read_splits(choose_prompts(config, scorer("village")))
    chosen = [p for part in splits.values() for p in part]
    assert sorted(p.meta["toxicity"] for p in chosen) == [0.1, 0.2, 0.9, 0.95]


def test_unknown_toxicity_is_scored(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("You are a stupid fool.\nWhat a fine day.\nGood evening.\nYou lazy turnip!\n")
    config = ToxicityConfig.read(
        {"model": "m", "data": str(path), "challenging": 2, "benign": 2, "test_fraction": 0.5}
    )
    splits = read_splits(choose_prompts(config, scorer("village")))
    rude = [p for part in splits.values() for p in part if p.meta["subset"] == "challenging"]
    assert {p.text for p in rude} == {"You are a stupid fool.", "You lazy turnip!"}
    assert all(p.meta["toxicity"] == 1.0 for p in rude)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [({"challenging": 30, "benign": 30}, "40 different prompts; 60"),
     ({"challenging": 1, "benign": 2}, "cannot make a development and a test split")],
)  # fmt: skip
def test_too_few_prompts_are_said(tmp_path, sizes, message):
    config = ToxicityConfig.read({"model": "m", "data": str(rtp_file(tmp_path))} | sizes)
    with pytest.raises(UsageError, match=message):
        choose_prompts(config, scorer("village"))


def test_village_prompts_come_from_its_own_held_out_splits():
    splits = read_splits(choose_prompts(ToxicityConfig(), scorer("village")))
    assert [len(part) for part in splits.values()] == [48, 48]
    from trimtab.data import prompts

    known = {p.id for tone in ("rude", "kind", "plain") for p in prompts(f"village/{tone}:test")}
    assert {p.id for p in splits["test"]} <= known


# -- pools and activations ---------------------------------------------------------------------


def test_pools_are_the_ends_of_a_stable_order():
    rows = [row(s, name=f"{i}") for i, s in enumerate([0.2, 0.9, 0.0, 0.9, math.nan, 0.0])]
    least, most = pools(rows, 2)
    assert [r.prompt.text for r in most] == ["1", "3"]
    assert [r.prompt.text for r in least] == ["2", "5"]
    least, most = pools(rows, 20)
    assert (len(least), len(most)) == (2, 2)  # five are scored: the pools never overlap


@pytest.mark.parametrize("scores", [[0.5, 0.5, 0.5], [math.nan, 0.1], []])
def test_no_contrast_is_an_error(scores):
    with pytest.raises(RunError, match="No contrast"):
        pools([row(s, name=f"{i}") for i, s in enumerate(scores)], 1)


def test_the_last_token_is_never_fed_back():
    prompt = Prompt.raw("x")
    assert fed(Completion(prompt, (5, 6, 7), "", finished=False)).tokens == (5, 6)
    assert fed(Completion(prompt, (5, 6, 7), "", finished=True)).tokens == (5, 6, 7)
    assert fed(Completion(prompt, (), "", finished=True)).tokens == ()


# -- units -------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3, 7, 8, 16, 1000])
@pytest.mark.parametrize("samples", [1, 3])
def test_units_cover_every_cell_and_prompt_once_in_order(batch, samples):
    units = _units(5, 8, Draws(8, 0.0, 1.0, samples, 0, batch))
    pairs = [(c, p) for cells, some in units for c in range(5)[cells] for p in range(8)[some]]
    assert pairs == [(c, p) for c in range(5) for p in range(8)]
    largest = max((c.stop - c.start) * (p.stop - p.start) * samples for c, p in units)
    assert largest <= max(batch, samples)


# -- numbers -----------------------------------------------------------------------------------


def layer_cells(**means):
    """{name: (layer, coefficient, mean, loss change, eligible)} as a layer analysis."""

    def cell(layer, coefficient, mean, change, eligible):
        figures = {"mean": {"mean": mean}, "effect": {"mean": 0.6 - mean}}
        return {
            "layer": layer, "block": layer - 1, "coefficient": coefficient, "eligible": eligible,
            "loss": {"change": change}, "subsets": {"challenging": figures},
        }  # fmt: skip

    return {"cells": [cell(*values) for values in means.values()]}


def test_the_choice_minds_its_bound_and_breaks_ties_by_loss():
    config = ToxicityConfig.read({"model": "m"})
    cells = layer_cells(
        best_but_broken=(1, 2.0, 0.0, 0.9, False), tied=(2, 1.0, 0.2, 0.10, True),
        tied_cheaper=(3, 1.0, 0.2, 0.05, True), worse=(4, 1.0, 0.4, 0.0, True),
    )  # fmt: skip
    chosen = numbers.choose(config, cells, [1, 2, 3, 4])
    assert (chosen["layer"], chosen["block"], chosen["coefficient"]) == (3, 2, 1.0)
    assert (chosen["eligible"], chosen["candidates"], chosen["warning"]) == (3, 4, "")
    assert numbers.choose(config, cells, [4])["layer"] == 4


def test_with_nothing_inside_the_bound_the_mildest_that_helps_is_taken_and_said():
    config = ToxicityConfig.read({"model": "m"})
    cells = layer_cells(
        harmful=(1, -1.0, 0.9, 0.1, False), mild=(2, 1.0, 0.3, 0.4, False),
        strong=(3, 2.0, 0.0, 0.8, False),
    )  # fmt: skip
    chosen = numbers.choose(config, cells, [1, 2, 3])
    assert chosen["layer"] == 2
    assert "no cell kept its side effects" in chosen["warning"]


def test_effects_of_opposite_sign_are_never_averaged():
    config = ToxicityConfig.read({"model": "m", "coefficients": [-1, 0, 1]})
    names = [f"p {i}" for i in range(8)]
    baseline = [row(0.5, name=n) for n in names]
    rows = [row(0.5 - 0.3 * c, Cell(1, c), name=n) for c in (-1.0, 1.0) for n in names]
    losses = {Cell(1, c): Loss(10, 1, 10) for c in (-1.0, 1.0)} | {UNSTEERED: Loss(9, 0, 10)}
    analysis = numbers.layer_analysis(config, 3, baseline, rows, losses)
    numbers.refer(analysis, 1.0)
    (layer,) = analysis["effectiveness"]
    assert layer["effect"]["mean"] == pytest.approx(0.3)
    assert [e["mean"] for e in layer["by_coefficient"]] == pytest.approx([-0.3, 0.3])
    assert layer["depth"] == "early"
    assert analysis["cells"][0]["loss"]["change"] == pytest.approx(0.1)
    assert analysis["cells"][0]["loss"]["kl"] == pytest.approx(0.1)


@pytest.mark.parametrize("n", [3, 10, 11, 32])
def test_depth_thirds_are_the_published_slices_of_the_blocks(n):
    blocks = list(range(n))
    slices = (blocks[: n // 3], blocks[n // 3 : 2 * n // 3], blocks[2 * n // 3 :])
    for third, part in zip(("early", "middle", "late"), slices, strict=True):
        assert [depth(block + 1, n) for block in part] == [third] * len(part)


def test_the_inverted_pattern_is_tested_and_not_told():
    more = [row(i / 20, name=f"{i}", toxicity=i / 20) for i in range(20)]
    less = [row(1 - i / 20, name=f"{i}", toxicity=i / 20) for i in range(20)]
    none = [row((i * 7 % 20) / 20, name=f"{i}", toxicity=i / 20) for i in range(20)]
    assert not findings.prompt_against_completion(more, 0)["inverted"]
    assert "more toxic completions" in findings.prompt_against_completion(more, 0)["statement"]
    found = findings.prompt_against_completion(less, 0)
    assert found["inverted"]
    assert found["spearman"]["value"] == pytest.approx(-1)
    assert "neither direction" in findings.prompt_against_completion(none, 0)["statement"]


def test_findings_from_too_few_prompts_say_so_and_have_no_nan():
    for n in range(6):
        before = [row(0.1 * i, name=f"{i}", toxicity=i / 5) for i in range(n)]
        after = [row(0.05 * i, Cell(1, 1.0), name=f"{i}", toxicity=i / 5) for i in range(n)]
        said = [
            findings.prompt_against_completion(before, 0)["statement"],
            findings.by_subset(before, after, 0)["statement"],
            findings.halved(before, after, 0)["statement"],
            findings.by_depth(before, after, 1.0, 3, 0)["statement"],
        ]
        for statement in said:
            assert "nan" not in statement
            assert "includes zero" not in statement
            assert "yes" not in statement
        if n > 1:
            assert all("too few" in statement for statement in said[1:])


def test_halved_needs_half_and_an_interval_above_zero():
    names = [f"{i}" for i in range(12)]
    baseline = [row(0.8, name=n) for n in names]
    assert findings.halved(baseline, [row(0.3, name=n) for n in names], 0)["holds"]
    for after in (0.42, 0.5):
        assert not findings.halved(baseline, [row(after, name=n) for n in names], 0)["holds"]
    wild = [row(0.0 if i else 0.8, name=n) for i, n in enumerate(names[:2])]
    assert not findings.halved(baseline[:2], wild, 0)["holds"]


# -- configuration -----------------------------------------------------------------------------


def test_the_village_brings_its_recipe_and_others_the_published_sources():
    assert ToxicityConfig() == ToxicityConfig.read(read_recipe("village"))
    other = ToxicityConfig.read({"model": "some/model"})
    assert (other.data, other.scorer) == (
        "real-toxicity-prompts", "unitary/unbiased-toxic-roberta",
    )  # fmt: skip


def test_recipes_are_the_published_ones():
    assert recipes() == {
        "phi-4-mini": "toxicity", "qwen3-8b": "toxicity", "village": "toxicity",
        "persona-qwen2.5-7b": "persona", "village-persona": "persona",
    }  # fmt: skip
    phi, qwen = (ToxicityConfig.read(read_recipe(n)) for n in ("phi-4-mini", "qwen3-8b"))
    assert (phi.coefficients, phi.k, phi.temperature, phi.top_p) == ((-1, 0, 1), 20, 0.7, 0.9)
    assert qwen.coefficients == (-1, -0.5, 0, 0.25, 0.5, 1, 1.5, 2)
    assert (qwen.challenging, qwen.benign, qwen.k) == (100, 100, 50)


@pytest.mark.parametrize(
    ("values", "message"),
    [({"coeficients": [1]}, "Did you mean 'coefficients'"), ({"k": 0}, "k cannot be 0"),
     ({"coefficients": [0]}, "one must not be 0"), ({"coefficients": [1, 1]}, "must differ"),
     ({"compat": "old"}, "compat cannot be 'old'"), ({"test_fraction": 1.0}, "less than 1")],
)  # fmt: skip
def test_a_bad_setting_is_named(values, message):
    with pytest.raises(UsageError, match=message):
        ToxicityConfig.read(values)


def test_overrides_are_yaml_values():
    assert overrides(["k=3", "coefficients=[-1, 0]", "compat=prefill", "dtype="]) == {
        "k": 3, "coefficients": [-1, 0], "compat": "prefill", "dtype": None,
    }  # fmt: skip
    with pytest.raises(UsageError, match="not key=value"):
        overrides(["k"])


def test_compat_prefill_writes_to_the_prompt():
    assert ToxicityConfig.read({"compat": "prefill"}).written_positions == "prompt"
    assert ToxicityConfig.read({"compat": "published"}).written_positions == "prompt"
    assert ToxicityConfig.read({"compat": "caa-last-fed"}).written_positions == "all"


def test_target_layers():
    half = ToxicityConfig.read({"target_layer": "half", "layers": [2]})
    assert target_layer(half, 32) == 17  # block 16
    assert analysed_layers(half, 32) == [2, 17]
    with pytest.raises(UsageError, match="Layer 33 does not exist"):
        analysed_layers(ToxicityConfig.read({"target_layer": 33}), 32)
