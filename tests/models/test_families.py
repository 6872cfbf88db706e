"""Published chat templates, by the words that the published code puts around an instruction."""

import pytest

from tiny_models import build_tokenizer, tiny_model
from trimtab.data import Prompt
from trimtab.errors import UsageError
from trimtab.models import encode, end_of_instruction, load
from trimtab.models.families import use_published_template

# What the published code writes, {i} being the instruction.
PUBLISHED = {
    "<|im_start|>": "<|im_start|>user\n{i}<|im_end|>\n<|im_start|>assistant\n",
    "<|start_header_id|>": (
        "<|start_header_id|>user<|end_header_id|>\n\n{i}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "<start_of_turn>": "<start_of_turn>user\n{i}<end_of_turn>\n<start_of_turn>model\n",
}


@pytest.mark.parametrize("marker", PUBLISHED)
def test_a_prompt_is_what_the_published_code_writes(marker: str) -> None:
    lm = tiny_model("llama")
    lm.tokenizer = build_tokenizer(["<s>", "</s>", marker], template=None, bos="<s>", eos="</s>")
    use_published_template(lm)
    words = " How do I mend a net?\n"  # spaces stay
    text = PUBLISHED[marker].replace("{i}", words)
    expected = lm.tokenizer(text, add_special_tokens=False)["input_ids"]
    found = encode(lm, Prompt.chat(words))
    assert found == [*lm.leading_tokens, *expected]
    tail = end_of_instruction(lm)
    assert found[-len(tail) :] == tail


@pytest.mark.parametrize(
    ("marker", "end", "role"),
    [("<|im_start|>", "<|im_end|>", "assistant"), ("<start_of_turn>", "<end_of_turn>", "model"),
     ("<|start_header_id|>", "<|eot_id|>", "assistant")],
)  # fmt: skip
def test_answers_end_and_stand_in_a_chat_as_the_family_has_it(
    marker: str, end: str, role: str
) -> None:
    lm = tiny_model("llama")
    lm.tokenizer = build_tokenizer(
        ["<s>", "</s>", marker, end], template=None, bos="<s>", eos="</s>"
    )
    use_published_template(lm)
    assert lm.tokenizer.convert_tokens_to_ids(end) in lm.end_tokens
    chat = [{"role": r, "content": c} for r, c in (("user", "Who?"), ("assistant", "The cook."))]
    text = lm.tokenizer.apply_chat_template(chat, tokenize=False)
    assert text.count(end) == 2
    assert text.index("Who?") < text.index(end) < text.rindex(role) < text.index("The cook.")


def test_the_oldest_family_is_known_by_its_word(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny_model("llama")
    lm.tokenizer = build_tokenizer(["<s>", "</s>"], template=None, bos="<s>", eos="</s>")
    with pytest.raises(UsageError, match="no published chat template"):
        use_published_template(lm)
    monkeypatch.setattr(lm.tokenizer, "decode", lambda ids: "I" if ids == [306] else "?")
    use_published_template(lm)
    text = lm.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Go."}], tokenize=False, add_generation_prompt=True
    )
    assert text == "[INST] Go. [/INST] "


def test_a_model_of_no_family_keeps_its_own() -> None:
    lm = load("village", device="cpu")
    own = lm.tokenizer.chat_template
    with pytest.raises(UsageError, match="chat_template=own"):
        use_published_template(lm)
    assert lm.tokenizer.chat_template == own
