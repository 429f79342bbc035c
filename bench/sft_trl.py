"""TRL's side of sft.py: trains for some steps, and prints in JSON what they took.

TRL is used as well as it can be on a processor: no recomputation, single precision as the other side (bfloat16 is its
default), the fused AdamW and the fused head of its own, scaled_dot_product_attention, and, as a side of its own, batches
without padding.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, TrainerCallback

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "parity"))
import trl_sft  # noqa: E402  (it lies there)


class Clock(TrainerCallback):
    """The seconds from the end of a step to the end of the next: batches, both passes, the optimiser, logging."""

    def __init__(self):
        self.times = []

    def on_train_begin(self, *_, **__):
        self.times.append(time.perf_counter())

    def on_step_end(self, *_, **__):
        self.times.append(time.perf_counter())

    def seconds(self):
        return [end - start for start, end in zip(self.times, self.times[1:])]


def cut(rows, tokenizer, length):
    """Rows in tokens, no longer than that: TRL does not cut them itself when nothing is padded."""
    found = []
    for row in rows:
        prompt = tokenizer(row["prompt"])["input_ids"]
        whole = prompt + tokenizer(row["completion"] + tokenizer.eos_token)["input_ids"]
        labels = [-100] * len(prompt) + whole[len(prompt) :]
        found.append({"input_ids": whole[:length], "labels": labels[:length]})
    return found


def main():
    directory, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
    torch.set_num_threads(settings["threads"])
    tokenizer = trl_sft.open_tokenizer(directory / "model")
    rows = [json.loads(line) for line in (directory / "rows.jsonl").read_text().splitlines()]
    # The model first, so that the peak is not that of reading it in another type.
    model = AutoModelForCausalLM.from_pretrained(directory / "model", dtype=torch.float32)
    lora = settings["lora"]
    clock = Clock()
    with tempfile.TemporaryDirectory() as output:
        trained = trl_sft.train(
            model,
            cut(rows, tokenizer, settings["max_length"]),
            output,
            tokenizer=tokenizer,
            callbacks=[clock],
            peft_config=LoraConfig(
                r=lora["rank"], lora_alpha=lora["alpha"], target_modules="all-linear", task_type="CAUSAL_LM"
            )
            if lora
            else None,
            max_length=None,
            padding_free=settings["padding_free"],
            per_device_train_batch_size=settings["batch"],
            max_steps=settings["steps"],
            learning_rate=1e-5,
            lr_scheduler_type="constant",
        )
    answer = {
        "seconds": clock.seconds(),
        "num_tokens": [step["num_tokens"] for step in trained.steps],
        "loss": [step["loss"] for step in trained.steps],
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
