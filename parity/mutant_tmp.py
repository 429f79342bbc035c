"""Proximal policy optimisation against a plain PyTorch implementation of the papers: every metric of every step, and the
weights at the end.

What is followed: Schulman et al. 2017 (the clipped loss), Schulman et al. 2016 (advantages), Ziegler et al. 2019 (rewards,
whitening, the controller of the price), Huang et al. 2024, "The N+ Implementation Details of RLHF with PPO"; leave-one-out as
Ahmadian et al. 2024, group-relative as Shao et al. 2024.

The program's answers are taken from samples.jsonl as tokens, so that random numbers need not agree. All else is worked out
here by itself, one text at a time through transformers, in double precision: in single precision PyTorch is further from that
than the program is.
"""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import regex
import texts
import torch
from language_models import randomize, write_rows, write_tiny_model
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from support import double_precision, posterior
from test_sft import assert_same_way, tensors
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

RELATIVE, ABSOLUTE = 1e-4, 1e-5
pytestmark = pytest.mark.usefixtures("one_thread")
PROMPTS, SAMPLES, STEPS = 4, 4, 3
RUN = {
    "batch_size": PROMPTS,
    "samples": SAMPLES,
    "max_new_tokens": 12,
    "max_length": 128,
    "max_steps": STEPS,
    "learning_rate": 2e-3,
    "learning_rate_schedule": "constant",
    "shuffle": False,
    "log_every": 1,
    "save_every": 0,
    "show_every": 1,
    "show_prompts": 1000,
}
# What the program says are its own, but for whitening, which is on with values only.
DEFAULTS = {
    "temperature": 1.0,
    "missing_end_penalty": 1.0,
    "kl_coefficient": 0.05,
    "kl_target": None,
    "kl_horizon": 10_000,
    "advantage": "gae",
    "discount": 1.0,
    "gae_lambda": 0.95,
    "whiten_rewards": True,
    "whiten_advantages": True,
    "ppo_epochs": 4,
    "clip_range": 0.2,
    "value_clip_range": 0.2,
    "value_coefficient": 0.1,
}
OF_GROUPS = {"whiten_rewards": False, "whiten_advantages": False}
OF_VALUES = ["loss/value_avg", "val/clipfrac_avg"]
# Random texts have few words but letters. Special tokens are no part of them: "im" and "end" would count otherwise.
VALENCES = {letter: (5 * place % 17 - 8) / 4 for place, letter in enumerate("abcdefghijklmnopqrstuvwxyzÉ'")}
VALENCES |= {"the": 3.0, "in": -1.7, "'s": 1.7, "im": 3.5, "end": -3.5}
ENDS = 30


@pytest.fixture(scope="module")
def ending(tmp_path_factory):
    """Directories of tiny models by family, of which some answers end: many tokens are end tokens."""
    made = {}

    def of(family, **more):
        key = family, *sorted(more.items())
        if key not in made:
            directory = write_tiny_model(family, tmp_path_factory.mktemp(family), **more)
            tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)
            ends = [tokenizer.eos_token_id, *range(len(tokenizer) - ENDS, len(tokenizer))]
            (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
            made[key] = directory
        return made[key]

    return of


@pytest.fixture(scope="module")
def lexicon(tmp_path_factory):
    path = tmp_path_factory.mktemp("lexicon") / "words.txt"
    path.write_text("".join(f"{word}\t{valence}\n" for word, valence in VALENCES.items()), encoding="utf-8")
    return path


def prompts(count=PROMPTS * STEPS):
    rows = [row for row in texts.questions(1) if len(row["prompt"]) < 26]
    return [{"prompt": row["prompt"]} for row in rows[:count]]


class Ours:
    """A run of `posterior ppo`."""

    def __init__(self, model, rows, directory, **settings):
        data, run = write_rows(directory / "rows.jsonl", rows), directory / "run"
        spelled = {key: str(value).lower() if isinstance(value, bool) else value for key, value in {**RUN, **settings}.items()}
        given = [part for key, value in spelled.items() for part in (f"--{key.replace('_', '-')}", value)]
        posterior("ppo", "--model", model, "--data", data, "--out", run, *given)
        self.model = run / "model"
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        self.steps = [line for line in lines if "loss" in line]
        self.answers = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]

    def of_step(self, number):
        return [answer for answer in self.answers if answer["step"] == number]


def valence(text):
    words = regex.findall(r"[\p{Alphabetic}']+", text.lower())
    known = {word.lower(): valence for word, valence in VALENCES.items()}
    total = sum(known.get(word, 0.0) for word in words)
    return total / (total**2 + 15) ** 0.5


def look(network, temperature, head, answer):
    """The log-probabilities of all tokens at each place of an answer, of those that it has, and the values there."""
    prompt, tokens = answer["prompt_token_ids"], answer["token_ids"]
    out = network(torch.tensor([prompt + tokens]), output_hidden_states=True)
    places = slice(len(prompt) - 1, len(prompt) + len(tokens) - 1)
    table = (out.logits[0, places] / temperature).log_softmax(-1)
    return table, table.gather(-1, torch.tensor(tokens)[:, None])[:, 0], out.hidden_states[-1][0, places] @ head


def whiten(values, keep_mean):
    white = (values - values.mean()) / (values.var(correction=0) + 1e-8).sqrt()
    return white + values.mean() if keep_mean else white


def gae(rewards, values, discount, lam):
    """Schulman et al. 2016, equation 16, as the sum that it is."""
    count = len(rewards)
    following = torch.cat([values[1:], torch.zeros(1)])
    surprise = rewards + discount * following - values
    return torch.stack([sum((discount * lam) ** (k - t) * surprise[k] for k in range(t, count)) for t in range(count)])


def compared(earned, kind):
    """Of each answer, against the others to its prompt."""
    groups = earned.reshape(-1, SAMPLES)
    if kind == "leave-one-out":
        others = [[group[[k for k in range(SAMPLES) if k != own]].mean() for own in range(SAMPLES)] for group in groups]
        return (groups - torch.tensor(others)).flatten()
    assert kind == "group-relative"
    return ((groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-8)).flatten()


class Theirs:
    """The same steps in PyTorch, of the answers that the program drew."""

    def __init__(self, network, reference, tokenizer, ends, score, settings):
        self.network, self.reference = network, reference.requires_grad_(False)
        self.tokenizer, self.ends, self.score = tokenizer, ends, score
        whitening = {} if settings.get("advantage", "gae") == "gae" else OF_GROUPS
        self.settings = SimpleNamespace(**{**DEFAULTS, **whitening, **settings})
        self.has_values = self.settings.advantage == "gae"
        self.coefficient = self.settings.kl_coefficient
        self.head = torch.zeros(network.config.hidden_size, dtype=torch.float64, requires_grad=self.has_values)
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.trained = trained + [self.head] * self.has_values
        rate = settings.get("learning_rate", RUN["learning_rate"])
        self.optimizer = torch.optim.AdamW(self.trained, lr=rate, betas=(0.9, 0.999), eps=1e-5, weight_decay=0.0)

    def ended(self, answer):
        return answer["token_ids"][-1] in self.ends

    def look(self, answers):
        """Now, of all tokens in a row: log-probabilities, values, entropies."""
        found = [look(self.network, self.settings.temperature, self.head, answer) for answer in answers]
        entropies = [-(table.exp() * table).sum(-1) for table, _, _ in found]
        of_tokens = ([own for _, own, _ in found], [values for _, _, values in found], entropies)
        return (torch.cat(parts) for parts in of_tokens)

    def prepare(self, answers):
        """Log-probabilities, values, advantages and returns of a step's tokens; the metrics of its answers."""
        settings, lengths = self.settings, [len(answer["token_ids"]) for answer in answers]
        with torch.no_grad():
            old, values, _ = self.look(answers)
            before = torch.cat([look(self.reference, settings.temperature, self.head, answer)[1] for answer in answers])
        difference = old - before
        ended = [self.ended(answer) for answer in answers]
        penalties = [0.0 if own else settings.missing_end_penalty for own in ended]
        scores = [self.score(answer) - penalty for answer, penalty in zip(answers, penalties)]
        scores = torch.tensor(scores)
        kl = torch.stack([part.sum() for part in difference.split(lengths)])
        if self.has_values:
            rewards = -self.coefficient * difference
            rewards[torch.tensor(lengths).cumsum(0) - 1] += scores
            if settings.whiten_rewards:
                rewards = whiten(rewards, True)
            parts = zip(rewards.split(lengths), values.split(lengths))
            advantages = torch.cat([gae(*part, settings.discount, settings.gae_lambda) for part in parts])
        else:
            earned = compared(scores - self.coefficient * kl, settings.advantage)
            advantages = earned.repeat_interleave(torch.tensor(lengths))
        returns = advantages + values
        if settings.whiten_advantages:
            advantages = whiten(advantages, False)
        third = (-difference).exp() - 1 + difference
        metrics = {
            "objective/kl": kl.mean(),
            "objective/kl_k3": third.sum() / len(answers),
            "objective/entropy": -old.sum() / len(answers),
            "objective/non_score_reward": -self.coefficient * kl.mean(),
            "objective/rlhf_reward": (scores - self.coefficient * kl).mean(),
            "objective/scores": scores.mean(),
            "objective/kl_coef": self.coefficient,
            "completions/mean_length": sum(lengths) / len(answers),
            "val/num_eos_tokens": sum(ended),
        }
        of_answers = {"score": scores.tolist(), "kl": kl.tolist()}
        return (old, values, advantages, returns), metrics, of_answers

    def update(self, answers, old, old_values, advantages, returns):
        """One, of all answers. What is found of each token, and the gradient's norm."""
        settings = self.settings
        log_probs, values, entropies = self.look(answers)
        ratios = (log_probs - old).exp()
        plain, bounded = -advantages * ratios, -advantages * ratios.clamp(1 - settings.clip_range, 1 + settings.clip_range)
        of_policy = torch.maximum(plain, bounded)
        near = values.clamp(old_values - settings.value_clip_range, old_values + settings.value_clip_range)
        errors, near_errors = (values - returns) ** 2, (near - returns) ** 2
        of_values = 0.5 * torch.maximum(errors, near_errors) * self.has_values
        loss = of_policy.mean() + settings.value_coefficient * of_values.mean()
        self.optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        found = {
            "loss": of_policy + settings.value_coefficient * of_values,
            "loss/policy_avg": of_policy,
            "loss/value_avg": of_values,
            "policy/approxkl_avg": 0.5 * (log_probs - old) ** 2,
            "policy/clipfrac_avg": (bounded > plain).double(),
            "val/clipfrac_avg": (near_errors > errors).double(),
            "policy/entropy_avg": entropies,
            "val/ratio": ratios,
        }
        return {key: values.detach() for key, values in found.items()}, norm.item()

    def step(self, answers):
        """The metrics, and scores and divergences of the answers."""
        ready, metrics, of_answers = self.prepare(answers)
        updates = [self.update(answers, *ready) for _ in range(self.settings.ppo_epochs)]
        of_tokens = {key: torch.cat([found[key] for found, _ in updates]) for key in updates[0][0]}
        metrics |= {key: values.mean() for key, values in of_tokens.items() if self.has_values or key not in OF_VALUES}
        metrics["val/ratio_var"] = of_tokens["val/ratio"].var(correction=0)
        metrics["grad_norm"] = np.mean([norm for _, norm in updates])
        if self.settings.kl_target is not None:
            error = np.clip(metrics["objective/kl"].item() / self.settings.kl_target - 1, -0.2, 0.2)
            self.coefficient *= 1 + error * len(answers) / self.settings.kl_horizon
        return {key: float(value) for key, value in metrics.items()}, of_answers


def check(ours, theirs):
    """Every number of every step."""
    assert len(ours.steps) == STEPS
    history = []
    for number, line in enumerate(ours.steps, 1):
        answers = ours.of_step(number)
        assert len(answers) == PROMPTS * SAMPLES
        for answer in answers:
            tokens = answer["token_ids"]
            assert answer["response"] == theirs.tokenizer.decode(tokens, skip_special_tokens=True)
            # Nothing follows an end, and nothing but an end comes before the greatest length.
            assert not set(tokens[:-1]) & theirs.ends
            assert len(tokens) == RUN["max_new_tokens"] or theirs.ended(answer)
        with double_precision():
            metrics, of_answers = theirs.step(answers)
        for key, values in of_answers.items():
            found = [answer[key] for answer in answers]
            np.testing.assert_allclose(found, values, rtol=RELATIVE, atol=ABSOLUTE, err_msg=f"{key} of step {number}")
        for key, value in metrics.items():
            np.testing.assert_allclose(line[key], value, rtol=RELATIVE, atol=ABSOLUTE, err_msg=f"{key} of step {number}")
        # Theirs says everything that ours does.
        assert {key for key in line if "/" in key} == {key for key in metrics if "/" in key}
        history.append(metrics)
    ended = [line["val/num_eos_tokens"] for line in history]
    assert min(ended) > 0 and max(ended) < PROMPTS * SAMPLES
    assert len({answer["score"] for answer in ours.answers}) > 5
    # The policy goes so far that there is a divergence, and that the bound holds some tokens back.
    assert all(0.05 < line["policy/clipfrac_avg"] < 0.8 for line in history)
    assert history[-1]["objective/kl_k3"] > 0.05
    return history


def open_model(place):
    model = AutoModelForCausalLM.from_pretrained(place).double().eval()
    # Otherwise Gemma would not learn token 0 where it is read, for which its configuration says that it pads.
    model.get_input_embeddings().padding_idx = None
    return model


def in_torch(directory, settings, open_network=open_model, open_reference=None, score=None):
    """The networks are opened at `directory` unless they are opened otherwise; words are counted unless there is a score."""
    ends = set(json.loads((directory / "generation_config.json").read_text())["eos_token_id"])
    tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)
    network, reference = open_network(directory), (open_reference or open_network)(directory)

    def of_words(answer):
        return valence(tokenizer.decode(answer["token_ids"], skip_special_tokens=True))

    return Theirs(network, reference, tokenizer, ends, score or of_words, settings)


def assert_same_weights(directory, ours, theirs):
    files = (place / "model.safetensors" for place in (directory, ours.model))
    assert_same_way(*map(load_file, files), tensors(theirs.network))


VARIANTS = {
    "plain": {},
    "steered": {
        "temperature": 0.7, "discount": 0.9, "gae_lambda": 0.8, "kl_target": 1.0, "kl_horizon": 100, "ppo_epochs": 3,
        "kl_coefficient": 0.2, "missing_end_penalty": 0.3, "clip_range": 0.1, "value_clip_range": 0.02, "value_coefficient": 0.7,
    },
    "unwhitened": {"whiten_rewards": False, "whiten_advantages": False},
    "leave_one_out": {"advantage": "leave-one-out"},
    "group_relative": {"advantage": "group-relative", "temperature": 1.3},
    "whitened": {"advantage": "leave-one-out", "whiten_advantages": True, "kl_target": 2.0, "kl_horizon": 50},
}


@pytest.mark.parametrize("kind", VARIANTS)
def test_variants(ending, lexicon, tmp_path, kind):
    directory, settings = ending("llama"), VARIANTS[kind]
    ours = Ours(directory, prompts(), tmp_path, reward_lexicon=lexicon, **settings)
    theirs = in_torch(directory, settings)
    history = check(ours, theirs)
    prices = {line["objective/kl_coef"] for line in history}
    assert len(prices) == (STEPS if "kl_target" in settings else 1)
    if "value_clip_range" in settings:
        assert history[0]["val/clipfrac_avg"] > 0.05
    assert_same_weights(directory, ours, theirs)


@pytest.mark.parametrize("family", ["qwen3", "gemma", "gpt2"])
def test_families(ending, lexicon, tmp_path, family):
    # Logits by tied embeddings are large, and texts repeat themselves, if those are not small.
    directory = ending(family, embedding=0.1)
    ours, theirs = Ours(directory, prompts(), tmp_path, reward_lexicon=lexicon), in_torch(directory, {})
    check(ours, theirs)
    assert_same_weights(directory, ours, theirs)


@pytest.mark.parametrize("parts", [{"accumulate": 2}, {"micro_batch_tokens": 100}, {"rollout_batch": 3}], ids=str)
def test_parts(ending, lexicon, tmp_path, parts):
    """Parts of different lengths make the same step."""
    directory = ending("llama")
    ours, theirs = Ours(directory, prompts(), tmp_path, reward_lexicon=lexicon, **parts), in_torch(directory, {})
    check(ours, theirs)
    assert_same_weights(directory, ours, theirs)


def test_another_reference(ending, lexicon, tmp_path):
    """Divergence has its price from the first step on."""
    directory, other, settings = ending("llama"), ending("llama", size=0.2), {"kl_coefficient": 0.3}
    ours = Ours(directory, prompts(), tmp_path, reward_lexicon=lexicon, reference=other, **settings)
    history = check(ours, in_torch(directory, settings, open_reference=lambda _: open_model(other)))
    assert history[0]["objective/kl"] > 0.5


@pytest.mark.parametrize("advantage, rate", [("gae", 5e-3), ("leave-one-out", 2e-3)])
def test_adapters(ending, lexicon, tmp_path, advantage, rate):
    """The reference is the model with the adapter as it was, which is not nothing here."""
    directory, adapter = ending("llama"), tmp_path / "start"
    settings = {"advantage": advantage, "learning_rate": rate}
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    torch.manual_seed(4)
    get_peft_model(AutoModelForCausalLM.from_pretrained(directory), config).save_pretrained(adapter)
    ours = Ours(adapter, prompts(), tmp_path, reward_lexicon=lexicon, **settings)

    def adapted(directory):
        return PeftModel.from_pretrained(open_model(directory), adapter, is_trainable=True).double().eval()

    theirs = in_torch(directory, settings, adapted)
    history = check(ours, theirs)
    if advantage == "gae":
        assert history[-1]["val/clipfrac_avg"] > 0.05
    theirs.network.save_pretrained(tmp_path / "end")
    assert_same_way(*(load_file(place / "adapter_model.safetensors") for place in (adapter, ours.model, tmp_path / "end")))


def test_a_reward_model(ending, tmp_path):
    """Its score is that of the answer's last token, whether that is an end or not."""
    directory, judge = ending("llama"), tmp_path / "judge"
    config = AutoConfig.from_pretrained(directory, num_labels=1, pad_token_id=None)
    torch.manual_seed(5)
    model = randomize(LlamaForSequenceClassification(config).eval(), size=0.12, embedding=0.3, bias=0.1)
    model.save_pretrained(judge)
    PreTrainedTokenizerFast.from_pretrained(directory).save_pretrained(judge)
    ours = Ours(directory, prompts(), tmp_path, reward_model=judge)

    def score(answer):
        with torch.no_grad():
            return model(torch.tensor([answer["prompt_token_ids"] + answer["token_ids"]])).logits.item()

    check(ours, in_torch(directory, {}, score=score))


def test_answers_are_the_policys(ending, lexicon, tmp_path):
    """At its temperature: the tokens of many answers surprise the policy by its entropy, up to chance."""
    directory, temperature = ending("llama"), 0.7
    settings = {"temperature": temperature, "samples": 100, "max_steps": 1, "ppo_epochs": 1}
    ours = Ours(directory, prompts(PROMPTS), tmp_path, reward_lexicon=lexicon, **settings)
    network, head = open_model(directory), torch.zeros(32, dtype=torch.float64)

    def surprise(assumed):
        """In standard deviations."""
        beyond, variance = 0.0, 0.0
        for answer in ours.answers:
            with torch.no_grad():
                table, chosen, _ = look(network, assumed, head, answer)
            entropy = -(table.exp() * table).sum(-1)
            beyond += (-chosen - entropy).sum()
            variance += ((table.exp() * table**2).sum(-1) - entropy**2).sum()
        return (beyond / variance.sqrt()).item()

    assert abs(surprise(temperature)) < 3
    # Another temperature would be noticed.
    assert all(abs(surprise(other)) > 6 for other in (0.6, 0.8))
