"""PyTorch's side of llama.py and lengths.py: does one piece of work, and prints in JSON what came of it.

    llama_pytorch.py make|train|products DIRECTORY SETTINGS

The network is written out here in plain PyTorch, which is as quick as transformers' own and leaves transformers and its
memory out. Both sides get the same weights, of transformers' LlamaForCausalLM, and llama.py compares their losses.
PyTorch is used as well as it can be: scaled_dot_product_attention, its own root mean square norm, AdamW in one call,
gradients that are dropped and not overwritten with zeros.
"""

import json
import resource
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional


class Norm(nn.Module):
    def __init__(self, width, epsilon):
        super().__init__()
        self.weight, self.epsilon = nn.Parameter(torch.ones(width)), epsilon

    def forward(self, state):
        return functional.rms_norm(state, self.weight.shape, self.weight, self.epsilon)


def rotate(state, cos, sin):
    """Rotary positions, in transformers' arrangement: the first half of a head's numbers with the second."""
    first, second = state.chunk(2, dim=-1)
    return state * cos + torch.cat((-second, first), dim=-1) * sin


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, self.heads = config["hidden_size"], config["num_attention_heads"]
        for name in "qkvo":
            setattr(self, f"{name}_proj", nn.Linear(width, width, bias=False))

    def forward(self, state, cos, sin):
        heads = [
            layer(state).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        ]
        queries, keys, values = rotate(heads[0], cos, sin), rotate(heads[1], cos, sin), heads[2]
        found = functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        return self.o_proj(found.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, inner = config["hidden_size"], config["intermediate_size"]
        self.gate_proj, self.up_proj = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, state):
        return self.down_proj(functional.silu(self.gate_proj(state)) * self.up_proj(state))


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.self_attn, self.mlp = Attention(config), Mlp(config)
        self.input_layernorm = Norm(config["hidden_size"], config["rms_norm_eps"])
        self.post_attention_layernorm = Norm(config["hidden_size"], config["rms_norm_eps"])

    def forward(self, state, cos, sin):
        state = state + self.self_attn(self.input_layernorm(state), cos, sin)
        return state + self.mlp(self.post_attention_layernorm(state))


class Llama(nn.Module):
    """Gives the loss, so that torch.compile sees all of it. Its weights are named as transformers names them."""

    def __init__(self, config):
        super().__init__()
        width = config["hidden_size"]
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(config["vocab_size"], width)
        self.model.layers = nn.ModuleList(Block(config) for _ in range(config["num_hidden_layers"]))
        self.model.norm = Norm(width, config["rms_norm_eps"])
        self.lm_head = nn.Linear(width, config["vocab_size"], bias=False)
        if config["tie_word_embeddings"]:
            self.lm_head.weight = self.model.embed_tokens.weight
        half = width // config["num_attention_heads"] // 2
        frequencies = config["rope_parameters"]["rope_theta"] ** (-torch.arange(half) / half)
        angles = torch.arange(config["max_position_embeddings"])[:, None] * frequencies.repeat(2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, tokens):
        cos, sin = self.cos[: tokens.shape[1]], self.sin[: tokens.shape[1]]
        state = self.model.embed_tokens(tokens)
        for layer in self.model.layers:
            state = layer(state, cos, sin)
        # The last token foretells nothing that is there.
        logits = self.lm_head(self.model.norm(state)[:, :-1])
        return functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def make(directory, settings):
    """A random model as transformers makes and writes it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**settings["config"]))
    model.save_pretrained(directory / "model")
    return {"parameters": model.num_parameters(), "torch": torch.__version__}


def read_tokens(directory, length):
    """The rows that the program reads, by the vocabulary of its tokenizer, a word a token."""
    vocabulary = json.loads((directory / "model/tokenizer.json").read_text())["model"]["vocab"]
    rows = [json.loads(line)["text"].split() for line in (directory / "rows.jsonl").read_text().splitlines()]
    return torch.tensor([[vocabulary[word] for word in row[:length]] for row in rows])


def libraries():
    """The peak of memory in megabytes when PyTorch has trained a layer of one number, and loaded what that takes."""
    layer = nn.Linear(1, 1)
    layer(torch.ones(1, 1)).sum().backward()
    torch.optim.AdamW(layer.parameters()).step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def train(directory, settings):
    """The seconds of each step: forward, loss, backward, clipping, AdamW, gradients away."""
    from safetensors.torch import load_file

    preload = settings["preload"]
    # A library that is not found is a warning of the loader's only.
    if preload and Path(preload).name not in Path("/proc/self/maps").read_text():
        sys.exit(f"{preload} was not loaded")
    alone = libraries()
    network = Llama(json.loads((directory / "model/config.json").read_text()))
    network.load_state_dict(load_file(directory / "model/model.safetensors"), strict=not settings["tied"])
    tokens = read_tokens(directory, settings["length"])
    parameters = list(network.parameters())
    groups = [
        {
            "params": [parameter for parameter in parameters if parameter.ndim > 1],
            "weight_decay": settings["weight_decay"],
        },
        {"params": [parameter for parameter in parameters if parameter.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings["learning_rate"], **{settings["adamw"]: True})
    forward = torch.compile(network) if settings["compiled"] else network
    answer = {"libraries": alone, "seconds": [], "num_tokens": [], "loss": [], "grad_norm": []}
    for batch in tokens.split(settings["batch"]):
        began = time.perf_counter()
        loss = forward(batch)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        answer["loss"].append(loss.item())
        answer["seconds"].append(time.perf_counter() - began)
        answer["grad_norm"].append(norm.item())
        answer["num_tokens"].append(batch.numel() + (answer["num_tokens"] or [0])[-1])
    return answer


def products(_, settings):
    """The seconds of a layer's three products, each alone: forward, for the gradient of what goes in, and for the
    gradient of the weights. The best of ten times."""
    found = []
    for rows, inputs, outputs in settings["layers"]:
        into, weight, out = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(rows, outputs)
        seconds = 0.0
        for left, right in ((into, weight.t()), (out, weight), (out.t(), into)):
            times = []
            for _ in range(10):
                began = time.perf_counter()
                torch.mm(left, right)
                times.append(time.perf_counter() - began)
            seconds += min(times)
        found.append(seconds)
    return found


def main():
    work, directory, settings = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    torch.set_num_threads(settings["threads"])
    print(json.dumps({"make": make, "train": train, "products": products}[work](directory, settings)))


if __name__ == "__main__":
    main()
