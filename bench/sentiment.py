"""Preferences by a known reward, learned and measured: the whole way with a real model.

    bench/run sentiment [--prompts 120] [--cases pairs rankings lora reward ppo] [--learning-rate 2e-6]

SmolLM2-135M-Instruct answers prompts, four times each. The answers are labelled by VADER's lexicon (Hutto & Gilbert 2014):
the sum s of the valences of an answer's words, as s / sqrt(s² + 15). The labels see each word as one of its ten raters saw it,
drawn anew each time; the true reward is that of the raters' means. Then the model is tuned to pairs (two of the four answers)
and to rankings of all four, whole and by adapters, a reward model is trained, and PPO tunes the model to the raters' means. What comes out answers prompts about other
things, and its mean true reward and its distance from the model that it was are printed with their standard errors, beside
the metrics of held-out comparisons.

It takes about half an hour on two cores. The lexicon is that of the package vaderSentiment (MIT).
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
        return [json.loads(line) for line in done.stdout.splitlines()]

    def answers(self, model, prompts, directory, seed):
        """Four answers to each prompt, those of them that came to their end."""
        path = directory / "prompts.jsonl"
        write(path, [{"prompt": prompt} for prompt in prompts])
        lines = self.run(
            *["--seed", seed, "generate", "--model", model, "--prompts", path, "--samples", 4, "--max-new-tokens", 48],
            *["--batch-size", 32],
        )
        found = [[] for _ in prompts]
        for number, line in enumerate(lines):
            if line["token_ids"][-1] == END:
                found[number // 4].append(line["text"])
        return found


def user(text):
    return [{"role": "user", "content": text}]


def assistant(text):
    return [{"role": "assistant", "content": text}]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def mean(values):
    return statistics.mean(values), statistics.stdev(values) / math.sqrt(len(values))


def measure(program, model, base, prompts, words, directory):
    """Mean true reward of fresh answers, and the distance from the base, with standard errors; an answer."""
    answers = program.answers(model, prompts, directory, seed=99)
    rewards = [reward(text, words) for found in answers for text in found]
    kept = [(prompt, found) for prompt, found in zip(prompts, answers) if found]
    rows = [{"prompt": prompt, "responses": [assistant(text) for text in found]} for prompt, found in kept]
    # Both of the texts, whose tokens need not be those that were drawn.
    path = write(directory / "answers.jsonl", rows)
    after, before = (program.run("score", "--model", name, "--data", path) for name in (model, base))
    differences = [
        own["log_prob"] - other["log_prob"]
        for one, two in zip(after, before)
        for own, other in zip(one["responses"], two["responses"])
    ]
    return mean(rewards), mean(differences), kept[0][1][0]


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("POSTERIOR_BIN", ROOT / "target/release/posterior")
    parser.add_argument("--posterior", type=Path, default=default, help="the program")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=120, help="prompts that are labelled; of all, 30 are for the end")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--learning-rate", type=float, default=5e-6, help="of all weights; of adapters forty times that")
    parser.add_argument("--ppo-steps", type=int, default=40, help="steps of PPO, of 16 prompts with 4 answers each")
    cases = ["pairs", "rankings", "lora", "reward", "ppo"]
    parser.add_argument("--cases", nargs="+", choices=cases, default=cases)
    return parser.parse_args()


def main():
    options = parse()
    words, program, rng = lexicon(), Program(options), random.Random(5)
    texts = [form.format(thing) for thing in THINGS for form in FORMS]
    # The last ten things are for the end only.
    training, held_out = texts[:-30], texts[-30:]
    rng.shuffle(training)
    training = training[: options.prompts]
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        base = directory / "base"
        program.run("convert", "--model", find_model(), "--out", base)
        pairs, rankings = [], []
        for text, found in zip(training, program.answers(base, [user(text) for text in training], directory, seed=1)):
            labelled = [(reward(answer, words, rng), answer) for answer in found]
            if len(labelled) >= 2 and labelled[0][0] != labelled[1][0]:
                (_, worse), (_, better) = sorted(labelled[:2])
                pairs.append({"prompt": user(text), "chosen": assistant(better), "rejected": assistant(worse)})
            if len({label for label, _ in labelled}) >= 2:
                # Equal labels are ties.
                completions = [{"rank": -label, "completion": assistant(answer)} for label, answer in labelled]
                rankings.append({"prompt": user(text), "completions": completions})
        data = {
            "pairs": write(directory / "pairs.jsonl", pairs),
            "rankings": write(directory / "rankings.jsonl", rankings),
            "prompts": write(directory / "training.jsonl", [{"prompt": user(text)} for text in training]),
        }
        print(f"{len(pairs)} pairs and {len(rankings)} rankings of up to four, labelled by one rater a word", flush=True)
        prompts = [user(text) for text in held_out]

        def report(name, model):
            (value, error), (kl, kl_error), answer = measure(program, model, base, prompts, words, directory)
            print(f"  {name:10} true reward {value:.3f} ± {error:.3f}   KL {kl:6.2f} ± {kl_error:.2f}   \"{answer}\"", flush=True)

        print("\nAnswers to 30 other prompts, four each")
        report("before", base)
        for case in options.cases:
            run = directory / case
            # Of whatever is learned from labels.
            labelled = [
                *["--epochs", options.epochs, "--batch-size", 8, "--held-out", 20, "--eval-every", 1000],
            ]
            settings = {
                "pairs": ["dpo", "--data", data["pairs"], "--learning-rate", options.learning_rate, "--beta", options.beta],
                "rankings": ["dpo", "--data", data["rankings"], "--learning-rate", options.learning_rate, "--beta", options.beta],
                "lora": [
                    *["dpo", "--data", data["pairs"], "--learning-rate", 40 * options.learning_rate, "--beta", options.beta],
                    *["--lora-rank", 16],
                ],
                "reward": ["reward", "--data", data["rankings"], "--learning-rate", 2 * options.learning_rate],
                "ppo": [
                    *["ppo", "--data", data["prompts"], "--learning-rate", options.learning_rate],
                    *["--reward-lexicon", lexicon_file(), "--batch-size", 16, "--samples", 4, "--max-new-tokens", 48],
                    *["--max-steps", options.ppo_steps],
                ],
            }[case]
            [command, *settings] = settings
            program.run(
                *[command, "--model", base, "--out", run, *settings, *([] if command == "ppo" else labelled)],
                *["--log-every", 1, "--save-every", 0],
            )
            lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            steps = [line for line in lines if "loss" in line]
            # Of PPO the last step's answers, on prompts that it learns from.
            evaluation = [line for line in lines if "eval_loss" in line or "objective/kl" in line][-1]
            if command == "ppo":
                report(case, run / "model")
                keys = ["objective/scores", "objective/kl"]
            elif command == "dpo":
                report(case, run / "model")
                keys = ["eval_rewards/accuracies", "eval_rewards/margins", "kl"]
            else:
                print(f"  {case}")
                keys = ["eval_accuracy", "eval_margin", "eval_calibration_error"]
            numbers = ", ".join(f"{key} {evaluation[key]:.3f}" for key in keys)
            seconds = sum(line["step_seconds"] for line in steps)
            where = "last step" if command == "ppo" else "held out"
            print(f"  {'':10} {where}: {numbers}; {len(steps)} steps, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
