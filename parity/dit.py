"""The diffusion transformer of Peebles & Xie 2023 in plain PyTorch, as the project configures it.

Written from the paper and from the description of the project's network, not from its code: patches in, adaLN-zero
blocks, patches out; noise level by sines and cosines, class by a table whose last row stands for none. It loads a
`model.safetensors` of the project by name and is also what the benchmarks run on PyTorch's side.
"""

import math

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

FREQUENCIES = 32
SLOWEST, FASTEST = 0.5, 50.0


def noise_waves(noise):
    """Sines, then cosines, of the noise coordinate ln(sigma) / 4 at geometric frequencies: [batch, 64]."""
    frequencies = SLOWEST * (FASTEST / SLOWEST) ** (torch.arange(FREQUENCIES, dtype=torch.float64) / (FREQUENCIES - 1))
    angles = noise.double()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def place_codes(rows, columns, width):
    """Sines and cosines of column, then of row: [rows · columns, width]."""
    quarter = width // 4
    frequencies = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)

    def code(place):
        angles = place.double()[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.cat([code(column.flatten()), code(row.flatten())], dim=1)


class Block(nn.Module):
    def __init__(self, width, heads, ratio):
        super().__init__()
        self.heads = heads
        self.modulation = nn.Linear(width, 6 * width)
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.expand = nn.Linear(width, ratio * width)
        self.contract = nn.Linear(ratio * width, width)

    def forward(self, tokens, condition):
        parts = self.modulation(condition).chunk(6, dim=1)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = (part[:, None] for part in parts)
        width = tokens.shape[-1]
        normed = functional.layer_norm(tokens, (width,), eps=1e-6) * (1 + scale_a) + shift_a
        query, key, value = self.qkv(normed).unflatten(-1, (3, self.heads, width // self.heads)).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        tokens = tokens + gate_a * self.projection(attended)
        normed = functional.layer_norm(tokens, (width,), eps=1e-6) * (1 + scale_m) + shift_m
        return tokens + gate_m * self.contract(functional.gelu(self.expand(normed), approximate=GELU))


# The paper's code uses the tanh approximation.
GELU = "tanh"


class Conditions(nn.Module):
    def __init__(self, width, classes):
        super().__init__()
        self.noise_in = nn.Linear(2 * FREQUENCIES, width)
        self.noise_out = nn.Linear(width, width)
        self.class_table = nn.Parameter(torch.zeros(classes + 1, width)) if classes else None

    def forward(self, noise, classes):
        waves = noise_waves(noise).to(self.noise_in.weight.dtype)
        embedded = self.noise_out(functional.silu(self.noise_in(waves)))
        return embedded if self.class_table is None else embedded + self.class_table[classes]


class Dit(nn.Module):
    """Takes [batch, channels · height · width], noise [batch] and classes [batch] (the number of classes for none)."""

    def __init__(self, channels, height, width, patch_size, hidden_size, depth, heads, mlp_ratio, classes):
        super().__init__()
        self.sizes = channels, height // patch_size, width // patch_size, patch_size
        values = channels * patch_size**2
        self.conditions = Conditions(hidden_size, classes)
        self.patch_in = nn.Linear(values, hidden_size)
        self.blocks = nn.ModuleList(Block(hidden_size, heads, mlp_ratio) for _ in range(depth))
        self.modulation = nn.Linear(hidden_size, 2 * hidden_size)
        self.patch_out = nn.Linear(hidden_size, values)
        self.register_buffer("places", place_codes(self.sizes[1], self.sizes[2], hidden_size).float(), persistent=False)

    def forward(self, images, noise, classes=None):
        channels, rows, columns, patch = self.sizes
        condition = functional.silu(self.conditions(noise, classes))
        patches = images.view(-1, channels, rows, patch, columns, patch).permute(0, 2, 4, 1, 3, 5)
        tokens = self.patch_in(patches.reshape(len(images), rows * columns, -1)) + self.places
        for block in self.blocks:
            tokens = block(tokens, condition)
        shift, scale = (part[:, None] for part in self.modulation(condition).chunk(2, dim=1))
        tokens = functional.layer_norm(tokens, tokens.shape[-1:], eps=1e-6) * (1 + scale) + shift
        patches = self.patch_out(tokens).view(-1, rows, columns, channels, patch, patch).permute(0, 3, 1, 4, 2, 5)
        return patches.reshape(images.shape)


def named(name):
    """The name of a parameter here, from its name in the project's file."""
    return name.split(".", 1)[1]


def from_project(tensors):
    """Parameters of [`Dit`] from a file of the project's: there a matrix is [inputs, outputs], here the transpose."""
    return {
        named(name): tensor.T.contiguous() if name.endswith(".weight") else tensor for name, tensor in tensors.items()
    }


def load(config, path):
    """The network of a configuration (the `network` of `config.json`) with the weights of a file."""
    network = Dit(**{name: value for name, value in config.items() if name != "kind"})
    network.load_state_dict(from_project(load_file(path)))
    return network


def sigma_to_noise(sigma):
    """The noise coordinate that the network is told."""
    return min(max(math.log(sigma), -8.0), 8.0) / 4
