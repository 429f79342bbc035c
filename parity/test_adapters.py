"""Adapters from and to PEFT, and model directories to transformers: logits of what the other side wrote.

Models are random and tiny, with a tokenizer; one is real. A random adapter changes the logits by as much as they are.
"""

import json
import warnings

import numpy as np
import pytest
import torch
from language_models import (
    LOGITS,
    assert_same_logits,
    find_smollm2,
    logits,
    tiny_tokenizer,
    write_rows,
    write_tiny_model,
)
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from scipy.stats import kstest
from support import ProbeError, posterior
from texts import questions, varied_texts
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

FAMILIES = ["llama", "qwen3", "gpt2"]
# The layers of a block as each family calls them: attention's, the way into the perceptron, the way out of it.
LAYERS = {
    "llama": (["q_proj", "v_proj"], "up_proj", "down_proj"),
    "qwen3": (["q_proj", "v_proj"], "up_proj", "down_proj"),
    "gpt2": (["c_attn"], "c_fc", "mlp.c_proj"),
}
EMBEDDING = {"llama": "embed_tokens", "qwen3": "embed_tokens", "gpt2": "wte"}
FINAL_NORM = {"llama": "model.norm", "qwen3": "model.norm", "gpt2": "ln_f"}
TOKENS = np.random.default_rng(5).integers(0, 256, 50).tolist()


def options(family, kind):
    """PEFT's options. Llama's embedding is not tied to its head, Qwen3's and GPT-2's are."""
    attention, expand, contract = LAYERS[family]
    embedding = EMBEDDING[family]
    part = "attn" if family == "gpt2" else "self_attn"
    return {
        "all_linear": {"target_modules": "all-linear"},
        "patterns": {
            "target_modules": [*attention, expand, contract],
            "use_rslora": True,
            "rank_pattern": {expand: 2, f"2.{part}.{attention[-1]}": 7},
            "alpha_pattern": {contract: 3, f"1.{part}.{attention[0]}": 20},
        },
        "expression": {"target_modules": rf".*\.[02]\.(\w+)\.({attention[0]}|{expand})"},
        "one_layer": {
            "target_modules": [attention[0], expand, contract], "layers_to_transform": [1], "exclude_modules": [expand],
        },
        "head": {"target_modules": attention, "modules_to_save": ["lm_head"]},
        # The head keeps the base's weight, whether it was tied or not.
        "embedding": {"target_modules": attention, "modules_to_save": [embedding]},
        "head_and_embedding": {"target_modules": attention, "modules_to_save": ["lm_head", embedding]},
        # One weight, in the file twice.
        "tied": {"target_modules": attention, "modules_to_save": [embedding, "lm_head"], "ensure_weight_tying": True},
        # PEFT matches these by the end of a name, without a dot: every norm of Llama and Qwen3.
        "norms": {"target_modules": attention, "modules_to_save": ["norm" if family != "gpt2" else "ln_f"]},
        "one_norm": {"target_modules": attention, "modules_to_save": [FINAL_NORM[family]]},
    }[kind]


KINDS = [
    "all_linear", "patterns", "expression", "one_layer", "head", "embedding", "head_and_embedding", "tied", "norms", "one_norm",
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Directories of tiny models by family, made when asked for. Attention is far from uniform."""
    made = {}

    def of(family):
        if family not in made:
            directory = tmp_path_factory.mktemp(family)
            made[family] = write_tiny_model(family, directory, size=0.25, embedding=1.0, bias=0.3)
        return made[family]

    return of


def open_model(directory, **more):
    """transformers' model, and nothing that it did not find or did not want."""
    model, report = AutoModelForCausalLM.from_pretrained(
        directory, attn_implementation="eager", output_loading_info=True, **more
    )
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"], report
    return model.eval()


def ours(probe, model, **more):
    request = {"tokens": TOKENS, "segments": [[len(TOKENS), None]]}
    return probe("logits", model=str(model), **request, **{key: str(value) for key, value in more.items()})["logits"]


def merged(directory, *arguments):
    """What `convert` makes of a model and its adapter, opened by transformers."""
    posterior("convert", *arguments, "--out", directory)
    return open_model(directory)


# In Llama there is nothing to tie.
@pytest.mark.parametrize(
    "family,kind", [(family, kind) for family in FAMILIES for kind in KINDS if (family, kind) != ("llama", "tied")]
)
def test_of_peft(probe, tiny, tmp_path, family, kind):
    directory, adapter = tiny(family), tmp_path / "adapter"
    torch.manual_seed(7)
    model = get_peft_model(
        open_model(directory), LoraConfig(r=4, lora_alpha=6, task_type="CAUSAL_LM", **options(family, kind))
    )
    before = logits(model, TOKENS)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * (0.2 if "lora_" in name else 0.5))
    expected = logits(model.eval(), TOKENS)
    assert np.abs(expected - before).max() > 0.1 * np.abs(before).max()
    model.save_pretrained(adapter)
    assert_same_logits(ours(probe, directory, adapter=adapter), expected)
    for name, arguments in [
        ("alone", ["--model", adapter]),
        ("beside", ["--model", directory, "--adapter", adapter]),
    ]:
        assert_same_logits(logits(merged(tmp_path / name, *arguments), TOKENS), expected)


def test_the_base_is_found_by_the_adapter(probe, tiny, tmp_path):
    """Not only through `base_model_name_or_path`: an adapter that was trained elsewhere names a base that is not here."""
    directory, adapter = tiny("llama"), tmp_path / "adapter"
    model = get_peft_model(open_model(directory), LoraConfig(target_modules="all-linear", init_lora_weights=False))
    expected = logits(model.eval(), TOKENS)
    model.save_pretrained(adapter)
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "elsewhere/model"}))
    assert_same_logits(ours(probe, directory, adapter=adapter), expected)


def test_a_pattern_that_is_a_regular_expression_is_refused(probe, tiny, tmp_path):
    directory, adapter = tiny("llama"), tmp_path / "adapter"
    patterns = {"rank_pattern": {r"[02]\..*\.q_proj": 2}}
    get_peft_model(open_model(directory), LoraConfig(target_modules=["q_proj"], **patterns)).save_pretrained(adapter)
    with pytest.raises(ProbeError, match="q_proj.*regular expression"):
        ours(probe, directory, adapter=adapter)


def tune(model, run, *arguments, learning_rate=2e-2):
    """A few steps of `posterior sft`; the directory of what came out."""
    data = write_rows(run.with_suffix(".jsonl"), questions()[:8])
    posterior(
        *["sft", "--model", model, "--data", data, "--out", run, "--batch-size", 4, "--max-steps", 4],
        *["--max-length", 96, "--learning-rate", learning_rate, *arguments],
    )
    return run / "model"


def open_adapter(directory, adapter):
    """PEFT's model of an adapter, every key of which it knows and finds."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(open_model(directory), adapter)
    said = [str(warning.message) for warning in caught]
    # Of GPT-2's layout, and of tied weights, which is checked by the logits; the others would be about keys.
    known = ("`is_gradient_checkpointing`", "Model has `tie_word_embeddings=True`", "You have requested `ensure_weight_tying`")
    assert not [text for text in said if not text.startswith(known)]
    found = {name.replace(".default", "") for name, _ in model.named_parameters(remove_duplicate=False) if "lora_" in name}
    assert found == {name for name in load_file(adapter / "adapter_model.safetensors") if "lora_" in name}
    return model.eval()


# Options of `posterior sft`, and how many layers of a block are adapted.
TUNED = {
    "all_linear": (lambda _: ["--lora-rank", 4], {"llama": 7, "qwen3": 7, "gpt2": 4}),
    "rslora": (
        lambda family: [
            *["--lora-rank", 3, "--lora-alpha", 5, "--lora-rslora", "true", "--lora-dropout", 0.1],
            *["--lora-target-modules", ",".join(LAYERS[family][0])],
        ],
        {"llama": 2, "qwen3": 2, "gpt2": 1},
    ),
    "whole_layers": (
        # A tied head is trained with the embedding.
        lambda family: [
            *["--lora-rank", 2, "--lora-modules-to-save"],
            ",".join([EMBEDDING[family], FINAL_NORM[family]] + ["lm_head"] * (family == "llama")),
        ],
        {"llama": 7, "qwen3": 7, "gpt2": 4},
    ),
    "embedding": (
        lambda family: ["--lora-rank", 2, "--lora-modules-to-save", EMBEDDING[family]], {"llama": 7, "qwen3": 7, "gpt2": 4},
    ),
}


@pytest.mark.parametrize("kind", TUNED)
@pytest.mark.parametrize("family", FAMILIES)
def test_of_ours(probe, tiny, tmp_path, family, kind):
    directory = tiny(family)
    arguments, layers = TUNED[kind]
    adapter = tune(directory, tmp_path / "run", *arguments(family))
    written = load_file(adapter / "adapter_model.safetensors")
    assert sum("lora_B" in name for name in written) == 3 * layers[family]
    assert all(tensor.abs().max() > 0 for tensor in written.values())
    expected = ours(probe, directory, adapter=adapter)
    before = np.array(ours(probe, directory))
    assert np.abs(np.array(expected) - before).max() > 0.05 * np.abs(before).max()
    assert_same_logits(logits(open_adapter(directory, adapter), TOKENS), expected)
    # Through the base that the adapter names.
    again = AutoPeftModelForCausalLM.from_pretrained(adapter, attn_implementation="eager").eval()
    assert_same_logits(logits(again, TOKENS), expected)
    assert_same_logits(logits(merged(tmp_path / "merged", "--model", adapter), TOKENS), expected)
    # PEFT's own merging agrees, and an adapter of ours goes on in PEFT as one of its own.
    assert_same_logits(logits(again.merge_and_unload(), TOKENS), expected)
    check_tokenizer(adapter)
    config = LoraConfig.from_pretrained(adapter)
    assert (config.task_type, config.bias, config.fan_in_fan_out) == ("CAUSAL_LM", "none", family == "gpt2")
    assert (config.lora_dropout, config.use_rslora) == ((0.1, True) if kind == "rslora" else (0.0, False))


def test_a_fresh_adapter(tiny, tmp_path):
    """It is drawn as PEFT draws it: A evenly within one over the root of its inputs, B of zeros."""
    directory = tiny("llama")
    adapter = tune(directory, tmp_path / "run", "--lora-rank", 32, learning_rate=0.0)
    written = load_file(adapter / "adapter_model.safetensors")
    theirs = get_peft_model(open_model(directory), LoraConfig(r=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    theirs.save_pretrained(tmp_path / "theirs")
    expected = load_file(tmp_path / "theirs" / "adapter_model.safetensors")
    assert set(written) == set(expected)
    for tensors in (written, expected):
        drawn = [
            tensor.flatten() * tensor.shape[1] ** 0.5 for name, tensor in tensors.items() if name.endswith("lora_A.weight")
        ]
        assert kstest(torch.cat(drawn).numpy(), "uniform", args=(-1, 2)).pvalue > 1e-3
        assert max(part.abs().max() for part in drawn) <= 1 + 1e-6
        # Each layer has its own numbers.
        assert len({part[0].item() for part in drawn}) == len(drawn)
        assert all(not tensor.any() for name, tensor in tensors.items() if name.endswith("lora_B.weight"))


def check_tokenizer(directory):
    wanted, found = tiny_tokenizer(), PreTrainedTokenizerFast.from_pretrained(directory)
    texts = varied_texts(200)
    assert found(texts)["input_ids"] == wanted(texts)["input_ids"]
    assert found.special_tokens_map == wanted.special_tokens_map
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    for prompt in (False, True):
        texts = [side.apply_chat_template(chat, tokenize=False, add_generation_prompt=prompt) for side in (found, wanted)]
        assert texts[0] == texts[1]


def check_directory(directory, base):
    """Everything beside the weights."""
    check_tokenizer(directory)
    # As people open it.
    assert AutoTokenizer.from_pretrained(directory)("Hi")["input_ids"]
    generation = GenerationConfig.from_pretrained(directory)
    assert generation.eos_token_id == tiny_tokenizer().eos_token_id
    found, wanted = (AutoConfig.from_pretrained(place).to_dict() for place in (directory, base))
    for key in ("dtype", "_name_or_path"):
        found.pop(key), wanted.pop(key)
    assert found == wanted


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_that_was_tuned_whole(probe, tiny, tmp_path, family, dtype):
    directory = tiny(family)
    tuned = tune(directory, tmp_path / "run", "--save-dtype", dtype)
    model = open_model(tuned)
    assert model.dtype == {"f32": torch.float32, "bf16": torch.bfloat16}[dtype]
    expected = np.array(ours(probe, tuned))
    assert np.abs(expected - ours(probe, directory)).max() > 0.05 * np.abs(expected).max()
    # In single precision on both sides.
    assert_same_logits(logits(model.float(), TOKENS), expected)
    check_directory(tuned, directory)


@pytest.mark.parametrize("shard_size", [10**9, 40_000], ids=["one_file", "shards"])
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_conversion(tiny, tmp_path, family, dtype, shard_size):
    directory = tiny(family)
    posterior("convert", "--model", directory, "--out", tmp_path, "--dtype", dtype, "--shard-size", shard_size)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard_size == 40_000)
    torch_dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[dtype]
    for path in tmp_path.glob("*.safetensors"):
        assert {tensor.dtype for tensor in load_file(path).values()} == {torch_dtype}
    before, after = open_model(directory), open_model(tmp_path)
    for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True):
        assert torch.equal(new, old.to(torch_dtype)), name
    check_directory(tmp_path, directory)


def test_a_half_precision_directory_to_single(probe, tiny, tmp_path):
    """Where configuration and weights of the source say bfloat16."""
    half = tmp_path / "half"
    posterior("convert", "--model", tiny("llama"), "--out", half, "--dtype", "bf16")
    posterior("convert", "--model", half, "--out", tmp_path / "single", "--dtype", "f32")
    model = open_model(tmp_path / "single")
    assert model.dtype == torch.float32
    assert_same_logits(logits(model, TOKENS), ours(probe, half))


def test_a_gguf_file(probe, tmp_path):
    file = find_smollm2()
    posterior("convert", "--model", file, "--out", tmp_path, "--dtype", "f32")
    model = open_model(tmp_path)
    assert model.dtype == torch.float32
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    texts = varied_texts()
    there = probe("tokenize", model=str(file), texts=texts)
    assert there["with_special"] == [tokenizer(text)["input_ids"] for text in texts]
    assert there["chat_template"] == tokenizer.chat_template
    tokens = tokenizer.apply_chat_template([{"role": "user", "content": "Count to 3."}], add_generation_prompt=True)["input_ids"]
    found = probe("logits", model=str(file), tokens=tokens, segments=[[len(tokens), None]])["logits"]
    assert np.abs(np.array(found) - logits(model, tokens)).max() < LOGITS
    ends = GenerationConfig.from_pretrained(tmp_path).eos_token_id
    assert tokenizer.eos_token_id in (ends if isinstance(ends, list) else [ends])
