"""Seconds per step and peak memory of `posterior dpo` against TRL's DPOTrainer, in one run.

    bench/run dpo [--batch 4] [--steps 3] [--repetitions 1] [--cases short long rankings]
    bench/run dpo --batch 1 --shapes 64x32x2 256x32x8 1024x128x8

Both sides tune all weights of SmolLM2-135M-Instruct on the same pairs in the same order, in single precision, with AdamW;
TRL as it comes, and with the reference's log-probabilities worked out before the first step, as the program does it (what
that takes is printed for both). Prompts and responses are cut from NumPy's documentation to numbers of tokens: prompts of
192 with responses of 32 to 64 (short), prompts of 1,024 with responses of 64 (long). Rankings of 8 responses under one
prompt are measured with the prompt shared and with a copy for each response; TRL has none. A turn is a process of either
side; turns alternate.

`--shapes` makes a table instead: the program with the prompt shared and with copies, for prompts of so many tokens with K
responses of so many, PROMPTxRESPONSExK.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import tokenizers
from sft import HERE, ROOT, find_model, run

sys.path.insert(0, str(ROOT / "parity"))
from texts import questions  # noqa: E402  (it lies there)

# Untimed steps at the start of each turn: the first touch of memory.
WARM_UP = 1
# Longer than any pair: nothing is cut.
MAX_LENGTH = 4096
# Millions of weights that each of their tokens meets.
BLOCKS, HEAD = 106, 28
CASES = {
    "short": {"prompt": 192, "responses": (32, 64), "count": 2},
    "long": {"prompt": 1024, "responses": (64, 64), "count": 2},
    "rankings": {"prompt": 192, "responses": (32, 64), "count": 8},
}


def shape_of(text):
    """PROMPTxRESPONSExK."""
    prompt, response, count = map(int, text.split("x"))
    if min(prompt, response) < 1 or count < 2:
        raise ValueError(text)
    return {"prompt": prompt, "responses": (response, response), "count": count}


class Posterior:
    def __init__(self, options, directory, shared):
        self.options, self.directory, self.shared, self.turns = options, directory, shared, 0
        self.name = "posterior" if shared else "posterior, not shared"

    def turn(self, case):
        options, self.turns = self.options, self.turns + 1
        out = self.directory / f"{'shared' if self.shared else 'apart'}-{case}-{self.turns}"
        began = time.perf_counter()
        _, peak = run(
            [
                *[options.posterior, "--quiet", "--format", "json", "--threads", options.threads, "dpo"],
                *["--model", self.directory / "model", "--data", self.directory / f"{case}.jsonl", "--out", out],
                *["--shuffle", "false", "--max-length", MAX_LENGTH, "--batch-size", options.batch],
                *["--max-steps", WARM_UP + options.steps, "--learning-rate", 1e-6],
                *["--learning-rate-schedule", "constant", "--log-every", 1, "--save-every", 0],
                *["--share-prompts", str(self.shared).lower()],
            ],
            options.threads,
        )
        whole = time.perf_counter() - began
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        steps = [line for line in lines if "step_seconds" in line]
        for file in (out / "model").iterdir():
            file.unlink()
        seconds = [step["step_seconds"] for step in steps]
        return {
            "seconds": seconds,
            # Opening, the reference, writing the model.
            "before": whole - sum(seconds),
            "loss": [step["loss"] for step in steps],
            "peak": peak,
        }


class Trl:
    def __init__(self, options, directory, precompute):
        self.options, self.directory, self.precompute = options, directory, precompute
        self.name = "TRL, precomputed" if precompute else "TRL"

    def turn(self, case):
        options = self.options
        settings = {
            "threads": options.threads,
            "rows": str(self.directory / f"{case}.jsonl"),
            "batch": options.batch,
            "steps": WARM_UP + options.steps,
            "precompute": self.precompute,
            "max_length": MAX_LENGTH,
        }
        output, peak = run([sys.executable, HERE / "dpo_trl.py", self.directory, json.dumps(settings)], options.threads)
        return {**json.loads(output.splitlines()[-1]), "peak": peak}


def write_rows(directory, case, shape, count):
    """`count` prompts of so many tokens with their responses, one after another from a long text."""
    tokenizer = tokenizers.Tokenizer.from_file(str(directory / "model" / "tokenizer.json"))
    text = "\n".join(row["prompt"] + row["completion"] for row in questions(12, sections=True))
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    at = 0

    def next_text(length):
        nonlocal at
        if at + length > len(ids):
            at = 0
        at += length
        return tokenizer.decode(ids[at - length : at], skip_special_tokens=False)

    rows = []
    least, most = shape["responses"]
    for row in range(count):
        prompt = next_text(shape["prompt"])
        responses = [next_text(least + (row + 3 * at) * 8 % (most - least + 1)) for at in range(shape["count"])]
        if shape["count"] == 2:
            rows.append({"prompt": prompt, "chosen": responses[0], "rejected": responses[1]})
        else:
            ranked = [{"rank": rank, "completion": response} for rank, response in enumerate(responses)]
            rows.append({"prompt": prompt, "completions": ranked})
    (directory / f"{case}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def report(case, results):
    shape = CASES[case]
    kind = "pairs" if shape["count"] == 2 else f"rankings of {shape['count']}"
    print(f"\n{kind}, prompts of {shape['prompt']} tokens, responses of {shape['responses'][0]} to {shape['responses'][1]}")
    print(f"  {'':22} {'step':>10} {'ratio':>6} {'best':>10} {'ratio':>6} {'before':>9} {'peak memory':>12} {'ratio':>6}")
    own = None
    for name, turns in results.items():
        seconds = [second for turn in turns for second in turn["seconds"][WARM_UP:]]
        found = {
            "median": statistics.median(seconds),
            "best": min(seconds),
            "before": statistics.median(turn["before"] for turn in turns),
            "peak": max(turn["peak"] for turn in turns),
        }
        own = own or found
        ratio = {key: "" if own is found else f"{found[key] / own[key]:.2f}" for key in ("median", "best")}
        memory = "" if own is found else f"{own['peak'] / found['peak']:.2f}"
        print(
            f"  {name:22} {found['median']:8.2f} s {ratio['median']:>6} {found['best']:8.2f} s {ratio['best']:>6} "
            f"{found['before']:7.1f} s {found['peak']:9.0f} MB {memory:>6}"
        )


def check(results):
    """All sides began alike and went the same way."""
    [first, *others] = [turn for turns in results.values() for turn in turns]
    for other in others:
        for mine, theirs in zip(first["loss"], other["loss"]):
            if abs(mine - theirs) > 1e-3 * abs(mine):
                sys.exit(f"the sides' losses part: {first['loss']} and {other['loss']}")


def measure(options, sides, case):
    """The sides' turns, one after another, which must have gone the same way."""
    results = {side.name: [] for side in sides}
    for _ in range(options.repetitions):
        for side in sides:
            results[side.name].append(side.turn(case))
    check(results)
    return results


def table(options, directory):
    """A line for each shape."""
    print(f"\n  {'prompt':>6} {'response':>8} {'K':>2} {'shared':>16} {'':>8} {'copies':>16} {'':>8} {'ratio':>6} {'products':>8}")
    found = {}
    for shape in options.shapes:
        (response, _), prompt, count = shape["responses"], shape["prompt"], shape["count"]
        name = f"{prompt}x{response}x{count}"
        write_rows(directory, name, shape, (WARM_UP + options.steps) * options.batch)
        results = measure(options, [Posterior(options, directory, shared) for shared in (True, False)], name)
        seconds, peaks = [], []
        for turns in results.values():
            seconds.append(statistics.median(second for turn in turns for second in turn["seconds"][WARM_UP:]))
            peaks.append(max(turn["peak"] for turn in turns))
        # The blocks see every token, the head those of the responses alone.
        head = HEAD * count * response
        products = (BLOCKS * count * (prompt + response) + head) / (BLOCKS * (prompt + count * response) + head)
        sides = "".join(f" {second:14.2f} s {peak:5.0f} MB" for second, peak in zip(seconds, peaks))
        print(f"  {prompt:6} {response:8} {count:2}{sides} {seconds[1] / seconds[0]:6.2f} {products:8.2f}", flush=True)
        found[name] = results
    return found


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("POSTERIOR_BIN", ROOT / "target/release/posterior")
    parser.add_argument("--posterior", type=Path, default=default, help="the program")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=1, help="turns of each side")
    parser.add_argument("--steps", type=int, default=3, help="timed steps a turn")
    parser.add_argument("--batch", type=int, default=4, help="prompts a step")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument(
        "--shapes", nargs="+", type=shape_of, metavar="PROMPTxRESPONSExK", help="a table of these instead of cases"
    )
    parser.add_argument("--json", type=Path, help="also write every number there")
    return parser.parse_args()


def main():
    options = parse()
    print(f"{os.cpu_count()} cores, {options.threads} threads a side; load before: {os.getloadavg()[0]:.1f}")
    print(f"SmolLM2-135M-Instruct, f32, all weights, {options.batch} prompts a step", flush=True)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        run([options.posterior, "--quiet", "convert", "--model", find_model(), "--out", directory / "model"], options.threads)
        found = table(options, directory) if options.shapes else {}
        for case in options.cases if not options.shapes else []:
            write_rows(directory, case, CASES[case], (WARM_UP + options.steps) * options.batch)
            shared = Posterior(options, directory, True)
            if CASES[case]["count"] == 2:
                sides = [shared, Trl(options, directory, False), Trl(options, directory, True)]
            else:
                sides = [shared, Posterior(options, directory, False)]
            results = measure(options, sides, case)
            report(case, results)
            sys.stdout.flush()
            found[case] = results
        print(f"\nLoad after: {os.getloadavg()[0]:.1f}; above {options.threads}, others computed too, and no figure here is good")
        if options.json:
            settings = {key: str(value) for key, value in vars(options).items()}
            options.json.write_text(json.dumps({"options": settings, **found}, indent=1))


if __name__ == "__main__":
    main()
