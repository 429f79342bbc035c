"""Supervised fine-tuning against TRL's SFTTrainer: losses, gradient norms, metrics and weights over the same steps.

Both sides start from the same weights and see the same rows in the same order, in single precision. The rows are NumPy's
documentation as questions and answers (`texts.questions`).

What TRL does otherwise, and these tests stay clear of: it makes tokens of prompt and completion together and lets one reach
across the boundary; it ends an epoch with a short step, where here the step goes on into the next; with accumulation it
averages accuracy and entropy over the parts of a step, however many tokens each has; it divides GPT-2's loss on plain texts
by one token a text too many (transformers counts the first label for models not called ForCausalLM).
"""

import json

import numpy as np
import pytest
import texts
import trl_sft
from language_models import MARKED_CHATML, find_smollm2, write_rows, write_smollm2
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from support import posterior
from transformers import AutoModelForCausalLM

# A dozen steps of a small model part by some 1e-7, as they do between two ways of computing attention in PyTorch.
LOSS, GRADIENT, WAY = 1e-6, 1e-5, 1e-3
# Twenty of a real one.
REAL_LOSS, REAL_GRADIENT = 1e-4, 1e-3
pytestmark = pytest.mark.usefixtures("one_thread")
TINY = ["llama", "llama_biases", "mistral", "qwen2", "qwen3", "gemma", "gpt2"]
# TRL's settings, and the options of ours that mean the same.
OPTIONS = {
    "max_steps": "--max-steps",
    "max_length": "--max-length",
    "learning_rate": "--learning-rate",
    "lr_scheduler_type": "--learning-rate-schedule",
    "warmup_steps": "--warmup-steps",
    "weight_decay": "--weight-decay",
    "adam_beta1": "--adam-beta1",
    "adam_beta2": "--adam-beta2",
    "adam_epsilon": "--adam-epsilon",
    "max_grad_norm": "--max-grad-norm",
    "num_train_epochs": "--epochs",
}
SETTINGS = {
    "per_device_train_batch_size": 4,
    "max_steps": 12,
    "max_length": 128,
    "learning_rate": 3e-3,
    "warmup_steps": 3,
}


def questions(paragraphs=1):
    return whole_steps(texts.questions(paragraphs))


def whole_steps(rows):
    """So many rows that no step reaches into the next epoch."""
    return rows[: len(rows) // 16 * 16]


class Ours:
    """A run of `posterior sft`."""

    def __init__(self, model, rows, directory, *options, parts=None, **settings):
        data, run = write_rows(directory / "rows.jsonl", rows), directory / "run"
        settings = dict(settings)
        size, accumulate = (
            settings.pop(key, 1) for key in ("per_device_train_batch_size", "gradient_accumulation_steps")
        )
        given = [part for key, value in settings.items() for part in (OPTIONS[key], value)]
        posterior(
            *["sft", "--model", model, "--data", data, "--out", run, "--shuffle", "false", "--log-every", 1],
            *["--batch-size", size * accumulate, *(parts or ["--accumulate", accumulate]), *given, *options],
        )
        self.model = run / "model"
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        self.steps = [line for line in lines if "loss" in line]
        self.evaluations = [line for line in lines if "eval_loss" in line]


def column(lines, key):
    return [line[key] for line in lines]


def assert_same_run(ours, theirs, loss=LOSS, gradient=GRADIENT, averages=True):
    """Every number of every step."""
    assert len(ours) == len(theirs)
    for key in ("step", "num_tokens"):
        assert column(ours, key) == column(theirs, key), key
    for key, tolerance in [("loss", loss), ("grad_norm", gradient), ("learning_rate", 1e-6), ("epoch", 1e-6)]:
        np.testing.assert_allclose(column(ours, key), column(theirs, key), rtol=tolerance, err_msg=key)
    if averages:
        np.testing.assert_allclose(column(ours, "entropy"), column(theirs, "entropy"), rtol=loss)
        accuracies = column(ours, "mean_token_accuracy"), column(theirs, "mean_token_accuracy")
        # Single precision on one side or both.
        np.testing.assert_allclose(*accuracies, atol=1e-6)


def assert_same_way(start, ours, theirs):
    """Tensors by name: both went the same way from the start.

    AdamW moves each weight by about the learning rate a step, whatever the gradient's size: where a gradient is nearly 0 its
    sign is rounding. So the ways are compared as a whole, not weight by weight.
    """
    assert set(ours) == set(theirs)
    for name, other in theirs.items():
        first, mine = start[name], ours[name]
        if name.endswith("c_attn.bias"):
            # A bias of the keys adds the same to every score of a query: its gradient is nothing but rounding.
            third = len(other) // 3
            kept = [*range(third), *range(2 * third, 3 * third)]
            first, mine, other = first[kept], mine[kept], other[kept]
        assert (mine - other).norm() < WAY * (other - first).norm(), name


def tensors(model):
    """Those that transformers writes: a tied one once."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def check(directory, rows, tmp_path, *options, **settings):
    """Trains both sides alike and compares every step. Returns both."""
    settings = {**SETTINGS, **settings}
    theirs = trl_sft.train(directory, rows, tmp_path / "trl", **settings)
    ours_settings = {key: value for key, value in settings.items() if key not in ("assistant_only_loss", "completion_only_loss")}
    ours = Ours(directory, rows, tmp_path, *options, **ours_settings)
    assert_same_run(ours.steps, theirs.steps)
    assert theirs.steps[-1]["loss"] < 0.95 * theirs.steps[0]["loss"]
    return ours, theirs


@pytest.mark.parametrize("family", TINY)
def test_full_tuning(tiny, tmp_path, family):
    directory = tiny(family)
    ours, theirs = check(directory, questions(2), tmp_path)
    start = load_file(directory / "model.safetensors")
    assert_same_way(start, load_file(ours.model / "model.safetensors"), tensors(theirs.model))


@pytest.mark.parametrize("family", ["llama_biases", "qwen3", "gpt2"])
def test_which_weights_decay(tiny, tmp_path, family):
    """Not biases, nor what normalises. The rate is high, so that decay is a good part of the way."""
    directory = tiny(family)
    ours, theirs = check(directory, questions(2), tmp_path, weight_decay=20.0)
    start = load_file(directory / "model.safetensors")
    assert_same_way(start, load_file(ours.model / "model.safetensors"), tensors(theirs.model))


@pytest.mark.parametrize("schedule", ["constant_with_warmup", "linear", "cosine"])
def test_schedules_and_the_rest_of_the_optimiser(tiny, tmp_path, schedule):
    directory = tiny("llama")
    settings = {
        **SETTINGS, "warmup_steps": 5, "adam_beta1": 0.8, "adam_beta2": 0.95, "adam_epsilon": 1e-6, "max_grad_norm": 0.5,
    }
    theirs = trl_sft.train(directory, questions(), tmp_path / "trl", lr_scheduler_type=schedule, **settings)
    # There, a constant rate never warms up.
    name = schedule.removesuffix("_with_warmup")
    ours = Ours(directory, questions(), tmp_path, lr_scheduler_type=name, **settings)
    assert_same_run(ours.steps, theirs.steps)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_accumulation(tiny, tmp_path, family):
    """A step of four parts of different lengths is the mean over all its tokens, there and here, however it is parted."""
    directory = tiny(family)
    settings = {**SETTINGS, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
    rows = questions(4)[:48]
    lengths = [len(row["completion"]) for row in rows]
    assert max(lengths) > 5 * min(lengths)
    theirs = trl_sft.train(directory, rows, tmp_path / "trl", **settings)
    for name, parts in [("one", ["--accumulate", 1]), ("four", ["--accumulate", 4]), ("tokens", ["--micro-batch-tokens", 60])]:
        (tmp_path / name).mkdir()
        ours = Ours(directory, rows, tmp_path / name, parts=parts, **settings)
        assert_same_run(ours.steps, theirs.steps, averages=False)


def test_one_times_eight_and_eight_times_one(tiny, tmp_path):
    directory, rows = tiny("llama"), questions(4)
    runs = []
    for accumulate in (1, 2, 8):
        (tmp_path / str(accumulate)).mkdir()
        settings = {**SETTINGS, "per_device_train_batch_size": 8 // accumulate, "gradient_accumulation_steps": accumulate}
        runs.append(Ours(directory, rows, tmp_path / str(accumulate), **settings).steps)
    for run in runs[1:]:
        assert_same_run(run, runs[0])


def test_recomputation_changes_nothing(tiny, tmp_path):
    directory, rows = tiny("qwen3"), questions(2)
    runs = []
    for recompute in ("false", "true"):
        (tmp_path / recompute).mkdir()
        runs.append(Ours(directory, rows, tmp_path / recompute, "--recompute", recompute, **SETTINGS).steps)
    for key in ("loss", "grad_norm", "entropy"):
        assert column(runs[1], key) == column(runs[0], key), key


def chat(row):
    return [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"].strip()}]


def conversations():
    """Of two questions each, some with a system message. The last answer begins before the greatest length."""
    rows = [row for row in questions() if len(row["completion"]) < 120]
    system = [{"role": "system", "content": "Answer briefly."}]
    pairs = enumerate(zip(rows[::2], rows[1::2]))
    return whole_steps([system * (index % 2) + chat(first) + chat(second) for index, (first, second) in pairs])


# TRL learns the line break after <|im_end|> too, unless the template marks what is learned.
AS_TRL = ["--keep-trailing-text", "true"]
EVERYTHING = ["--train-on", "everything"]
ROWS = {
    "text": (lambda: [{"text": row["prompt"] + row["completion"]} for row in questions()], {}, EVERYTHING),
    "prompts_too": (questions, {"completion_only_loss": False}, EVERYTHING),
    "messages": (lambda: [{"messages": messages} for messages in conversations()], {}, EVERYTHING + AS_TRL),
    "answers": (lambda: [{"messages": messages} for messages in conversations()], {"assistant_only_loss": True}, []),
    "completion": (
        lambda: [{"prompt": messages[:-1], "completion": messages[-1:]} for messages in conversations()], {}, AS_TRL,
    ),
}


@pytest.mark.parametrize("kind", ROWS)
def test_rows(tiny, tmp_path, kind):
    make, settings, options = ROWS[kind]
    template = {"template": MARKED_CHATML} if kind == "answers" else {}
    check(tiny("llama", **template), make(), tmp_path, *options, max_length=256, **settings)


def test_the_last_answer_of_a_conversation(tiny, tmp_path):
    """Which TRL has for rows that are parted before it."""
    directory, settings = tiny("qwen3"), {**SETTINGS, "max_length": 256}
    parted = [{"prompt": messages[:-1], "completion": messages[-1:]} for messages in conversations()]
    theirs = trl_sft.train(directory, parted, tmp_path / "trl", **settings)
    rows = [{"messages": messages} for messages in conversations()]
    ours = Ours(directory, rows, tmp_path, "--train-on", "last-answer", *AS_TRL, **settings)
    assert_same_run(ours.steps, theirs.steps)


def test_long_rows_are_cut(tiny, tmp_path):
    directory = tiny("llama")
    rows = questions(3)
    theirs = trl_sft.train(directory, rows, tmp_path / "trl", **{**SETTINGS, "max_length": 48})
    lengths = [len(row["input_ids"]) for row in theirs.rows]
    # Prompts fit; of completions, many do not.
    assert len(lengths) == len(rows) and lengths.count(48) > len(rows) / 4
    ours = Ours(directory, rows, tmp_path, **{**SETTINGS, "max_length": 48})
    assert_same_run(ours.steps, theirs.steps)


def test_evaluation(tiny, tmp_path):
    """Before the first step and after some; one batch there, because TRL averages over batches, not over tokens."""
    directory, rows = tiny("gpt2"), questions()
    kept, held_out = rows[:-16], rows[-16:]
    settings = {**SETTINGS, "max_steps": 8}
    theirs = trl_sft.train(
        *[directory, kept, tmp_path / "trl"],
        eval_rows=held_out, eval_strategy="steps", eval_steps=4, per_device_eval_batch_size=16, **settings,
    )
    data = write_rows(tmp_path / "held_out.jsonl", held_out)
    ours = Ours(directory, kept, tmp_path, "--eval-data", data, "--eval-every", 4, **settings)
    assert_same_run(ours.steps, theirs.steps)
    found = {line["step"]: line for line in ours.evaluations}
    for line in theirs.evaluations:
        mine = found[line["step"]]
        np.testing.assert_allclose(mine["eval_loss"], line["eval_loss"], rtol=LOSS)
        np.testing.assert_allclose(mine["eval_mean_token_accuracy"], line["eval_mean_token_accuracy"], atol=1e-6)


def test_two_epochs(tiny, tmp_path):
    directory, rows = tiny("llama"), questions()[:24]
    settings = {key: value for key, value in SETTINGS.items() if key != "max_steps"}
    theirs = trl_sft.train(directory, rows, tmp_path / "trl", num_train_epochs=2, **settings)
    ours = Ours(directory, rows, tmp_path, num_train_epochs=2, **settings)
    assert len(theirs.steps) == 12
    assert_same_run(ours.steps, theirs.steps)


def start_adapter(directory, config, to):
    """PEFT's own first adapter, random A and all, as a directory; what it holds."""
    base = AutoModelForCausalLM.from_pretrained(directory)
    get_peft_model(base, config).save_pretrained(to)
    return load_file(to / "adapter_model.safetensors")


def check_adapter(directory, rows, tmp_path, config, loss=LOSS, gradient=GRADIENT, **settings):
    """Trains PEFT's adapter on both sides and compares everything."""
    adapter = tmp_path / "start"
    start = start_adapter(directory, config, adapter)
    base = AutoModelForCausalLM.from_pretrained(directory)
    model = PeftModel.from_pretrained(base, adapter, is_trainable=True)
    tokenizer = trl_sft.open_tokenizer(directory)
    theirs = trl_sft.train(model, rows, tmp_path / "trl", tokenizer=tokenizer, **settings)
    ours = Ours(adapter, rows, tmp_path, **settings)
    assert_same_run(ours.steps, theirs.steps, loss=loss, gradient=gradient)
    theirs.model.save_pretrained(tmp_path / "end")
    ends = [load_file(place / "adapter_model.safetensors") for place in (ours.model, tmp_path / "end")]
    assert_same_way(start, *ends)
    return theirs


# GPT-2's c_attn is left out: there one A serves queries, keys and values, here each has its own.
ADAPTERS = {
    "llama": ("llama", {"target_modules": "all-linear"}),
    "qwen3": ("qwen3", {"target_modules": "all-linear", "use_rslora": True}),
    "gpt2": ("gpt2", {"target_modules": ["c_proj", "c_fc"]}),
    "few": ("llama_biases", {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"v_proj": 2}}),
    "whole": ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}),
    "tied": (
        "qwen3",
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ),
}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_adapters(tiny, tmp_path, kind):
    family, options = ADAPTERS[kind]
    config = LoraConfig(r=4, lora_alpha=16, task_type="CAUSAL_LM", **options)
    settings = {**SETTINGS, "learning_rate": 1e-2}
    theirs = check_adapter(tiny(family), questions(2), tmp_path, config, **settings)
    assert theirs.steps[-1]["loss"] < theirs.steps[0]["loss"]


# A real model. Sequences of 25 to 96 tokens.
REAL = {
    "per_device_train_batch_size": 2,
    "max_steps": 20,
    "max_length": 96,
    "warmup_steps": 4,
    "lr_scheduler_type": "cosine",
}


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    assert find_smollm2()
    return write_smollm2(tmp_path_factory.mktemp("smollm2"))


def test_smollm2(smollm2, tmp_path):
    settings = {**REAL, "learning_rate": 5e-5}
    theirs = trl_sft.train(smollm2, questions(3), tmp_path / "trl", **settings)
    ours = Ours(smollm2, questions(3), tmp_path, **settings)
    losses = column(theirs.steps, "loss")
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    assert_same_run(ours.steps, theirs.steps, loss=REAL_LOSS, gradient=REAL_GRADIENT)


def test_an_adapter_of_smollm2(smollm2, tmp_path):
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    settings = {**REAL, "learning_rate": 1e-3}
    theirs = check_adapter(smollm2, questions(3), tmp_path, config, loss=REAL_LOSS, gradient=REAL_GRADIENT, **settings)
    losses = column(theirs.steps, "loss")
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
