"""AdamW, clipping and the running average against PyTorch and diffusers, over 50 steps of given gradients.

Both sides keep single-precision state. They may differ by the rounding of each of the 50 steps (6e-8 relative each),
which averages out to well under 1e-6 of the values.
"""

import numpy as np
import pytest
import torch
from diffusers.training_utils import EMAModel

TOLERANCE = 1e-6
STEPS = 50
SHAPES = [(64,), (7, 33), (1,), (1000,)]
DEFAULTS = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weight-decay": 0.01, "max-grad-norm": None}


def relative(ours, theirs):
    """The greatest difference over all steps and tensors, in units of each tensor's own size at that step."""
    worst = 0.0
    for ours_tensors, theirs_tensors in zip(ours, theirs, strict=True):
        for mine, other in zip(ours_tensors, theirs_tensors, strict=True):
            mine = np.array(mine, dtype=np.float32).reshape(other.shape)
            size = np.sqrt(np.mean(other.astype(np.float64) ** 2))
            worst = max(worst, np.abs(mine.astype(np.float64) - other).max() / size)
    return worst


def run(probe, adamw, ema_decay=0.999, gradient_size=1.0, rates=None):
    rng = np.random.default_rng(3)
    parameters = [rng.standard_normal(shape, dtype=np.float32) for shape in SHAPES]
    # Gradients over six orders of magnitude: small ones are where epsilon shows.
    scales = [gradient_size * scale for scale in (1.0, 1e-3, 1e-6, 1e-2)]
    gradients = [
        [np.float32(scale) * rng.standard_normal(shape, dtype=np.float32) for scale, shape in zip(scales, SHAPES)]
        for _ in range(STEPS)
    ]
    rates = rates or [1e-2] * STEPS
    ours = probe(
        "optimize",
        adamw={**DEFAULTS, **adamw},
        ema_decay=ema_decay,
        parameters=[parameter.ravel().tolist() for parameter in parameters],
        gradients=[[gradient.ravel().tolist() for gradient in step] for step in gradients],
        learning_rates=rates,
    )
    settings = {**DEFAULTS, **adamw}
    module = torch.nn.ParameterList([torch.nn.Parameter(torch.tensor(parameter)) for parameter in parameters])
    optimizer = torch.optim.AdamW(
        module.parameters(),
        lr=1.0,
        betas=(settings["beta1"], settings["beta2"]),
        eps=settings["epsilon"],
        weight_decay=settings["weight-decay"],
    )
    average = EMAModel(module.parameters(), decay=ema_decay)
    theirs = {"parameters": [], "average": [], "norm": []}
    for step, rate in zip(gradients, rates):
        for parameter, gradient in zip(module.parameters(), step):
            parameter.grad = torch.tensor(gradient)
        limit = settings["max-grad-norm"] or float("inf")
        theirs["norm"].append(torch.nn.utils.clip_grad_norm_(module.parameters(), limit).item())
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        average.step(module.parameters())
        theirs["parameters"].append([parameter.detach().numpy().copy() for parameter in module.parameters()])
        theirs["average"].append([shadow.numpy().copy() for shadow in average.shadow_params])
    return {name: [step[name] for step in ours] for name in theirs}, theirs


@pytest.mark.parametrize(
    "adamw",
    [
        {},
        {"weight-decay": 0.0},
        {"weight-decay": 0.3},
        {"beta1": 0.5, "beta2": 0.9},
        {"epsilon": 1e-3},
        {"max-grad-norm": 1.0},
    ],
    ids=lambda adamw: "-".join(f"{name}={value}" for name, value in adamw.items()) or "defaults",
)
def test_adamw(probe, adamw):
    ours, theirs = run(probe, adamw)
    assert relative(ours["parameters"], theirs["parameters"]) < TOLERANCE
    np.testing.assert_allclose(ours["norm"], theirs["norm"], rtol=TOLERANCE)


def test_the_defaults_are_pytorchs():
    defaults = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))]).defaults
    assert defaults["betas"] == (DEFAULTS["beta1"], DEFAULTS["beta2"])
    assert (defaults["eps"], defaults["weight_decay"]) == (DEFAULTS["epsilon"], DEFAULTS["weight-decay"])


@pytest.mark.parametrize("gradient_size", [0.01, 1.0, 100.0])
def test_clipping_by_the_norm_over_all_parameters(probe, gradient_size):
    ours, theirs = run(probe, {"max-grad-norm": 1.0}, gradient_size=gradient_size)
    # The case of each size: never, always, always.
    assert all(norm > 1.0 for norm in theirs["norm"]) == (gradient_size >= 1.0)
    assert any(norm > 1.0 for norm in theirs["norm"]) == (gradient_size >= 1.0)
    np.testing.assert_allclose(ours["norm"], theirs["norm"], rtol=TOLERANCE)
    assert relative(ours["parameters"], theirs["parameters"]) < TOLERANCE


def test_a_rate_that_changes(probe):
    """Warm-up from 0 and a cosine: the first step changes nothing but the moments."""
    rates = [1e-2 * min(step / 10, 0.5 * (1 + np.cos(np.pi * step / STEPS))) for step in range(STEPS)]
    ours, theirs = run(probe, {}, rates=rates)
    assert relative(ours["parameters"], theirs["parameters"]) < TOLERANCE


@pytest.mark.parametrize("ema_decay", [0.0, 0.5, 0.999])
def test_average(probe, ema_decay):
    """diffusers' EMAModel with its own warm-up, (1 + n) / (10 + n)."""
    ours, theirs = run(probe, {}, ema_decay)
    assert relative(ours["average"], theirs["average"]) < TOLERANCE
    if ema_decay > 0:
        assert relative(ours["average"], theirs["parameters"]) > 1e-3
