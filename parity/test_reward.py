"""Reward models against transformers and TRL's RewardTrainer.

TRL reads the score at the last token that is not the padding's: with a padding token that ends texts, too, that is a token
too early (transformers #35352). So here texts are padded with a token that they never have.
"""

import json

import datasets
import numpy as np
import pytest
import torch
from language_models import write_rows, write_tiny_model
from peft import AutoPeftModelForSequenceClassification
from support import posterior, posterior_lines
from test_dpo import pairs
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast, PrinterCallback
from trl import RewardConfig, RewardTrainer
from trl_sft import PLAIN

LOSS, GRADIENT = 1e-4, 1e-3
pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS = {"per_device_train_batch_size": 4, "max_steps": 20, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A directory of a tiny model with a random score for a head, by family."""
    made = {}

    def of(family):
        if family not in made:
            directory = write_tiny_model(family, tmp_path_factory.mktemp(family))
            model = AutoModelForSequenceClassification.from_pretrained(directory, num_labels=1)
            with torch.no_grad():
                model.score.weight.normal_(generator=torch.Generator().manual_seed(5)).mul_(0.1)
            to = tmp_path_factory.mktemp(f"{family}-reward")
            model.save_pretrained(to)
            tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)
            tokenizer.save_pretrained(to)
            made[family] = to
        return made[family]

    return of


def tokens(tokenizer, prompt, completion):
    """Prompt and response made tokens by themselves, and the end token."""
    second = tokenizer(completion, add_special_tokens=False)["input_ids"]
    return tokenizer(prompt)["input_ids"] + second + [tokenizer.eos_token_id]


def ours(directory, rows, place, *options):
    data, run = write_rows(place / "rows.jsonl", rows), place / "run"
    posterior(
        *["reward", "--model", directory, "--data", data, "--out", run, "--shuffle", "false", "--log-every", 1],
        *["--batch-size", 4, "--max-steps", SETTINGS["max_steps"], "--learning-rate", SETTINGS["learning_rate"]],
        *["--max-length", 128, *options],
    )
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return run / "model", [line for line in lines if "loss" in line]


def scores(model, rows, place):
    """What `posterior score` gives the rows' chosen and rejected responses."""
    lines = posterior_lines("score", "--model", model, "--data", write_rows(place / "score.jsonl", rows))
    return [[found["reward"] for found in line["responses"]] for line in lines]


def unpadded(model, tokenizer, rows):
    """The same by transformers, one text at a time, which it reads to the end."""
    model.config.pad_token_id = None
    with torch.no_grad():
        return [
            [model(torch.tensor([tokens(tokenizer, row["prompt"], row[key])])).logits.item() for key in ("chosen", "rejected")]
            for row in rows
        ]


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma", "gpt2"])
def test_scores(start, tmp_path, family):
    rows = pairs(6, longest=60)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(start(family))
    model = AutoModelForSequenceClassification.from_pretrained(start(family))
    np.testing.assert_allclose(scores(start(family), rows, tmp_path), unpadded(model, tokenizer, rows), rtol=1e-4, atol=1e-5)
    # The score is read at the end token, not before it.
    row = rows[0]
    with torch.no_grad():
        ids = tokens(tokenizer, row["prompt"], row["chosen"])
        early = model(torch.tensor([ids[:-1]])).logits.item()
    assert abs(early - scores(start(family), rows, tmp_path)[0][0]) > 1e-3


@pytest.mark.parametrize("center", [0.0, 0.05])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_training(start, tmp_path, family, center):
    directory, rows = start(family), pairs(80, longest=60)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)
    ready = [
        {f"{key}_ids": tokens(tokenizer, row["prompt"], row[key]) for key in ("chosen", "rejected")} for row in rows
    ]
    assert all(tokenizer.pad_token_id not in ids for row in ready for ids in row.values())
    datasets.disable_progress_bars()
    trainer = RewardTrainer(
        AutoModelForSequenceClassification.from_pretrained(directory),
        RewardConfig(str(tmp_path / "trl"), center_rewards_coefficient=center or None, max_length=None, **PLAIN, **SETTINGS),
        train_dataset=datasets.Dataset.from_list(ready),
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    theirs = [line for line in trainer.state.log_history if "loss" in line]
    model, steps = ours(directory, rows, tmp_path, "--center", center)
    assert len(steps) == len(theirs) == SETTINGS["max_steps"]
    for key, tolerance in [("loss", LOSS), ("grad_norm", GRADIENT), ("accuracy", 1e-6), ("margin", LOSS), ("mean_reward", LOSS)]:
        mine, others = ([line[key] for line in lines] for lines in (steps, theirs))
        np.testing.assert_allclose(mine, others, rtol=tolerance, atol=LOSS, err_msg=key)
    for key in ("min_reward", "max_reward"):
        np.testing.assert_allclose([line[key] for line in steps], [line[key] for line in theirs], rtol=LOSS, atol=LOSS)
    # What comes out is transformers' model; the rewards are its scores, shifted to mean 0 over the data.
    opened = AutoModelForSequenceClassification.from_pretrained(model)
    found, expected = np.array(scores(model, rows, tmp_path)), np.array(unpadded(opened, tokenizer, rows))
    np.testing.assert_allclose(found, expected - expected.mean(), rtol=1e-3, atol=1e-4)


def test_adapters(tmp_path):
    """A language model becomes a reward model with adapters; PEFT opens it, head and all."""
    directory, rows = write_tiny_model("llama", tmp_path / "base"), pairs(16, longest=60)
    model, steps = ours(directory, rows, tmp_path, "--lora-rank", 4, "--normalize", "nothing")
    assert steps[-1]["loss"] < steps[0]["loss"]
    opened = AutoPeftModelForSequenceClassification.from_pretrained(model, num_labels=1)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)
    np.testing.assert_allclose(scores(model, rows, tmp_path), unpadded(opened, tokenizer, rows), rtol=1e-4, atol=1e-5)
