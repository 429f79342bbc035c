"""Language models with random weights against transformers: logits, greedy texts, files both ways.

Weights are drawn large enough that attention is far from uniform and every bias matters.
"""

import json

import numpy as np
import pytest
import torch
from language_models import CONFIGS, assert_same_logits, logits, random_model
from support import ProbeError
from transformers import AutoModelForCausalLM


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request, tmp_path_factory):
    """A model in transformers and the directory that it was saved to."""
    model = random_model(request.param)
    directory = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(directory)
    return model, directory


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
        expected = logits(model, text)
        assert_same_logits(ours["logits"][start : start + len(text)], expected)
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
        expected = logits(model, text)
        assert_same_logits(np.array(ours)[rows], expected)


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
        expected = logits(rounded.float(), tokens)
        ours = probe("logits", model=str(tmp_path), tokens=tokens, segments=[[8, None]])["logits"]
        assert_same_logits(ours, expected)


def test_a_configuration_of_another_model_is_refused(probe, pair):
    _, directory = pair
    config = json.loads((directory / "config.json").read_text())
    (directory / "other").mkdir()
    (directory / "other" / "model.safetensors").symlink_to(directory / "model.safetensors")
    config["vocab_size"] += 1
    (directory / "other" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ProbeError, match="97.*98|98.*97"):
        probe("logits", model=str(directory / "other"), tokens=[1, 2], segments=[[2, None]])
