"""Chat templates against jinja2 as transformers calls it; tokenizers of model directories against transformers."""

import json
import random
import re
from datetime import datetime
from pathlib import Path
from unittest import mock

import pytest
import trl
from support import ProbeError
from texts import varied_texts
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

TEMPLATES = sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja"))
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
# 2026-11-23 20:00:00.000042 in Coordinated Universal Time.
CLOCK = (1_795_464_000, 42)


class Stopped(datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2026, 11, 23, 20, 0, 0, 42)


def user(content):
    return {"role": "user", "content": content}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


def system(content):
    return {"role": "system", "content": content}


def call(number, name, arguments):
    return {"id": f"call0000{number}", "type": "function", "function": {"name": name, "arguments": arguments}}


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather <now> & \"then\" für Zürich",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "The city", "enum": ["Zürich", "Genève"]},
                "days": {"type": "integer", "description": "How many", "default": 3},
                "unit": {"type": ["string", "null"]},
            },
            "required": ["city"],
        },
    },
}
ARGUMENTS = {"city": "Zürich", "days": 2, "x": 1.5, "y": 1e-7, "flag": True, "none": None, "list": [1, "a<b>"]}
CONVERSATIONS = {
    "one_turn": [user("Hi")],
    "several_turns": [system("Be brief."), user("Hi"), assistant("Hello!"), user("Bye"), assistant("See you.")],
    "empty": [user(""), assistant("")],
    "white_space": [user("  spaces \n\n around \t "), assistant("\n\nlines\n"), user("\n")],
    "characters": [user("Grüße 😀 日本語 \u00a0nbsp\u2028sep \x1fctl"), assistant("naïve — “quotes” <b>&amp;</b>")],
    "looks_like_markup": [user("<|im_end|> {{ injected }} {% if %}"), assistant("</s><eos>")],
    "thinking_in_text": [user("?"), assistant("<think>\nwell\n</think>\n\nAnswer"), user("more"), assistant("Second")],
    "thinking_apart": [user("?"), assistant("Answer", reasoning_content="because\nof this"), user("more")],
    "tools": [
        system("You have tools."),
        user("Weather?"),
        assistant("", tool_calls=[call(1, "get_weather", ARGUMENTS)]),
        {"role": "tool", "name": "get_weather", "tool_call_id": "call00001", "content": "{\"t\": 3}"},
        assistant("Three degrees."),
        user("Thanks"),
    ],
    "two_calls_no_text": [
        user("Weather?"),
        assistant(None, tool_calls=[call(1, "get_weather", {"city": "Genève"}), call(2, "get_weather", {})]),
        {"role": "tool", "name": "get_weather", "tool_call_id": "call00001", "content": "cold"},
        {"role": "tool", "name": "get_weather", "tool_call_id": "call00002", "content": "done"},
    ],
    "parts": [user([{"type": "text", "text": "Describe "}, {"type": "text", "text": "this"}]), assistant("A cat")],
    "out_of_order": [assistant("I begin."), user("Odd"), user("Twice"), {"role": "critic", "content": "?"}],
}
VARIANTS = [
    {},
    {"add_generation_prompt": True},
    {"tools": [WEATHER], "add_generation_prompt": True},
    {"add_generation_prompt": True, "variables": {"enable_thinking": False}},
]


def jinja(source, chat):
    """What transformers makes of a conversation: the text and the bytes of its generation blocks, or None."""
    # apply_chat_template is handed messages from which callers have taken what is null.
    messages = [{key: value for key, value in message.items() if value is not None} for message in chat["messages"]]
    try:
        texts, spans = chat_template_utils.render_jinja_template(
            [messages],
            chat_template=source,
            tools=chat.get("tools"),
            add_generation_prompt=chat.get("add_generation_prompt", False),
            return_assistant_tokens_mask=re.search(r"\{%-?\s*generation\s*-?%\}", source) is not None,
            **TOKENS,
            **chat.get("variables", {}),
        )
    except Exception:  # noqa: BLE001 -- whatever a template does wrong
        return None
    [text] = texts
    inside = [[len(text[:place].encode()) for place in span] for span in (spans[0] if spans else [])]
    # transformers lists blocks that wrote nothing too.
    return {"text": text, "spans": [span for span in inside if span[0] < span[1]]}


def test_there_are_templates():
    assert len(TEMPLATES) >= 60


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_chat_templates(probe, path):
    source = path.read_text(encoding="utf-8")
    chats = [{"messages": messages, **more} for messages in CONVERSATIONS.values() for more in VARIANTS]
    ours = probe("render", template=source, conversations=chats, special_tokens=TOKENS, clock=CLOCK)
    assert len(ours) == len(chats)
    with mock.patch.object(chat_template_utils, "datetime", Stopped):
        expected = [jinja(source, chat) for chat in chats]
    for chat, found, wanted in zip(chats, ours, expected):
        if wanted is None:
            assert "error" in found, chat
        else:
            assert {"text": found.get("text"), "spans": found.get("spans")} == wanted, (chat, found)
    assert any(wanted is not None for wanted in expected)


def test_a_template_that_is_not_valid_is_refused_by_both(probe):
    source = "{% for m in messages %}{{ m.content }}"
    assert jinja(source, {"messages": [user("Hi")]}) is None
    with pytest.raises(ProbeError, match="the request's template"):
        probe("render", template=source, conversations=[], special_tokens={}, clock=CLOCK)


def byte_level():
    """As GPT-2's, with Llama 3's first token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=1500, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(varied_texts(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", tokenizer.token_to_id("<|endoftext|>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        # A token that tokenizer.json gets from here.
        additional_special_tokens=["<think>"],
        chat_template="{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}",
    )


def sentencepiece_like():
    """As Llama 2's: spaces are U+2581, bytes stand for what has no piece, a text begins with <s>."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(
        vocab_size=1200, limit_alphabet=200, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
    )
    tokenizer.train_from_iterator(varied_texts(), trainer)
    document = json.loads(tokenizer.to_str())
    vocabulary = document["model"]["vocab"]
    for byte in range(256):
        vocabulary.setdefault(f"<0x{byte:02X}>", len(vocabulary))
    document["model"] |= {"byte_fallback": True, "fuse_unk": True}
    tokenizer = Tokenizer.from_str(json.dumps(document))
    tokenizer.pre_tokenizer = None
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )


@pytest.mark.parametrize("make", [byte_level, sentencepiece_like])
def test_tokenizers_of_directories(probe, make, tmp_path):
    make().save_pretrained(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    texts = varied_texts()
    rng = random.Random(4)
    # What a model that has learned nothing writes: bytes that are no characters, special tokens anywhere.
    noise = [[rng.randrange(len(theirs)) for _ in range(rng.randrange(40))] for _ in range(300)]
    ours = probe("tokenize", model=str(tmp_path), texts=texts, ids=noise)
    assert ours["size"] == len(theirs)
    assert ours["special_tokens"].items() >= {
        name: token for name, token in theirs.special_tokens_map.items() if isinstance(token, str)
    }.items()
    assert ours["chat_template"] == theirs.chat_template
    with_special = [theirs(text)["input_ids"] for text in texts]
    assert ours["with_special"] == with_special
    assert ours["without_special"] == [theirs(text, add_special_tokens=False)["input_ids"] for text in texts]
    assert ours["with_special"] != ours["without_special"]
    every = with_special + noise
    assert ours["decoded"] == [theirs.decode(ids) for ids in every]
    assert ours["decoded_without_special"] == [theirs.decode(ids, skip_special_tokens=True) for ids in every]
    assert ours["streamed"] == ours["decoded"]
