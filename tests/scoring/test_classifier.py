"""The classifier scorer through the real loading path: a tiny random RoBERTa made on the spot."""

import pytest
from transformers import pipeline

from tiny_classifier import LABELS, TEXTS, tiny_classifier
from trimtab.errors import RunError, UsageError
from trimtab.scoring import ClassifierScorer, as_completion, calibrate, scorer
from trimtab.scoring.calibration import FRIENDLY, INSULTING


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    return tiny_classifier(tmp_path_factory.mktemp("roberta"), LABELS)


def test_the_score_is_the_sigmoid_of_the_label_called_toxicity(real):
    judge = ClassifierScorer(str(real))
    found = judge.score([as_completion(text) for text in TEXTS])
    oracle = pipeline(
        "text-classification", model=str(real), top_k=None, function_to_apply="sigmoid",
        truncation=True, max_length=64, device="cpu",
    )  # fmt: skip
    expected = [
        next(e["score"] for e in entries if e["label"] == "toxicity") for entries in oracle(TEXTS)
    ]
    assert found == pytest.approx(expected, abs=1e-5)
    assert (judge.low, judge.high, judge.high_means) == (0.0, 1.0, "toxic")


def test_the_label_is_found_by_name_wherever_it_stands(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first = ClassifierScorer(str(tiny_classifier(tmp_path / "a", LABELS)))
    turned = ClassifierScorer(str(tiny_classifier(tmp_path / "b", LABELS[::-1])), label="TOXICITY")
    assert (first.index, turned.index) == (0, 15)


def test_batches_and_their_order_do_not_change_the_scores(real):
    judge = ClassifierScorer(str(real), batch_size=16)
    alone = [judge.score_texts([text])[0] for text in TEXTS * 3]
    assert judge.score_texts(TEXTS * 3) == pytest.approx(alone, abs=1e-6)


def test_a_text_longer_than_the_model_is_cut(real):
    judge = ClassifierScorer(str(real))
    assert judge.max_length == 64  # 66 positions less RoBERTa's two
    long = "fool " * 500
    assert 0 <= judge.score_texts([long])[0] <= 1


def test_no_toxicity_label_is_an_error_that_lists_the_labels(tmp_path):
    folder = str(tiny_classifier(tmp_path, ["LABEL_0", "LABEL_1"]))
    with pytest.raises(UsageError, match="LABEL_0, LABEL_1"):
        ClassifierScorer(folder)
    with pytest.raises(UsageError, match="did you mean 'LABEL_1'"):
        ClassifierScorer(folder, label="LABEL_11")
    assert ClassifierScorer(folder, label="label_1").index == 1


def test_a_head_of_two_labels_is_a_softmax(tmp_path):
    judge = ClassifierScorer(str(tiny_classifier(tmp_path, ["neutral", "toxic"])))
    oracle = pipeline("text-classification", model=str(tmp_path), top_k=None, device="cpu")
    expected = [
        next(e["score"] for e in entries if e["label"] == "toxic") for entries in oracle(TEXTS[:2])
    ]
    assert judge.score_texts(TEXTS[:2]) == pytest.approx(expected, abs=1e-5)


def test_more_labels_that_exclude_one_another_are_a_softmax(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert not ClassifierScorer(
        str(tiny_classifier(tmp_path / "a", ["neutral", "toxic", "spam"]))
    ).multi_label
    said = tiny_classifier(tmp_path / "b", LABELS, problem_type="single_label_classification")
    assert not ClassifierScorer(str(said)).multi_label


def test_calibration_refuses_an_inverted_scale(tmp_path):
    folder = tiny_classifier(tmp_path, LABELS)
    judge = ClassifierScorer(str(folder))
    friendly, insulting = judge.score_texts([FRIENDLY, INSULTING])
    assert friendly != insulting
    weights = judge.model.classifier.out_proj
    if friendly > insulting:  # the random head happens to be inverted: turn it round
        weights.weight.data *= -1
        weights.bias.data *= -1
    found = calibrate(judge)
    assert found.friendly < found.insulting
    weights.weight.data *= -1
    weights.bias.data *= -1
    with pytest.raises(RunError, match="should score higher"):
        calibrate(judge)


def test_a_scorer_that_gives_nothing_is_refused():
    class Blind:
        name, low, high, high_means = "blind", 0.0, 1.0, "toxic"

        def score(self, completions):
            return [float("nan")] * len(completions)

    with pytest.raises(RunError, match="blind"):
        calibrate(Blind())


def test_a_model_that_is_not_there_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="could not be loaded"):
        ClassifierScorer(str(tmp_path / "nowhere"))


def test_scorers_by_name(real):
    assert scorer("village").name == "rudeness"
    assert scorer("village/gloomy").high == 100
    assert isinstance(scorer(str(real)), ClassifierScorer)
    with pytest.raises(UsageError, match="no scorer 'happy'"):
        scorer("village/happy")


def test_detoxify_missing_says_what_to_install():
    try:
        import detoxify  # noqa: F401
    except ImportError:
        with pytest.raises(UsageError, match="pip install detoxify"):
            scorer("detoxify")
