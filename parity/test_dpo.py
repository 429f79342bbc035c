"""Direct preference optimisation against TRL's DPOTrainer: losses, rewards, log-probabilities and gradient norms over the
same steps; rankings against a PyTorch implementation of their likelihood.

Both sides start from the same weights and see the same pairs in the same order, in single precision. A pair is NumPy's
documentation as a question with its answer and, as the worse one, the answer of another question.

TRL ends every step with the mean over its parts; here a step's pairs are averaged together, which is the same while all
parts have as many.
"""

import json
import math

import numpy as np
import pytest
import texts
import torch
import trl_dpo
from language_models import write_rows
from peft import LoraConfig, PeftModel, get_peft_model
from support import posterior
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

# Twenty steps of a small model: log-probabilities of some -500 in single precision.
LOSS, GRADIENT = 1e-4, 1e-3
SETTINGS = {
    "per_device_train_batch_size": 4,
    "max_steps": 20,
    "max_length": 256,
    "learning_rate": 3e-3,
    "beta": 0.1,
}
OPTIONS = {
    "max_steps": "--max-steps",
    "max_length": "--max-length",
    "learning_rate": "--learning-rate",
    "beta": "--beta",
    "label_smoothing": "--label-smoothing",
}
pytestmark = pytest.mark.usefixtures("one_thread")
METRICS = ["rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected", "entropy"]


def pairs(count=80, longest=150):
    rows = [row for row in texts.questions(1) if len(row["completion"]) < longest]
    others = rows[1:] + rows[:1]
    found = [
        {"prompt": row["prompt"], "chosen": row["completion"], "rejected": other["completion"]}
        for row, other in zip(rows, others)
        if row["completion"] != other["completion"]
    ]
    return (found * (1 + count // len(found)))[:count]


class Ours:
    """A run of `posterior dpo`."""

    def __init__(self, model, rows, directory, *options, **settings):
        data, run = write_rows(directory / "rows.jsonl", rows), directory / "run"
        settings = dict(settings)
        size, accumulate = (
            settings.pop(key, 1) for key in ("per_device_train_batch_size", "gradient_accumulation_steps")
        )
        given = [part for key, value in settings.items() for part in (OPTIONS[key], value)]
        posterior(
            *["dpo", "--model", model, "--data", data, "--out", run, "--shuffle", "false", "--log-every", 1],
            *["--batch-size", size * accumulate, "--accumulate", accumulate, *given, *options],
        )
        self.model, self.directory = run / "model", run
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        self.steps = [line for line in lines if "loss" in line]
        self.evaluations = [line for line in lines if "eval_loss" in line]


def column(lines, key):
    return [line[key] for line in lines]


def assert_same_run(ours, theirs, loss=LOSS, gradient=GRADIENT):
    assert len(ours) == len(theirs)
    for key, tolerance in [("loss", loss), ("grad_norm", gradient), ("learning_rate", 1e-6), ("epoch", 1e-6)]:
        np.testing.assert_allclose(column(ours, key), column(theirs, key), rtol=tolerance, atol=loss / 10, err_msg=key)
    for key in METRICS:
        np.testing.assert_allclose(column(ours, key), column(theirs, key), rtol=loss, atol=loss, err_msg=key)
    np.testing.assert_allclose(column(ours, "rewards/accuracies"), column(theirs, "rewards/accuracies"), atol=1e-6)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma", "gpt2"])
def test_pairs(tiny, tmp_path, family):
    directory = tiny(family)
    # GPT-2's positions end.
    longest, settings = (60, {**SETTINGS, "max_length": 128}) if family == "gpt2" else (150, SETTINGS)
    rows = pairs(longest=longest)
    theirs = trl_dpo.train(directory, rows, tmp_path / "trl", **settings)
    ours = Ours(directory, rows, tmp_path, **settings)
    assert abs(ours.steps[0]["loss"] - math.log(2)) < 1e-6 and abs(ours.steps[0]["gradient_weight"] - 0.5) < 1e-6
    assert_same_run(ours.steps, theirs.steps)
    assert ours.steps[-1]["rewards/margins"] > 0.02 + ours.steps[0]["rewards/margins"]


# Their names there and here, and what else they need.
LOSSES = {
    "sigmoid_norm": {},
    "hinge": {},
    "ipo": {},
    "robust": {"label_smoothing": 0.1},
    "exo_pair": {"label_smoothing": 0.1},
    "nca_pair": {},
    "sppo_hard": {},
    "apo_zero": {},
    "apo_down": {},
    "discopop": {},
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses(tiny, tmp_path, name):
    settings = {**SETTINGS, **LOSSES[name], "max_steps": 8}
    theirs = trl_dpo.train(tiny("llama"), pairs(), tmp_path / "trl", loss_type=[name], **settings)
    ours = Ours(tiny("llama"), pairs(), tmp_path, "--loss", name.replace("_", "-"), **settings)
    assert_same_run(ours.steps, theirs.steps)


def test_adapters(tiny, tmp_path):
    """The reference is the model without the adapter, or with it as it was."""
    directory, adapter = tiny("llama"), tmp_path / "start"
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(directory), config)
    model.save_pretrained(adapter)
    settings = {**SETTINGS, "learning_rate": 1e-2}
    tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)
    start = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(directory), adapter, is_trainable=True)
    theirs = trl_dpo.train(start, pairs(), tmp_path / "trl", tokenizer=tokenizer, **settings)
    ours = Ours(adapter, pairs(), tmp_path, **settings)
    assert_same_run(ours.steps, theirs.steps)


def test_accumulation(tiny, tmp_path):
    settings = {**SETTINGS, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 4, "max_steps": 8}
    theirs = trl_dpo.train(tiny("llama"), pairs(), tmp_path / "trl", **settings)
    for name, parts in [("four", []), ("one", ["--accumulate", 1])]:
        (tmp_path / name).mkdir()
        own = {**settings, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1} if parts else settings
        assert_same_run(Ours(tiny("llama"), pairs(), tmp_path / name, **own).steps, theirs.steps)


def test_evaluation(tiny, tmp_path):
    rows = pairs()
    settings = {**SETTINGS, "max_steps": 8}
    theirs = trl_dpo.train(
        *[tiny("llama"), rows[:64], tmp_path / "trl"],
        eval_rows=rows[64:], eval_strategy="steps", eval_steps=4, per_device_eval_batch_size=16, **settings,
    )
    data = write_rows(tmp_path / "held_out.jsonl", rows[64:])
    ours = Ours(tiny("llama"), rows[:64], tmp_path, "--eval-data", data, "--eval-every", 4, **settings)
    found = {line["step"]: line for line in ours.evaluations}
    assert len(theirs.evaluations) == 2
    for line in theirs.evaluations:
        for key in ("loss", "rewards/chosen", "rewards/rejected", "rewards/accuracies", "logps/chosen", "logps/rejected"):
            np.testing.assert_allclose(found[line["step"]][f"eval_{key}"], line[f"eval_{key}"], rtol=LOSS, err_msg=key)


def rankings(count=24, responses=4):
    """With a tie at the best place in every third."""
    rows = pairs(count + responses)
    found = []
    for at in range(count):
        completions = list(dict.fromkeys(row["chosen"] for row in rows[at : at + responses]))
        ranks = [max(place, 1) if at % 3 == 0 else place for place in range(len(completions))]
        # Best first nowhere but in the ranks.
        completions = [{"completion": text, "rank": rank} for text, rank in zip(completions, ranks)][::-1]
        found.append({"prompt": rows[at]["prompt"], "completions": completions})
    return found


def plackett_luce(scores, groups, places):
    """Minus the log-likelihood: the sum over all orders that agree, one after another."""
    import itertools

    orders = [[]]
    start = 0
    for size in groups:
        if start >= places:
            break
        members = range(start, start + size)
        orders = [order + list(more) for order in orders for more in itertools.permutations(members)]
        start += size
    rest = list(range(start, len(scores)))
    terms = []
    for order in orders:
        left = order + rest
        terms.append(sum(scores[left[k]] - torch.logsumexp(scores[left[k:]], 0) for k in range(len(order))))
    return -torch.logsumexp(torch.stack(terms), 0)


@pytest.mark.parametrize("places", [None, 1, 2])
def test_rankings(tiny, tmp_path, places):
    """Against autograd over whole sequences, each with its own copy of the prompt, and PyTorch's AdamW."""
    directory, rows, beta = tiny("llama"), rankings(), 0.1
    options = [] if places is None else ["--places", places]
    settings = {**SETTINGS, "max_steps": 6, "max_length": 1024}
    ours = Ours(directory, rows, tmp_path, *options, **settings)

    tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)
    model, reference = (AutoModelForCausalLM.from_pretrained(directory).train() for _ in range(2))

    def log_prob(network, prompt, completion):
        first = tokenizer(prompt)["input_ids"]
        # Tokens of a response are its own: no token reaches across.
        second = tokenizer(completion, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        logits = network(torch.tensor([first + second])).logits[0].log_softmax(-1)
        rows = torch.arange(len(first) - 1, len(first) + len(second) - 1)
        return logits[rows, torch.tensor(second)].sum()

    optimizer = torch.optim.AdamW(model.parameters(), lr=settings["learning_rate"], weight_decay=0.0)
    for step in range(settings["max_steps"]):
        losses = []
        for row in rows[step * 4 : step * 4 + 4]:
            ordered = sorted(row["completions"], key=lambda item: item["rank"])
            ranks = [item["rank"] for item in ordered]
            groups = [ranks.count(rank) for rank in dict.fromkeys(ranks)]
            scores = []
            for item in ordered:
                with torch.no_grad():
                    before = log_prob(reference, row["prompt"], item["completion"])
                scores.append(beta * (log_prob(model, row["prompt"], item["completion"]) - before))
            losses.append(plackett_luce(torch.stack(scores), groups, places or len(scores)))
        loss = torch.stack(losses).mean()
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = ours.steps[step]["learning_rate"]
        optimizer.step()
        np.testing.assert_allclose(ours.steps[step]["loss"], loss.item(), rtol=1e-4)
        np.testing.assert_allclose(ours.steps[step]["grad_norm"], norm.item(), rtol=1e-3)
