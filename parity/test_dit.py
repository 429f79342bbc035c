"""The diffusion transformer against the same network written in PyTorch: outputs, gradients, training, sampling.

Single precision on both sides. A value here passes through some twenty products of up to a few hundred terms, each
rounded to 6e-8 relative, in another order on each side.
"""

import json

import dit
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from schedulers import text
from support import posterior

OUTPUT = 1e-5
GRADIENT = 1e-4
LOSS = 1e-3

CONFIGS = {
    "grey": {"channels": 1, "height": 8, "width": 8, "patch_size": 2, "hidden_size": 32, "depth": 2, "heads": 2},
    "colour_oblong": {"channels": 3, "height": 8, "width": 12, "patch_size": 4, "hidden_size": 48, "depth": 3, "heads": 4},
    "single_pixels": {"channels": 1, "height": 4, "width": 4, "patch_size": 1, "hidden_size": 24, "depth": 1, "heads": 1},
    "fashion": {"channels": 1, "height": 28, "width": 28, "patch_size": 4, "hidden_size": 192, "depth": 6, "heads": 4},
}


def relative(ours, theirs):
    """The greatest difference, in units of the tensor's root mean square."""
    ours, theirs = ours.double(), theirs.double()
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / theirs.square().mean().sqrt().clamp_min(1e-30)).item()


@pytest.mark.parametrize("classes", [0, 10])
@pytest.mark.parametrize("name", CONFIGS)
def test_outputs_and_gradients(probe, tmp_path, name, classes):
    config = {"kind": "dit", **CONFIGS[name], "mlp_ratio": 4, "classes": classes}
    weights, given, answer = (tmp_path / f"{file}.safetensors" for file in ("weights", "input", "answer"))
    probe("network", network=config, weights=str(weights))
    fresh = load_file(weights)
    network = dit.load(config, weights)
    # Every parameter has its place on both sides, and a fresh network is silent.
    assert set(dit.from_project(fresh)) == set(dict(network.named_parameters()))
    generator = torch.Generator().manual_seed(0)
    batch, size = 5, config["channels"] * config["height"] * config["width"]
    noise = torch.tensor([-1.5, -0.4, 0.0, 0.3, 1.2], dtype=torch.float64)
    labels = [None] * batch if classes == 0 else [0, 3, classes - 1, None, 3]
    images, cotangent = torch.randn(2, batch, size, generator=generator)
    indices = torch.tensor([classes if label is None else label for label in labels])
    assert network(images, noise, indices).abs().max() == 0
    # Weights of ordinary size everywhere, so that no gate is closed.
    random = {
        key: torch.randn(tensor.shape, generator=generator) / (tensor.shape[0] ** 0.5 if tensor.ndim == 2 else 10)
        for key, tensor in fresh.items()
    }
    save_file(random, weights, metadata={"format": "pt"})
    save_file({"input": images, "cotangent": cotangent}, given)
    probe(
        "network",
        network=config,
        weights=str(weights),
        input=str(given),
        answer=str(answer),
        noise=noise.tolist(),
        classes=labels,
    )
    ours = load_file(answer)
    network = dit.load(config, weights)
    images.requires_grad_()
    output = network(images, noise, indices)
    (output * cotangent).sum().backward()
    assert relative(ours.pop("output"), output) < OUTPUT
    assert relative(ours.pop("input_gradient"), images.grad) < GRADIENT
    gradients = dit.from_project(ours)
    parameters = dict(network.named_parameters())
    assert set(gradients) == set(parameters)
    for key, parameter in parameters.items():
        assert relative(gradients[key], parameter.grad) < GRADIENT, key


def train_in_pytorch(probe, directory, settings):
    """The project's first steps on the digits, and the same in PyTorch on the batches that it saw."""
    document = probe("train", config=settings, directory=str(directory))
    batches = load_file(directory / "batches.safetensors")
    network = dit.load(document["network"], directory / "start/weights.safetensors")
    optimizer = torch.optim.AdamW(network.parameters(), lr=1.0)
    average = EMAModel(network.parameters(), decay=settings["ema-decay"])
    classes = document["network"]["classes"]
    losses, norms = [], []
    for number, step in enumerate(document["steps"]):
        noise = torch.tensor(step["noise"], dtype=torch.float64)
        labels = torch.tensor([classes if label is None else label for label in step["classes"]])
        output = network(batches[f"input.{number}"], noise, labels)
        error = (output - batches[f"target.{number}"]).square().mean(dim=1)
        loss = (batches[f"weight.{number}"][:, 0] * error).mean()
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(network.parameters(), settings["max-grad-norm"]).item())
        optimizer.param_groups[0]["lr"] = step["metrics"]["learning_rate"]
        optimizer.step()
        average.step(network.parameters())
        losses.append(loss.item())
    return document, network, average, losses, norms


@pytest.mark.parametrize("prediction", ["edm", "v"])
def test_twenty_training_steps(probe, tmp_path, prediction):
    settings = {
        "data": "digits",
        "seed": 5,
        "patch-size": 2,
        "hidden-size": 64,
        "depth": 3,
        "heads": 4,
        "prediction": prediction,
        "batch-size": 32,
        "max-steps": 20,
        "warmup-steps": 5,
        "learning-rate": 1e-3,
        "max-grad-norm": 1.0,
        "ema-decay": 0.999,
    }
    document, network, average, losses, norms = train_in_pytorch(probe, tmp_path, settings)
    ours = [step["metrics"] for step in document["steps"]]
    assert len(ours) == 20
    # Classes are hidden now and then, so both kinds of rows are trained.
    hidden = [label is None for step in document["steps"] for label in step["classes"]]
    assert 0 < sum(hidden) < len(hidden) / 4
    assert losses[-1] < 0.9 * losses[0]
    np.testing.assert_allclose([step["loss"] for step in ours], losses, rtol=LOSS)
    np.testing.assert_allclose([step["grad_norm"] for step in ours], norms, rtol=10 * LOSS)
    for file, theirs in [("weights", list(network.parameters())), ("average", average.shadow_params)]:
        tensors = dit.from_project(load_file(tmp_path / f"end/{file}.safetensors"))
        start = dit.from_project(load_file(tmp_path / "start/weights.safetensors"))
        for (key, _), other in zip(network.named_parameters(), theirs, strict=True):
            # AdamW moves each weight by about the learning rate a step, whatever the gradient's size: where a gradient
            # is nearly 0 its sign is rounding. So the ways are compared as a whole, not weight by weight.
            way, difference = other.detach() - start[key], tensors[key] - other.detach()
            assert difference.norm() < 1e-2 * way.norm(), key


def test_samples(probe, tmp_path):
    """A model that the program trained, sampled by the program and by PyTorch with diffusers' DDIM."""
    run, samples, count, steps = tmp_path / "run", tmp_path / "samples", 6, 10
    sizes = ["--patch-size", 2, "--hidden-size", 32, "--depth", 2, "--heads", 2]
    posterior(
        *["--seed", 3, "diffusion", "train", "--data", "digits", "--prediction", "v", "--levels", "uniform"],
        *["--max-steps", 60, "--batch-size", 32, "--warmup-steps", 5, "--ema-decay", 0.9, *sizes, "--out", run],
    )
    scheduler = DDIMScheduler(prediction_type="v_prediction", clip_sample=False)
    path = tmp_path / "scheduler_config.json"
    path.write_text(text(scheduler))
    posterior(
        *["--seed", 11, "diffusion", "sample", "--run", run, "--out", samples, "--count", count],
        *["--scheduler-config", path, "--steps", steps],
    )
    ours = np.load(samples / "samples.npy").reshape(count, -1)
    labels = np.load(samples / "labels.npy")

    config = json.loads((run / "model/config.json").read_text())
    network = dit.load(config["network"], run / "model/model.safetensors").eval()
    data_std = config["data"]["root_mean_square"]
    size = ours.shape[1]
    state = torch.tensor(probe("start", seed=11, samples=count, size=size), dtype=torch.float32)
    scheduler.set_timesteps(steps)
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            alpha_bar = scheduler.alphas_cumprod[timestep].double()
            sigma = ((1 - alpha_bar) / alpha_bar).sqrt().item()
            # The network sees the variance-exploding state at unit variance, and ln(sigma) / 4.
            scale = (1 + sigma**2) ** 0.5 / (data_std**2 + sigma**2) ** 0.5
            noise = torch.full([count], dit.sigma_to_noise(sigma), dtype=torch.float64)
            output = network(state * scale, noise, torch.tensor(labels).long())
            state = scheduler.step(output, timestep, state).prev_sample
    # The digits' range of 0 to 16, as the network's -1 to 1.
    theirs = (state.numpy() + 1) * 8
    assert ours.std() > 1
    # Ten passes through the network, and diffusers' constants in single precision.
    np.testing.assert_allclose(ours, theirs, atol=16 * 1e-3)
