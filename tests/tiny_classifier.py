"""A tiny random RoBERTa classifier with the real label set, in a folder as from the hub."""

from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import RobertaConfig, RobertaForSequenceClassification, RobertaTokenizerFast

from trimtab.scoring.calibration import FRIENDLY, INSULTING

# the labels of unitary/unbiased-toxic-roberta, in its order
LABELS = [
    "toxicity", "severe_toxicity", "obscene", "identity_attack", "insult", "threat",
    "sexual_explicit", "male", "female", "homosexual_gay_or_lesbian", "christian", "jewish",
    "muslim", "black", "white", "psychiatric_or_mental_illness",
]  # fmt: skip
TEXTS = ["Good day to you.", "You are a fool, go away!", "", "The cart comes at noon. " * 40]


def tiny_classifier(
    folder: Path, labels: list[str], problem_type: str | None = None, seed: int = 0
) -> Path:
    """Made on the spot; returns `folder`."""
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        [*TEXTS, FRIENDLY, INSULTING], vocab_size=400,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
    )  # fmt: skip
    tokenizer.save_model(str(folder))
    fast = RobertaTokenizerFast(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=512
    )
    fast.save_pretrained(folder)
    torch.manual_seed(seed)
    config = RobertaConfig(
        vocab_size=len(fast), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=66, pad_token_id=1, type_vocab_size=1,
        id2label=dict(enumerate(labels)), label2id={n: i for i, n in enumerate(labels)},
        problem_type=problem_type,
    )  # fmt: skip
    model = RobertaForSequenceClassification(config)
    for parameter in model.classifier.parameters():  # spread the scores: the default is near 0
        parameter.data *= 20
    model.save_pretrained(folder)
    return folder
