"""The TransformerLens backend against the reference: states, selection, completions, no leaks.

Runs where transformer_lens is installed: `make test-tl`.
"""

import re
from pathlib import Path

import pytest
import torch

import trimtab as tt
from tiny_models import tiny_model
from trimtab.errors import RunError, UsageError
from trimtab.experiments.refusal.candidates import evaluate, mean_differences, select
from trimtab.experiments.refusal.config import RefusalConfig
from trimtab.experiments.refusal.experiment import run
from trimtab.models.transformer_lens import lens_model
from trimtab.scoring.refusal import measured_refusal_tokens, next_token_probabilities

pytest.importorskip("transformer_lens", reason="make test-tl has it")

LENS = "transformer_lens"
# The rest: GPT-2's and GPT-NeoX's bridges stumble over the sizes the tiny models share.
ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3_moe", "gemma2", "gemma3", "phi3", "opt",
                 "olmo2", "falcon")  # fmt: skip


@pytest.fixture(scope="module")
def village():
    return tt.load("village", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def asked():
    return {
        name: list(tt.prompts(f"village/{name}", split="dev"))[:12]
        for name in ("mischief", "harmless")
    }


def hooks(model):
    return [h for m in model.modules() for h in (*m._forward_hooks, *m._forward_pre_hooks)]


def direction(lm, seed=0):
    return torch.randn(lm.d_model, generator=torch.Generator().manual_seed(seed)).double()


def test_the_bridge_has_the_named_hook_points_and_the_models_states(village):
    bridge = tt.to_transformer_lens(village)
    ids = torch.tensor([[5, 6, 7, 8]])
    _, cache = bridge.run_with_cache(ids)
    states = tt.capture(village, ["word " * 3], at="all", reduce=None)
    assert states.values.shape[2] == village.n_layers + 1
    with torch.no_grad():
        expected = village.model(input_ids=ids, output_hidden_states=True).hidden_states
    for layer in range(village.n_layers):
        torch.testing.assert_close(
            cache[f"blocks.{layer}.hook_resid_pre"], expected[layer], rtol=1e-4, atol=1e-4
        )
        assert cache[f"blocks.{layer}.hook_attn_out"].shape == expected[0].shape
        assert cache[f"blocks.{layer}.hook_mlp_out"].shape == expected[0].shape


def test_weights_are_shared_and_the_model_stays_as_it_was(village):
    ids = torch.tensor([[5, 6, 7, 8]])
    before = village.model(input_ids=ids).logits
    bridge = tt.to_transformer_lens(village)
    bridge.add_hook("blocks.2.hook_resid_pre", lambda x, hook: x * 0)
    assert torch.equal(village.model(input_ids=ids).logits, before)
    own = {p.data_ptr() for p in village.model.parameters()}
    assert {p.data_ptr() for p in bridge.original_model.parameters()} == own
    assert tt.to_transformer_lens(village) is not bridge
    assert lens_model(village).fingerprint == village.fingerprint


def test_directions_and_the_selection_are_the_references(village, asked):
    bad, good = asked["mischief"], asked["harmless"]
    found = []
    for lm in (village, lens_model(village)):
        tokens = measured_refusal_tokens(
            next_token_probabilities(lm, bad), next_token_probabilities(lm, good)
        )
        directions = mean_differences(lm, bad, good)
        found.append((tokens, directions, evaluate(lm, directions, bad, good, tokens)))
    (tokens, ours, one), (others, theirs, two) = found
    assert tokens == others
    norms = ours.norm(dim=-1)
    cosine = (ours * theirs).sum(-1) / (norms * theirs.norm(dim=-1)).clamp(min=1e-12)
    assert float(cosine[norms > 0].min()) >= 0.9999
    chosen, other = select(one), select(two)
    assert (chosen.position, chosen.layer) == (other.position, other.layer)
    assert chosen.refusal == pytest.approx(other.refusal, abs=1e-3)
    assert [c.dropped for c in one] == [c.dropped for c in two]


def test_completions_under_every_intervention_are_the_references(village, asked):
    prompts = [*asked["mischief"][:3], *asked["harmless"][:3]]
    r = direction(village)
    cells = [None, tt.Ablate(r, 4), tt.Add(r.float(), 3, 0.5, positions="response"),
             tt.Add(r.float(), village.n_layers, 0.5), tt.Clamp(r.float(), 5, 1.0)]  # fmt: skip
    reference = tt.generate(village, prompts, steering=cells, max_new_tokens=24)
    made = tt.generate(village, prompts, steering=cells, max_new_tokens=24, backend=LENS)
    assert [c.tokens for c in made] == [c.tokens for c in reference]
    assert len({c.tokens for c in made}) > len(prompts)  # the cells differ
    drawn = {"temperature": 0.8, "samples": 2, "seed": 3, "max_new_tokens": 12}
    assert [c.tokens for c in tt.generate(village, prompts, backend=LENS, **drawn)] == [
        c.tokens for c in tt.generate(village, prompts, **drawn)
    ]


def test_hooks_are_removed_also_after_an_error(village, asked):
    lens = lens_model(village)
    prompts = asked["mischief"][:2]
    clean = tt.generate(village, prompts, max_new_tokens=8, backend=LENS)
    before = hooks(lens.model)
    broken = tt.Add(torch.full((village.d_model,), torch.inf), 2, 1.0)
    with pytest.raises((RunError, UsageError)):
        tt.generate(village, prompts, steering=broken, max_new_tokens=8, backend=LENS)

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tt.generate(village, prompts, steering=tt.Ablate(direction(village), 4),
                    max_new_tokens=8, backend=LENS, on_batch=stop)  # fmt: skip
    with pytest.raises(ZeroDivisionError), tt.steer(lens, tt.Ablate(direction(village), 4)):
        _ = 1 / 0
    assert hooks(lens.model) == before
    again = tt.generate(village, prompts, max_new_tokens=8, backend=LENS)
    assert [c.tokens for c in again] == [c.tokens for c in clean]


def test_a_context_on_the_plain_model_is_not_ignored(village):
    with (
        pytest.raises(UsageError, match="hook points"),
        tt.steer(village, tt.Ablate(direction(village), 4)),
    ):
        tt.generate(village, ["a"], backend=LENS)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_ablation_leaves_no_component_in_any_architecture(architecture):
    lm = tiny_model(architecture)
    lens, r = lens_model(lm), direction(lm, 1)
    texts = ["The baker asked the miller.", "Good morning, said the dragon."]
    with tt.steer(lens, tt.Ablate(r, 1)):
        states = tt.capture(lens, texts, at=tt.Last(3))
    left = (states.values.double() @ (r / r.norm())).abs() / states.values.double().norm(dim=-1)
    assert float(left.max()) <= 1e-5
    with tt.steer(lm, tt.Ablate(r, 1)):
        expected = tt.capture(lm, texts, at=tt.Last(3))
    torch.testing.assert_close(states.values, expected.values, rtol=1e-3, atol=1e-3)


def test_a_whole_run_chooses_and_says_the_same(tmp_path):
    small = {"n_train": 16, "n_val": 8, "n_test": 3, "max_new_tokens": 8, "loss_texts": 2,
             "partial_points": 2, "kl_threshold": 1.0, "induce_threshold": None}  # fmt: skip
    ours, theirs = (
        run(RefusalConfig.read(small | {"backend": name}), tmp_path)
        for name in ("transformers", LENS)
    )
    assert ours != theirs
    for name in ("direction_metadata.json", "completions/mischief_ablation_completions.json"):
        assert (ours / name).read_text() == (theirs / name).read_text()
    a, b = (torch.load(p / "direction.pt", weights_only=True) for p in (ours, theirs))
    assert float(a @ b / (a.norm() * b.norm())) >= 0.9999


def test_the_manuals_lines_run():
    page = (Path(__file__).parents[2] / "docs/refusal.md").read_text("utf-8")
    (block,) = re.findall(r"^```py\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    names = {}
    exec(compile(block, "refusal.md", "exec"), names)
    ids = names["bridge"].to_tokens("Good day.")
    states = names["lm"].model(input_ids=ids, output_hidden_states=True).hidden_states
    assert torch.allclose(names["cache"]["blocks.5.hook_resid_pre"], states[5], atol=1e-4)
