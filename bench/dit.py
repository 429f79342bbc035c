"""Training and sampling a diffusion transformer: the program `posterior` against PyTorch and diffusers, in one run.

    bench/run [--repetitions N] [--steps N] [--compile] ...

Both sides do the same work on the same number of threads, turn by turn, so that whatever else the machine does meets
both: A B, A B, ... What is printed is the median of all steps, the smallest and the largest turn's median, and the
ratios of the medians and of the smallest ones. See README.md for what is and what is not in a step.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent


class Posterior:
    """The program, a process a turn; its own clock times each step."""

    name = "posterior"

    def __init__(self, options, directory):
        self.options, self.directory, self.turn = options, directory, 0
        self.peaks = {"train": 0.0, "sample": 0.0}

    def run(self, *arguments):
        command = [self.options.posterior, "--quiet", "--format", "json", "--threads", self.options.threads, *arguments]
        with tempfile.TemporaryFile("w+") as output:
            process = subprocess.Popen([str(part) for part in command], stdout=output)
            _, status, usage = os.wait4(process.pid, 0)
            if status != 0:
                sys.exit(f"{command} failed")
            output.seek(0)
            # Kilobytes on Linux.
            return json.load(output), usage.ru_maxrss / 1024

    def train(self, steps):
        self.turn += 1
        run = self.directory / f"run-{self.turn}"
        size = self.options
        _, peak = self.run(
            *["diffusion", "train", "--data", self.directory / "data.npy", "--out", run, "--max-steps", steps],
            *["--hidden-size", size.hidden, "--depth", size.depth, "--heads", size.heads, "--patch-size", size.patch],
            *["--batch-size", size.batch, "--held-out", 0, "--eval-every", 0, "--save-every", 0, "--log-every", 1],
        )
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        self.peaks["train"] = max(self.peaks["train"], peak)
        return [line["step_seconds"] for line in lines if "step_seconds" in line]

    def sample(self):
        document, peak = self.run(
            *["diffusion", "sample", "--run", self.directory / "run-1", "--out", self.directory / "samples"],
            *["--count", self.options.samples, "--batch-size", self.options.samples],
            *["--scheduler-config", self.directory / "scheduler_config.json", "--steps", self.options.sampling_steps],
        )
        self.peaks["sample"] = max(self.peaks["sample"], peak)
        return document["seconds"]


class PyTorch:
    """A process that stays, as a Python session would: importing and compiling are not timed."""

    def __init__(self, options, directory, compiled, work):
        self.name = "PyTorch, compiled" if compiled else "PyTorch"
        environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "MKL_NUM_THREADS": str(options.threads)}
        settings = {**{key: value for key, value in vars(options).items() if isinstance(value, int)}, "compiled": compiled}
        command = [sys.executable, HERE / "dit_pytorch.py", directory, work, json.dumps(settings)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        self.facts = self.ask("facts")

    def ask(self, *words):
        print(*words, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"{self.name} failed")
        return json.loads(answer)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def floating_point_operations(options):
    """Of the products of one forward pass for one image: layers, and attention's two products."""
    tokens = (options.side // options.patch) ** 2
    width = options.hidden
    block = 2 * tokens * 12 * width**2 + 4 * tokens**2 * width + 2 * 6 * width**2
    ends = 2 * tokens * 2 * options.patch**2 * width + 2 * (2 * width + width + 64) * width
    return options.depth * block + ends


def summary(turns):
    """Median over everything, and the range of the turns' own medians."""
    everything = [value for turn in turns for value in turn]
    medians = [statistics.median(turn) for turn in turns]
    return statistics.median(everything), min(medians), max(medians)


def report(title, rows, floor, peaks):
    print(f"\n{title}")
    print(f"  {'':20} {'median':>9} {'ratio':>7} {'lowest turn':>12} {'ratio':>7} {'highest turn':>13} {'peak memory':>12}")
    ours = summary(rows["posterior"])
    for name, turns in rows.items():
        found = summary(turns)
        ratios = ["" if name == "posterior" else f"{value / own:.2f}" for value, own in zip(found, ours)]
        median, low, high = found
        times = f"{median:7.3f} s {ratios[0]:>7} {low:10.3f} s {ratios[1]:>7} {high:11.3f} s"
        print(f"  {name:20} {times} {peaks[name]:9.0f} MB")
    print(f"  {'floor':20} {floor:7.3f} s   (the products alone, at the rate measured below)")


def processor():
    """Its name, as Linux has it."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return platform.machine()


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("POSTERIOR_BIN", ROOT / "target/release/posterior")
    parser.add_argument("--posterior", type=Path, default=default, help="the program")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=5, help="turns of each side")
    parser.add_argument("--steps", type=int, default=10, help="timed training steps a turn")
    parser.add_argument("--compile", action="store_true", help="torch.compile as a third side (needs a C++ compiler)")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--sampling-steps", type=int, default=20)
    parser.add_argument("--side", type=int, default=28, help="rows and columns of the grey images")
    for name, value in [("hidden", 192), ("depth", 6), ("heads", 4), ("patch", 4)]:
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--json", type=Path, help="also write every number there")
    return parser.parse_args()


# What both sides sample with. PyTorch and diffusers stay out of this process: a child's peak memory counts from what its
# parent had when it was started.
SCHEDULER = {"_class_name": "DDIMScheduler", "prediction_type": "sample", "clip_sample": False}

# Untimed steps at the start of each turn: the first touch of memory costs either side up to double.
WARM_UP = 3


def main():
    options = parse()
    cores = f"{processor()}, {os.cpu_count()} cores"
    print(f"{cores}, {options.threads} threads a side; load before: {os.getloadavg()[0]:.1f}", flush=True)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (2000, 1, options.side, options.side), dtype=np.uint8)
        np.save(directory / "data.npy", images)
        (directory / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
        ours = Posterior(options, directory)
        # One run is for warming up, and leaves the model that both sides sample from.
        ours.train(2)
        kinds = [False, True] if options.compile else [False]

        results = {}
        for work in ["train", "sample"]:
            peers = [PyTorch(options, directory, compiled, work) for compiled in kinds]
            for peer in peers:
                stack.callback(peer.close)
            rows = {side.name: [] for side in [ours, *peers]}
            for peer in peers:
                peer.ask(work, WARM_UP if work == "train" else 1)
            if work == "sample":
                ours.sample()
            for _ in range(options.repetitions):
                if work == "train":
                    rows[ours.name].append(ours.train(WARM_UP + options.steps)[WARM_UP:])
                else:
                    rows[ours.name].append([ours.sample()])
                for peer in peers:
                    if work == "train":
                        rows[peer.name].append(peer.ask(work, WARM_UP + options.steps)[WARM_UP:])
                    else:
                        rows[peer.name].append(peer.ask(work, 1))
            peaks = {ours.name: ours.peaks[work]}
            peaks.update({peer.name: peer.ask("memory") for peer in peers})
            rate = peers[0].ask("rate")
            facts = peers[0].facts
            for peer in peers:
                peer.close()
            results[work] = {"seconds": rows, "peak_megabytes": peaks, "operations_per_second": rate}

        forward = floating_point_operations(options)
        rate = max(result["operations_per_second"] for result in results.values())
        tokens = (options.side // options.patch) ** 2
        print(f"DiT: width {options.hidden}, depth {options.depth}, {options.heads} heads, {tokens} tokens")
        print(f"{facts['parameters']} parameters, single precision; torch {facts['torch']}, diffusers {facts['diffusers']}")
        train, sample = results["train"], results["sample"]
        # A backward pass is two products for each of the forward pass.
        report(f"A training step, batch {options.batch}", train["seconds"], 3 * options.batch * forward / rate, train["peak_megabytes"])
        report(
            f"{options.samples} samples, DDIM, {options.sampling_steps} steps",
            sample["seconds"],
            options.samples * options.sampling_steps * forward / rate,
            sample["peak_megabytes"],
        )
        print(f"\nProducts: {rate / 1e9:.0f} GFLOP/s (PyTorch's, 2048 x 2048 x 2048, best of 10)")
        print(f"Load after: {os.getloadavg()[0]:.1f}; above {options.threads}, others computed too, and no figure here is good")
        if options.json:
            settings = {key: str(value) for key, value in vars(options).items()}
            options.json.write_text(json.dumps({"options": settings, **results}, indent=1))


if __name__ == "__main__":
    main()
