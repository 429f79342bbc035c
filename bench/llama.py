"""A training step of a small Llama: `posterior sft` against plain PyTorch, in one run.

    bench/run llama [--steps 6] [--repetitions 3] [--compile] [--preload LIBRARY]

A random Llama of 34 million parameters (width 512, 8 layers of 8 heads, inner width 1,376, vocabulary 8,192, a head of
its own) that transformers made is trained by both sides: 4 sequences of 256 tokens a step, all weights, all tokens
learned, single precision, AdamW. A turn is a process of either side; turns alternate, so that whatever else the machine
does meets all. Ratios are ours over theirs: of times, below 1 the program is faster. See README.md for what is in a
step.
"""

import argparse
import json
import os
import random
import shlex
import statistics
import sys
import tempfile
from pathlib import Path

from dit import processor
from sft import ROOT, run

HERE = Path(__file__).resolve().parent
# Untimed steps at the start of each turn: the first touch of memory, the optimiser's averages, compilation.
WARM_UP = 2
# What both sides are told. TRL's and PyTorch's other defaults are the same.
LEARNING_RATE, WEIGHT_DECAY = 1e-4, 0.01
# Losses of all sides' first steps agree to this, gradients' lengths to this share.
LOSS, GRADIENT = 1e-3, 1e-3
# What the program tells glibc's allocator about itself: keep freed memory. PyTorch leaves it at its defaults.
KEEP = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str((1 << 31) - 1),
    "MALLOC_TOP_PAD_": str(64 << 20),
}


class Work:
    """A model's directory and rows for it, and what a step of it is."""

    def __init__(self, options, directory, *, steps, sequences, length, **config):
        self.options, self.directory = options, directory
        self.steps, self.sequences, self.length, self.products = steps, sequences, length, None
        self.config = {
            "num_key_value_heads": config["num_attention_heads"],
            "max_position_embeddings": length,
            "tie_word_embeddings": False,
            "bos_token_id": None,
            "eos_token_id": 1,
            **config,
        }
        directory.mkdir()
        self.facts = self.pytorch("make", {"config": self.config})[0]
        self.write_tokenizer()
        self.write_rows()

    def write_tokenizer(self):
        """A word a token."""
        words = ["<unk>", "<end>", *(f"w{number}" for number in range(2, self.config["vocab_size"]))]
        end = {"id": 1, "content": "<end>", "special": True}
        end.update({key: False for key in ("single_word", "lstrip", "rstrip", "normalized")})
        tokenizer = {
            "version": "1.0",
            **{key: None for key in ("truncation", "padding", "normalizer", "post_processor", "decoder")},
            "added_tokens": [end],
            "pre_tokenizer": {"type": "WhitespaceSplit"},
            "model": {
                "type": "WordLevel",
                "vocab": {word: number for number, word in enumerate(words)},
                "unk_token": "<unk>",
            },
        }
        (self.directory / "model/tokenizer.json").write_text(json.dumps(tokenizer))
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<end>", "unk_token": "<unk>"}
        (self.directory / "model/tokenizer_config.json").write_text(json.dumps(settings))

    def write_rows(self):
        """As many rows as all steps take, each of as many words as a sequence has tokens."""
        rng = random.Random(0)
        with (self.directory / "rows.jsonl").open("w") as file:
            for _ in range(self.steps * self.sequences):
                words = [f"w{rng.randrange(2, self.config['vocab_size'])}" for _ in range(self.length)]
                file.write(json.dumps({"text": " ".join(words)}) + "\n")

    def pytorch(self, work, settings, variables=None):
        """What llama_pytorch.py answers, in a process of its own, and its peak memory. PyTorch stays out of this
        process: a child's peak memory counts from what its parent had when it was started."""
        settings = {**settings, "threads": self.options.threads}
        command = [sys.executable, HERE / "llama_pytorch.py", work, self.directory, json.dumps(settings)]
        output, peak = run(command, self.options.threads, variables)
        return json.loads(output.splitlines()[-1]), peak

    def layers(self):
        """Inputs, outputs and number of the layers of one kind."""
        width, inner, depth = (self.config[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers"))
        head = (width, self.config["vocab_size"], 1)
        return [(width, width, 4 * depth), (width, inner, 2 * depth), (inner, width, depth), head]

    def operations(self):
        """Of the products of a step; FORMULA says the same in words."""
        tokens = self.sequences * self.length
        weights = sum(inputs * outputs * count for inputs, outputs, count in self.layers())
        pairs = self.sequences * self.length * (self.length + 1) // 2
        attention = self.config["num_hidden_layers"] * 4 * self.config["hidden_size"] * pairs
        return 3 * (2 * tokens * weights + attention)

    def measure_products(self):
        """Times PyTorch's products of the step's layers; of all such measurements the best count."""
        tokens = self.sequences * self.length
        layers = [[tokens, inputs, outputs] for inputs, outputs, _ in self.layers()]
        found, _ = self.pytorch("products", {"layers": layers})
        self.products = [min(pair) for pair in zip(self.products or found, found)]

    def rate(self):
        """Operations a second of these products, each as often as it occurs."""
        layers, tokens = self.layers(), self.sequences * self.length
        operations = sum(3 * 2 * tokens * inputs * outputs * count for inputs, outputs, count in layers)
        return operations / sum(seconds * count for seconds, (*_, count) in zip(self.products, layers))


FORMULA = (
    "3 x (2 x tokens x weights of the layers and the head + layers x 4 x width x pairs of tokens that see each other)"
)


class Posterior:
    """The program; its own clock times each step."""

    name = "posterior"

    def turn(self, work):
        options = work.options
        with tempfile.TemporaryDirectory(dir=work.directory) as out:
            _, peak = run(
                [
                    *[options.posterior, "--quiet", "--format", "json", "--threads", options.threads, "sft"],
                    *[
                        "--model",
                        work.directory / "model",
                        "--data",
                        work.directory / "rows.jsonl",
                        "--out",
                        f"{out}/run",
                    ],
                    *["--shuffle", "false", "--max-length", work.length, "--batch-size", work.sequences],
                    *["--max-steps", work.steps, "--learning-rate", LEARNING_RATE, "--weight-decay", WEIGHT_DECAY],
                    *[
                        "--learning-rate-schedule",
                        "constant",
                        "--max-grad-norm",
                        1,
                        "--log-every",
                        1,
                        "--save-every",
                        0,
                    ],
                ],
                options.threads,
            )
            lines = [json.loads(line) for line in Path(f"{out}/run/metrics.jsonl").read_text().splitlines()]
        steps = [line for line in lines if "step_seconds" in line]
        names = {"seconds": "step_seconds", "num_tokens": "num_tokens", "loss": "loss", "grad_norm": "grad_norm"}
        return {**{name: [step[key] for step in steps] for name, key in names.items()}, "peak": peak}


class PyTorch:
    """llama_pytorch.py with some settings and environment variables."""

    def __init__(self, name="PyTorch", adamw="fused", compiled=False, variables=None):
        self.name, self.adamw, self.compiled, self.variables = name, adamw, compiled, variables

    def turn(self, work):
        settings = {
            "tied": work.config["tie_word_embeddings"],
            "length": work.length,
            "batch": work.sequences,
            "learning_rate": LEARNING_RATE,
            "weight_decay": WEIGHT_DECAY,
            "adamw": self.adamw,
            "compiled": self.compiled,
            "preload": (self.variables or {}).get("LD_PRELOAD"),
        }
        answer, peak = work.pytorch("train", settings, self.variables)
        return {**answer, "peak": peak}


def take_turns(work, sides, repetitions):
    """The turns of each side by its name."""
    results = {side.name: [] for side in sides}
    for _ in range(repetitions):
        for side in sides:
            results[side.name].append(side.turn(work))
        work.measure_products()
    return results


def check(work, results):
    """All sides did the same work: rows in the order of the file, the same tokens, the same steps.

    Losses alone would say little, as a random model foretells nothing; the gradient's length, and the losses after the
    first step, tell one text and one optimiser from another.
    """
    turns = [(name, turn) for name, turns in results.items() for turn in turns]
    [(_, first), *others] = turns
    tokens = work.sequences * work.length
    for name, turn in turns:
        if turn["num_tokens"] != [tokens * (step + 1) for step in range(work.steps)]:
            sys.exit(f"{name} saw other than {tokens} tokens a step: {turn['num_tokens']}")
    for name, turn in others:
        for key, tolerance in (("loss", LOSS), ("grad_norm", GRADIENT * first["grad_norm"][0])):
            own, other = (side[key][: WARM_UP + 1] for side in (first, turn))
            if not all(abs(mine - theirs) <= tolerance for mine, theirs in zip(own, other)):
                sys.exit(f"the sides began otherwise: {key} of posterior {own}, of {name} {other}")


def timed(turn):
    return turn["seconds"][WARM_UP:]


def summary(turns):
    """Median step of all, that of the best turn, and peak memory."""
    medians = [statistics.median(timed(turn)) for turn in turns]
    everything = [seconds for turn in turns for seconds in timed(turn)]
    return statistics.median(everything), min(medians), max(turn["peak"] for turn in turns)


def report(work, results, own_rate):
    tokens, operations, rate = work.sequences * work.length, work.operations(), work.rate()
    mine = summary(results["posterior"])
    times = f"{'step':>9} {'ratio':>6} {'best turn':>10} {'ratio':>6} {'tokens/s':>9}"
    print(f"\n  {'':22} {times} {'peak memory':>12} {'ratio':>6} {'of products':>12}")
    for name, turns in results.items():
        median, best, peak = found = summary(turns)
        ratios = ["" if name == "posterior" else f"{own / other:.2f}" for own, other in zip(mine, found)]
        times = f"{median:7.3f} s {ratios[0]:>6} {best:8.3f} s {ratios[1]:>6} {tokens / median:9.0f}"
        print(f"  {name:22} {times} {peak:9.0f} MB {ratios[2]:>6} {operations / median / rate:12.0%}")
    alone = max(turn.get("libraries", 0.0) for turns in results.values() for turn in turns)
    print(f"\nPyTorch's libraries are {alone:.0f} MB of its memory before there is a network")
    print(f"Ratios: ours over theirs. Operations of a step: {operations / 1e9:.1f} GFLOP, as {FORMULA}.")
    floor = operations / rate
    print(f"PyTorch's products of these shapes alone: {rate / 1e9:.0f} GFLOP/s, so {floor:.3f} s is the floor")
    if own_rate:
        share = operations / mine[0] / own_rate
        print(f"The program's own products: {own_rate / 1e9:.0f} GFLOP/s; the program's step is at {share:.0%} of them")


def first_steps(results):
    """How far the other sides' first steps are from the program's."""
    [first, *_] = results["posterior"]
    found = {}
    for key in ("loss", "grad_norm"):
        others = [turn[key][: WARM_UP + 1] for turns in results.values() for turn in turns]
        found[key] = max(abs(own - other) for values in others for own, other in zip(first[key], values))
    losses = ", ".join(f"{loss:.5f}" for loss in first["loss"][: WARM_UP + 1])
    return (
        f"First losses: {losses}; the other sides' are within {found['loss']:.1e}, and their gradients' lengths, "
        f"{first['grad_norm'][0]:.3f} at first, within {found['grad_norm']:.1e}"
    )


def better_adamw(work):
    """Which of PyTorch's ways to do AdamW in one call makes the quicker step here."""
    sides = [PyTorch(name, adamw=name) for name in ("foreach", "fused")]
    found = {name: summary(turns)[1] for name, turns in take_turns(work, sides, 1).items()}
    times = ", ".join(f"{name} {seconds:.3f} s a step" for name, seconds in found.items())
    print(f"PyTorch's AdamW: {times}", flush=True)
    return min(found, key=found.get)


def parser(description):
    """Options that every benchmark with these sides has."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("POSTERIOR_BIN", ROOT / "target/release/posterior")
    found.add_argument("--posterior", type=Path, default=default, help="the program")
    found.add_argument("--threads", type=int, default=2)
    found.add_argument("--json", type=Path, help="also write every number there")
    return found


def begin(options):
    load = f"load before: {os.getloadavg()[0]:.1f}"
    print(f"{processor()}, {os.cpu_count()} cores, {options.threads} threads a side; {load}", flush=True)


def end(options, found):
    load = os.getloadavg()[0]
    print(f"\nLoad after: {load:.1f}; above {options.threads}, others computed too, and no figure here is good")
    if options.json:
        settings = {key: str(value) for key, value in vars(options).items()}
        options.json.write_text(json.dumps({"options": settings, **found}, indent=1))


def own_products(options):
    """Operations a second of the program's own products, as a command says in its last word."""
    if options.products is None:
        return None
    output, _ = run(shlex.split(options.products), options.threads)
    return float(output.split()[-1]) * 1e9


def parse():
    arguments = parser(__doc__)
    arguments.add_argument("--repetitions", type=int, default=3, help="turns of each side")
    arguments.add_argument("--steps", type=int, default=6, help="timed steps a turn")
    arguments.add_argument("--sequences", type=int, default=4, help="sequences a step")
    arguments.add_argument("--length", type=int, default=256, help="tokens of a sequence")
    sizes = {"width": 512, "inner": 1376, "depth": 8, "heads": 8, "vocabulary": 8192}
    for name, value in sizes.items():
        arguments.add_argument(f"--{name}", type=int, default=value)
    arguments.add_argument(
        "--adamw", choices=["foreach", "fused"], help="PyTorch's AdamW, instead of trying both first"
    )
    arguments.add_argument(
        "--compile", action="store_true", help="torch.compile as another side (needs a C++ compiler)"
    )
    arguments.add_argument(
        "--preload", metavar="LIBRARY", help="another side: PyTorch with this allocator, as libjemalloc.so.2"
    )
    arguments.add_argument(
        "--products", metavar="COMMAND", help="a command that ends in the GFLOP/s of the program's own products"
    )
    return arguments.parse_args()


def main():
    options = parse()
    begin(options)
    with tempfile.TemporaryDirectory() as name:
        work = Work(
            options,
            Path(name) / "llama",
            steps=WARM_UP + options.steps,
            sequences=options.sequences,
            length=options.length,
            hidden_size=options.width,
            intermediate_size=options.inner,
            num_hidden_layers=options.depth,
            num_attention_heads=options.heads,
            vocab_size=options.vocabulary,
        )
        layers = f"width {options.width}, {options.depth} layers of {options.heads} heads, inner width {options.inner}"
        print(f"Llama: {layers}, vocabulary {options.vocabulary}, a head of its own")
        print(f"{work.facts['parameters']} parameters, single precision; torch {work.facts['torch']}")
        print(f"{options.sequences} x {options.length} tokens a step", flush=True)
        adamw = options.adamw or better_adamw(work)
        sides = [Posterior(), PyTorch(adamw=adamw), PyTorch("PyTorch, memory kept", adamw, variables=KEEP)]
        if options.preload:
            library = Path(options.preload).name.split(".")[0]
            sides.append(PyTorch(f"PyTorch, {library}", adamw, variables={"LD_PRELOAD": options.preload}))
        if options.compile:
            cache = {**KEEP, "TORCHINDUCTOR_CACHE_DIR": f"{name}/compiled"}
            sides.append(PyTorch("PyTorch, compiled", adamw, compiled=True, variables=cache))
        results = take_turns(work, sides, options.repetitions)
        check(work, results)
        own_rate = own_products(options)
        print(first_steps(results))
        report(work, results, own_rate)
        rates = {
            "operations": work.operations(),
            "operations_per_second": work.rate(),
            "own_operations_per_second": own_rate,
        }
        end(options, {"sides": results, **rates})


if __name__ == "__main__":
    main()
