"""Language models with random weights against transformers: logits, greedy texts, files both ways.

Weights are drawn large enough that attention is far from uniform and every bias matters.
"""

import json

import numpy as np
import pytest
import torch
from support import ProbeError
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

LOGITS = 2e-4
SIZES = {
    "vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 256,
}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "llama_biases": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "llama_head_size": LlamaConfig(**SIZES, head_dim=16),
    "llama3": LlamaConfig(**SIZES, rope_parameters=LLAMA3),
    "llama_linear": LlamaConfig(**SIZES, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}),
    "llama_yarn": LlamaConfig(**SIZES, rope_parameters=YARN),
    "mistral": MistralConfig(**SIZES, sliding_window=7),
    "qwen2": Qwen2Config(**SIZES),
    "qwen2_windows": Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=5, max_window_layers=1),
    "qwen3": Qwen3Config(**SIZES, head_dim=16, tie_word_embeddings=True),
    "gemma": GemmaConfig(**SIZES, head_dim=16),
    "gpt2": GPT2Config(vocab_size=97, n_embd=32, n_layer=3, n_head=4, n_positions=128),
}


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request, tmp_path_factory):
    """A model in transformers and the directory that it was saved to."""
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(CONFIGS[request.param], attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            else:
                parameter.copy_(torch.randn_like(parameter) * (1.0 if "embed" in name or "wte" in name else 0.25))
    directory = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(directory)
    return model, directory


def theirs(model, tokens):
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].double().numpy()


def test_logits(probe, pair):
    model, directory = pair
    rng = np.random.default_rng(5)
    # Several lengths packed into one batch without seeing each other.
    texts = [rng.integers(0, 97, length).tolist() for length in (40, 1, 100, 7)]
    ours = probe(
        "logits", model=str(directory), tokens=sum(texts, []), segments=[[len(text), None] for text in texts]
    )
    assert ours["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    start = 0
    for text in texts:
        expected = theirs(model, text)
        found = np.array(ours["logits"][start : start + len(text)])
        assert np.abs(found - expected).max() < LOGITS * max(1.0, np.abs(expected).max())
        log_probs = torch.log_softmax(torch.tensor(expected), -1).numpy()
        for index, token in enumerate(text[1:]):
            assert abs(ours["log_probs"][start + index] - log_probs[index, token]) < 1e-3
        start += len(text)


def test_a_prompt_is_read_once_for_all_its_responses(probe, pair):
    model, directory = pair
    rng = np.random.default_rng(6)
    prompt, first, second = (rng.integers(0, 97, length).tolist() for length in (20, 9, 13))
    further = rng.integers(0, 97, 4).tolist()
    ours = probe(
        "logits",
        model=str(directory),
        tokens=prompt + first + second + further,
        segments=[[20, None], [9, 0], [13, 0], [4, 2]],
    )["logits"]
    for text, rows in [(prompt + first, [*range(29)]), (prompt + second + further, [*range(20), *range(29, 46)])]:
        expected = theirs(model, text)
        assert np.abs(np.array(ours)[rows] - expected).max() < LOGITS * max(1.0, np.abs(expected).max())


def test_greedy_texts(probe, pair):
    model, directory = pair
    rng = np.random.default_rng(7)
    prompts = [rng.integers(0, 97, length).tolist() for length in (5, 30, 1, 12)]
    model.generation_config.eos_token_id = None
    for batch_size in (1, 3):
        ours = probe("greedy", model=str(directory), prompts=prompts, new_tokens=40, batch_size=batch_size)
        for prompt, text in zip(prompts, ours):
            given = torch.tensor([prompt])
            # Without a mask, tokens that equal the padding would count as padding.
            mask = torch.ones_like(given)
            whole = model.generate(given, attention_mask=mask, do_sample=False, max_new_tokens=40, pad_token_id=0)
            assert whole[0, len(prompt) :].tolist() == text


@pytest.mark.parametrize("bf16", [False, True], ids=["f32", "bf16"])
@pytest.mark.parametrize("shard_bytes", [10**9, 20_000], ids=["one_file", "shards"])
def test_what_we_write_opens_there(probe, pair, tmp_path, bf16, shard_bytes):
    model, directory = pair
    probe("rewrite", model=str(directory), to=str(tmp_path), shard_bytes=shard_bytes, bf16=bf16)
    assert ((tmp_path / "model.safetensors.index.json").exists()) == (shard_bytes == 20_000)
    (tmp_path / "config.json").write_text((directory / "config.json").read_text())
    again, report = AutoModelForCausalLM.from_pretrained(
        tmp_path, attn_implementation="eager", dtype=torch.float32, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    for (name, before), after in zip(model.named_parameters(), again.parameters()):
        expected = before.bfloat16().float() if bf16 else before
        assert torch.equal(after, expected), name


def test_half_precision_files_are_read(probe, pair, tmp_path):
    model, directory = pair
    tokens = [3, 1, 4, 1, 5, 9, 2, 6]
    for dtype in (torch.bfloat16, torch.float16):
        rounded = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)
        rounded.save_pretrained(tmp_path)
        expected = theirs(rounded.float(), tokens)
        ours = probe("logits", model=str(tmp_path), tokens=tokens, segments=[[8, None]])["logits"]
        assert np.abs(np.array(ours) - expected).max() < LOGITS * max(1.0, np.abs(expected).max())


def test_a_configuration_of_another_model_is_refused(probe, pair):
    _, directory = pair
    config = json.loads((directory / "config.json").read_text())
    (directory / "other").mkdir()
    (directory / "other" / "model.safetensors").symlink_to(directory / "model.safetensors")
    config["vocab_size"] += 1
    (directory / "other" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ProbeError, match="97.*98|98.*97"):
        probe("logits", model=str(directory / "other"), tokens=[1, 2], segments=[[2, None]])
