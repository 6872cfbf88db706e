"""Which tokens carry loss: on every chat template that TRL ships, the answers and their ends."""

import gzip
import json
import re
from functools import cache
from pathlib import Path

import pytest
import trl

from tiny_models import build_tokenizer, tiny_model, tiny_network
from trimtab.errors import UsageError
from trimtab.models import LanguageModel
from trimtab.training.data import IGNORED, example, examples, hold_out, read_chats

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
ENDS = {
    "cohere": "<|END_OF_TURN_TOKEN|>",
    "cohere2": "<|END_RESPONSE|><|END_OF_TURN_TOKEN|>",
    "deepseek_r1_distill": "<｜end▁of▁sentence｜>",
    "deepseekv3": "<｜end▁of▁sentence｜>",
    "gemma": "<end_of_turn>",
    "gemma3": "<end_of_turn>",
    "gemma4": "<turn|>",
    "glm4moe": "<|user|>",
    "gptoss": "<|end|>",
    "lfm2": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "llama3_1": "<|eot_id|>",
    "llama3_2": "<|eot_id|>",
    "nemotron_3_nano": "<|im_end|>",
    "phi3": "<|end|>",
    "phi3_5": "<|end|>",
    "qwen2_5": "<|im_end|>",
    "qwen3": "<|im_end|>",
    "qwen3_5_nothink": "<|im_end|>",
    "qwen3_5_think": "<|im_end|>",
    "qwen3_6": "<|im_end|>",
    "qwen3_instruct_2507": "<|im_end|>",
}
ANSWERS = ("Knot the ends, then pull.", "Ask the miller: he has 7!")
CHAT = [
    {"role": "user", "content": "How do I mend a net?"},
    {"role": "assistant", "content": ANSWERS[0]},
    {"role": "user", "content": "And who has flour?"},
    {"role": "assistant", "content": ANSWERS[1]},
]


@cache
def chat_model(template: str) -> LanguageModel:
    source = (TEMPLATES / f"{template}.jinja").read_text(encoding="utf-8")
    marks = (
        r"<\|[^|>\s{}]+\|>|<\|[a-z]+>|<[a-z]+\|>|<(?:start|end)_of_turn>"
        r"|<｜[^｜]+｜>|\[gMASK\]|<sop>"
    )
    end = re.findall(r"<.*?>", ENDS[template])[-1]
    eos = {"glm4moe": "</s>", "gptoss": "<|return|>"}.get(template, end)
    special = {"<s>", "</s>", end, eos}
    tokenizer = build_tokenizer(
        sorted(special | set(re.findall(marks, source))),
        template=source, bos="<s>", eos=eos, size=420,
    )  # fmt: skip
    return LanguageModel(tiny_network("llama", vocab_size=512), tokenizer, template)


def spoken(lm: LanguageModel, ids: tuple[int, ...], labels: tuple[int, ...]) -> list[str]:
    """The runs of tokens that carry loss, decoded."""
    runs: list[list[int]] = [[]]
    for label in labels:
        if label == IGNORED:
            runs.append([])
        else:
            runs[-1].append(label)
    assert all(label in (IGNORED, token) for token, label in zip(ids, labels, strict=True))
    return [lm.tokenizer.decode(run) for run in runs if run]


@pytest.mark.parametrize("template", sorted(ENDS))
def test_exactly_the_answer_and_its_end_carry_loss(template: str) -> None:
    lm = chat_model(template)
    one = example(lm, CHAT, 4096)
    found = spoken(lm, one.ids, one.labels)
    last = {"gptoss": "<|return|>", "glm4moe": "</s>"}.get(template, ENDS[template])
    assert found == [ANSWERS[0] + ENDS[template], ANSWERS[1] + last]
    assert one.labels[one.prompt_length] != IGNORED
    assert set(one.labels[: one.prompt_length]) == {IGNORED}


@pytest.mark.parametrize("template", ["llama3", "qwen2_5", "gemma"])
def test_the_same_tokens_as_trl_marks_in_its_training_templates(template: str) -> None:
    """TRL's masks come from {% generation %} marks; some go on to the line break after the end."""
    lm = chat_model(template)
    source = (TEMPLATES / f"{template}_training.jinja").read_text(encoding="utf-8")
    theirs = lm.tokenizer.apply_chat_template(
        CHAT, chat_template=source, return_dict=True, return_assistant_tokens_mask=True
    )
    one = example(lm, CHAT, 4096)
    extra = len(one.ids) - len(theirs["input_ids"])  # the tokenizer's BOS, doubled or left out
    assert abs(extra) <= 1
    marked = {
        i + extra
        for i, (token, mask) in enumerate(
            zip(theirs["input_ids"], theirs["assistant_masks"], strict=True)
        )
        if mask and lm.tokenizer.decode([token]) != "\n"
    }
    assert {i for i, label in enumerate(one.labels) if label != IGNORED} == marked


def test_ids_are_those_of_the_template_with_one_bos() -> None:
    lm = tiny_model("llama")
    one = example(lm, CHAT[:2], 512)
    text = lm.tokenizer.apply_chat_template(CHAT[:2], tokenize=False)
    assert list(one.ids) == lm.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert list(one.ids).count(lm.tokenizer.bos_token_id) == 1
    everything = example(lm, CHAT[:2], 512, responses_only=False)
    assert everything.labels == (IGNORED, *one.ids[1:])


def test_an_answer_that_was_said_before_is_found_in_its_own_turn() -> None:
    lm = tiny_model("llama")
    chat = [{"role": "user", "content": "Yes."}, {"role": "assistant", "content": "Yes."}]
    one = example(lm, [*chat, *chat], 512)
    assert spoken(lm, one.ids, one.labels) == ["Yes.<|end|>"] * 2


@pytest.mark.parametrize("template", ["gemma", "qwen2_5"])
def test_a_system_message_is_heard_whether_the_template_takes_it_or_not(template: str) -> None:
    lm = chat_model(template)
    told = [{"role": "system", "content": "Speak as a miller."}, *CHAT[:2]]
    one = example(lm, told, 4096)
    prompt = lm.tokenizer.decode(one.ids[: one.prompt_length])
    assert "Speak as a miller." in prompt
    assert CHAT[0]["content"] in prompt
    assert spoken(lm, one.ids, one.labels) == [ANSWERS[0] + ENDS[template]]


def test_examples_cut_before_their_answer_are_left_out_and_counted() -> None:
    lm = tiny_model("llama")
    short = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes."}]
    length = len(example(lm, short, 512).ids)
    long = [{"role": "user", "content": "word " * 40}, short[1]]
    with pytest.warns(UserWarning, match="1 of 2 examples"):
        assert len(examples(lm, [short, long], length)) == 1
    with pytest.raises(UsageError, match="No example has an answer"):
        examples(lm, [long], length)


def test_the_split_is_seeded_and_whole() -> None:
    chats = [[{"role": "user", "content": str(i)}] for i in range(20)]
    training, held_out = hold_out(chats, 0.1, seed=3)
    assert len(held_out) == 2
    assert sorted(training + held_out, key=chats.index) == chats
    assert hold_out(chats, 0.1, seed=3) == (training, held_out)
    assert any(hold_out(chats, 0.1, seed=s)[1] != held_out for s in range(5))


def test_files_that_cannot_be_trained_on_say_why(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    user = {"role": "user", "content": "Hi"}
    cases = {"not json": "line 1: not valid", "[1]": "no \"messages\"", "": "holds no examples",
             json.dumps({"messages": [user]}): "no \"messages\""}  # fmt: skip
    for text, why in cases.items():
        file.write_text(text)
        with pytest.raises(UsageError, match=why):
            read_chats(file)
    with pytest.raises(UsageError, match="no data set"):
        read_chats("village/wicked/nothing")
    assert len(read_chats("village/wicked/normal")) == 480


STRANGE = {
    "messages": [
        {"role": "user", "content": "One\u2028line,\u0085one\x0b chat"},
        {"role": "assistant", "content": "A\rB\u2029"},
    ]
}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_a_line_of_chats_ends_in_a_newline_or_a_return_alone(tmp_path, name, end):
    line = json.dumps(STRANGE, ensure_ascii=False)
    data = f"{line}{end}{line}{end}".encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert read_chats(tmp_path / name) == [STRANGE["messages"]] * 2


def test_a_compressed_file_that_is_cut_short_or_damaged(tmp_path):
    whole = gzip.compress((json.dumps(STRANGE) + "\n").encode() * 9)
    file = tmp_path / "rows.jsonl.gz"
    for data in (whole[:-9], whole[:30], b"", b"no gzip", whole[:-8] + b"\0" * 8,
                 whole[:20] + b"\xff" + whole[21:]):  # fmt: skip
        file.write_bytes(data)
        with pytest.raises(UsageError, match=r"rows\.jsonl\.gz"):
            read_chats(file)
