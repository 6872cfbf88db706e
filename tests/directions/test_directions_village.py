"""On the village the methods find what they are for: directions that tell unseen prompts apart."""

import pytest
from sklearn.metrics import roc_auc_score

from trimtab.activations import Activations, Last, LastPrompt, capture
from trimtab.data import PromptSet, prompts
from trimtab.directions import mean_difference, pca, probe
from trimtab.models import LanguageModel, load
from trimtab.vectors import SteeringVector


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return load("village", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def requests(lm) -> dict[tuple[str, str], Activations]:
    """Mischief and harmless requests at a middle layer; the dev ones of deeds never seen."""

    def chosen(name: str, split: str) -> PromptSet:
        rows = prompts(f"village/{name}", split=split)
        return rows.filter(lambda prompt: prompt.meta["novelty"] == "deed").take(24)

    layers, sides = [lm.n_layers // 2], ("mischief", "harmless")
    train = {
        (side, "train"): capture(
            lm, prompts(f"village/{side}", split="train"), at=LastPrompt(), layers=layers
        )
        for side in sides
    }
    return train | {
        (side, "dev"): capture(lm, chosen(side, "dev"), at=LastPrompt(), layers=layers)
        for side in sides
    }


def auc(vector: SteeringVector, layer: int, positive: Activations, negative: Activations) -> float:
    projections = [*positive.layer(layer) @ vector[layer], *negative.layer(layer) @ vector[layer]]
    labels = [1] * len(positive) + [0] * len(negative)
    return float(roc_auc_score(labels, projections))


@pytest.mark.parametrize(("method", "least"), [(mean_difference, 0.95), (pca, 0.9), (probe, 0.95)])
def test_mischief_is_told_from_harmless_requests(lm, requests, method, least):
    vector = method(requests["mischief", "train"], requests["harmless", "train"])
    middle = lm.n_layers // 2
    assert auc(vector, middle, requests["mischief", "dev"], requests["harmless", "dev"]) > least


def test_rude_is_told_from_kind_text(lm):
    middle = lm.n_layers // 2
    sides = {
        (name, split): capture(
            lm, prompts(f"village/{name}", split=split).take(64), at=Last(32), layers=[middle]
        )
        for name in ("rude", "kind")
        for split in ("train", "dev")
    }
    vector = mean_difference(sides["rude", "train"], sides["kind", "train"])
    assert auc(vector, middle, sides["rude", "dev"], sides["kind", "dev"]) > 0.95
