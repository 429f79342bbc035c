"""Preferences by a known reward, learned and measured: the whole way with a real model.

    bench/run sentiment [--out DIRECTORY] [--cases pairs rankings ppo reward lora] [--answers 8] [--learning-rate 1e-5]

SmolLM2-135M-Instruct answers 120 prompts, eight times each. The answers are judged by VADER's lexicon (Hutto & Gilbert
2014): the sum s of the valences of an answer's words, as s / sqrt(s² + 15). Labels see each word as one of its ten raters
saw it, drawn anew each time; the true reward is that of the raters' means. An answer is in one pair and in one ranking of
four. The model is tuned to the pairs and to the rankings, whole and by adapters, a reward model is trained, and PPO tunes
the model to the raters' means with as many answers judged as the labels have. Metrics of comparisons under 30 prompts about
other things are printed, and at the end `posterior frontier` lets all of them answer those prompts: the true reward and the
divergence from the model that it was, with standard errors.

It takes about an hour on two cores. The lexicon is that of the package vaderSentiment (MIT).
"""

import argparse
import ast
import importlib.util
import json
import math
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sft import ROOT, find_model

THINGS = [
    "a rainy holiday", "the first day at school", "an old bicycle", "a crowded train", "the food at a hospital", "a lost dog",
    "a new neighbour", "the winter sea", "a long meeting", "a birthday cake", "a broken phone", "a small garden", "a night bus",
    "a cheap hotel", "the dentist", "an exam", "a wedding", "a storm", "a library", "a traffic jam", "a football match",
    "a cold soup", "a kind teacher", "a late letter", "a hard winter", "a quiet street", "an empty fridge", "a loud concert",
    "a slow computer", "a farewell", "a ripe peach", "an old castle", "a flat tyre", "a summer night", "a difficult boss",
    "a zoo", "a queue", "a campfire", "a diet", "a surprise", "a haircut", "a museum", "a tax form", "a picnic", "a power cut",
    "a mountain path", "a noisy fan", "a clean kitchen", "a missed flight", "a friendly cat",
]
FORMS = ["Write one short sentence about {}.", "Say in a few words what you think of {}.", "Describe {} in one short sentence."]
# <|im_end|> of this model: an answer that was cut has another last token.
END = 2
# Most tokens of an answer.
TOKENS = 64


def lexicon_file():
    package = importlib.util.find_spec("vaderSentiment")
    if package is None:
        sys.exit("the package vaderSentiment is not there; bench/run uses the parity suite's environment, which has it")
    [directory] = package.submodule_search_locations
    return Path(directory) / "vader_lexicon.txt"


def lexicon():
    words = {}
    for line in lexicon_file().read_text(encoding="utf-8").splitlines():
        word, mean, _, ratings = line.split("\t")
        words[word] = float(mean), ast.literal_eval(ratings)
    return words


def reward(text, words, rng=None):
    """The text's reward, or with `rng` what a rater might say of it."""
    found = (words.get(word) for word in re.findall(r"[a-z']+", text.lower()))
    total = sum(rng.choice(word[1]) if rng else word[0] for word in found if word)
    return total / math.sqrt(total * total + 15)


class Program:
    def __init__(self, options):
        self.options = options

    def run(self, *arguments):
        command = [self.options.posterior, "--quiet", "--format", "json", "--threads", self.options.threads, *arguments]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stderr}")
        # Texts may have separators of other kinds, which splitlines would cut at.
        return [json.loads(line) for line in done.stdout.split("\n") if line]

    def answers(self, model, prompts, seed):
        """Answers to each prompt, those of them that came to their end."""
        count = self.options.answers
        lines = self.run(
            *["--seed", seed, "generate", "--model", model, "--prompts", prompts, "--samples", count],
            *["--max-new-tokens", TOKENS, "--batch-size", 32],
        )
        texts = [line["text"] if line["token_ids"][-1] == END else None for line in lines]
        groups = [texts[start : start + count] for start in range(0, len(texts), count)]
        return [[text for text in group if text is not None] for group in groups]


def user(text):
    return [{"role": "user", "content": text}]


def assistant(text):
    return [{"role": "assistant", "content": text}]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Labels:
    """What raters said of answers, as pairs and as rankings of at most four."""

    def __init__(self, prompts, answers, words, rng):
        self.pairs, self.rankings = [], []
        right = []
        for text, found in zip(prompts, answers):
            labelled = [(reward(answer, words, rng), reward(answer, words), answer) for answer in found]
            for first, second in zip(labelled[::2], labelled[1::2]):
                # No label tells equals apart.
                if first[0] == second[0]:
                    continue
                worse, better = sorted([first, second])
                right.append(better[1] > worse[1])
                self.pairs.append({"prompt": user(text), "chosen": assistant(better[2]), "rejected": assistant(worse[2])})
            for start in range(0, len(labelled), 4):
                several = labelled[start : start + 4]
                if len({label for label, _, _ in several}) >= 2:
                    # Equal labels are ties.
                    completions = [{"rank": -label, "completion": assistant(answer)} for label, _, answer in several]
                    self.rankings.append({"prompt": user(text), "completions": completions})
        self.agreement = statistics.mean(right)


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("POSTERIOR_BIN", ROOT / "target/release/posterior")
    parser.add_argument("--posterior", type=Path, default=default, help="the program")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="keep data, runs and plot in this new directory")
    parser.add_argument("--answers", type=int, default=8, help="answers to each prompt that are labelled")
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--epochs", type=int, default=2, help="how often DPO sees the labels")
    parser.add_argument("--learning-rate", type=float, default=1e-5, help="ten times that for adapters")
    parser.add_argument("--kl-target", type=float, default=1.0, help="PPO's divergence in nats")
    cases = ["pairs", "rankings", "ppo", "reward", "lora"]
    parser.add_argument("--cases", nargs="+", choices=cases, default=cases)
    return parser.parse_args()


def experiment(options, directory):
    words, program, rng = lexicon(), Program(options), random.Random(5)
    texts = [form.format(thing) for thing in THINGS for form in FORMS]
    # The last ten things are for the end only.
    training, held_out = texts[:-30], texts[-30:]
    rng.shuffle(training)
    base = directory / "base"
    program.run("convert", "--model", find_model(), "--out", base)
    prompts, labels = {}, {}
    for seed, (name, of) in enumerate([("training", training), ("held-out", held_out)], start=1):
        prompts[name] = write(directory / f"{name}.jsonl", [{"prompt": user(text)} for text in of])
        found = program.answers(base, prompts[name], seed)
        labels[name] = Labels(of, found, words, rng)
        print(
            f"{name}: {len(of)} prompts, {sum(map(len, found))} of {options.answers * len(of)} answers ended; "
            f"{len(labels[name].pairs)} pairs, which the true reward orders alike in {labels[name].agreement:.1%}; "
            f"{len(labels[name].rankings)} rankings of up to four",
            flush=True,
        )

    def data(kind):
        paths = [write(directory / f"{name}-{kind}.jsonl", getattr(of, kind)) for name, of in labels.items()]
        return ["--data", paths[0], "--eval-data", paths[1], "--eval-every", 1_000_000]

    rate = options.learning_rate
    dpo = ["dpo", "--beta", options.beta, "--warmup-steps", 5, "--epochs", options.epochs]
    # Four rankings of four have as many answers as eight pairs.
    pairs, rankings = [*data("pairs"), "--batch-size", 8], [*data("rankings"), "--batch-size", 4]
    per_step = 8
    commands = {
        "pairs": [*dpo, *pairs, "--learning-rate", rate],
        "rankings": [*dpo, *rankings, "--learning-rate", rate],
        "lora": [*dpo, *pairs, "--learning-rate", 10 * rate, "--lora-rank", 16],
        "reward": ["reward", *rankings, "--learning-rate", rate, "--warmup-steps", 5],
        "ppo": [
            *["ppo", "--data", prompts["training"], "--reward-lexicon", lexicon_file(), "--learning-rate", rate],
            *["--batch-size", per_step, "--samples", 4, "--max-new-tokens", TOKENS, "--missing-end-penalty", 0.5],
            *["--ppo-epochs", 2, "--kl-target", options.kl_target, "--kl-coefficient", 0.1, "--kl-horizon", 300],
            *["--max-steps", len(training) * options.answers // (4 * per_step)],
        ],
    }
    runs = []
    for case in options.cases:
        run = directory / case
        began = time.perf_counter()
        program.run(*commands[case], "--model", base, "--out", run, "--log-every", 1, "--save-every", 0)
        seconds = time.perf_counter() - began
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        steps = sum("loss" in line for line in lines)
        if case == "ppo":
            last = lines[-5:]
            keys = ["objective/scores", "objective/kl"]
            numbers = {key: statistics.mean(line[key] for line in last if key in line) for key in keys}
        else:
            evaluation = [line for line in lines if "eval_loss" in line][-1]
            keys = ["eval_accuracy", "eval_margin", "eval_calibration_error"]
            if case != "reward":
                keys = ["eval_rewards/accuracies", "eval_rewards/margins"]
            numbers = {key: evaluation[key] for key in keys}
        if case != "reward":
            runs.append(run)
        written = ", ".join(f"{key} {value:.3f}" for key, value in numbers.items())
        print(f"  {case:9} {steps:3} steps in {seconds:4.0f} s: {written}", flush=True)
    if not runs:
        return
    [judged] = program.run(
        *["--seed", 99, "frontier", *runs, "--data", prompts["held-out"], "--reward-lexicon", lexicon_file()],
        *["--samples", options.answers, "--max-new-tokens", TOKENS, "--plot", directory / "frontier.svg"],
    )
    print(f"\nAnswers to the held-out prompts, {options.answers} each")
    for one in judged:
        values = (f"{key} {one[key]['mean']:6.3f} ± {one[key]['error']:.3f}" for key in ["reward", "kl"])
        print(f"  {Path(one['run']).name:9} {'   '.join(values)}   ended {one['ended']:.0%}", flush=True)


def main():
    options = parse()
    if options.out:
        options.out.mkdir(parents=True)
        experiment(options, options.out)
    else:
        with tempfile.TemporaryDirectory() as name:
            experiment(options, Path(name))


if __name__ == "__main__":
    main()
