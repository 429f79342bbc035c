"""TRL's side of dpo.py: trains for some steps, and prints in JSON what they took.

TRL is used as well as it can be on a processor: see sft_trl.py. The reference's log-probabilities are worked out in every
step, which is its default, or before the first one, which is then timed apart.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "parity"))
import trl_dpo  # noqa: E402  (it lies there)
import trl_sft  # noqa: E402
from sft_trl import Clock  # noqa: E402


def main():
    directory, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
    torch.set_num_threads(settings["threads"])
    tokenizer = trl_sft.open_tokenizer(directory / "model")
    rows = [json.loads(line) for line in Path(settings["rows"]).read_text().splitlines()]
    model = AutoModelForCausalLM.from_pretrained(directory / "model", dtype=torch.float32)
    clock = Clock()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as output:
        trained = trl_dpo.train(
            model,
            rows,
            output,
            tokenizer=tokenizer,
            callbacks=[clock],
            max_length=settings["max_length"],
            precompute_ref_log_probs=settings["precompute"],
            per_device_train_batch_size=settings["batch"],
            max_steps=settings["steps"],
            learning_rate=1e-6,
            lr_scheduler_type="constant",
        )
    answer = {
        "before": clock.times[0] - began,
        "seconds": clock.seconds(),
        "loss": [step["loss"] for step in trained.steps],
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
