"""Noise schedules, forward noising, conversions between predictions, and learning rates."""

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from diffusers import optimization
from schedulers import ENDS_IN_NOISE, PREDICTIONS, SCHEDULES, make, text
from support import double_precision, levels

# diffusers forms 1 - abar by subtraction: in double, 1e-16 of absolute error beside a smallest value of 1e-5 or so.
ROUNDING = 1e-10
# The same in single precision, summed over a thousand factors.
SINGLE = 1e-4
SINGLE_ONE_MINUS = 1e-2


@pytest.mark.parametrize("name", SCHEDULES)
def test_levels(probe, name):
    scheduler = make(DDPMScheduler, prediction_type="sample", **SCHEDULES[name])
    ours = probe("levels", config=text(scheduler))
    theirs = scheduler.alphas_cumprod.numpy()
    np.testing.assert_allclose(ours["alpha_bar"], theirs, rtol=ROUNDING, atol=0)
    np.testing.assert_allclose(ours["one_minus_alpha_bar"], 1 - theirs, rtol=ROUNDING, atol=0)
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(levels(ours["sigma"]), np.sqrt((1 - theirs) / theirs), rtol=ROUNDING, atol=0)
    assert (ours["sigma"][-1] == "inf") == (name in ENDS_IN_NOISE)


@pytest.mark.parametrize("name", SCHEDULES)
def test_levels_in_single_precision_as_diffusers_has_them(probe, name):
    scheduler = DDPMScheduler(prediction_type="sample", **SCHEDULES[name])
    assert scheduler.alphas_cumprod.dtype == torch.float32
    ours = probe("levels", config=text(scheduler))
    theirs = scheduler.alphas_cumprod.numpy().astype(np.float64)
    if name in ENDS_IN_NOISE:
        # There abar falls to 0 through differences of single-precision numbers.
        np.testing.assert_allclose(ours["alpha_bar"], theirs, rtol=0, atol=1e-5)
    else:
        np.testing.assert_allclose(ours["alpha_bar"], theirs, rtol=SINGLE, atol=0)
    np.testing.assert_allclose(ours["one_minus_alpha_bar"], 1 - theirs, rtol=SINGLE_ONE_MINUS, atol=0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_add_noise(probe, name):
    scheduler = make(DDPMScheduler, prediction_type="sample", **SCHEDULES[name])
    timesteps = np.arange(scheduler.config.num_train_timesteps)
    rng = np.random.default_rng(0)
    clean, noise = rng.standard_normal((2, len(timesteps)))
    with double_precision():
        theirs = scheduler.add_noise(torch.tensor(clean), torch.tensor(noise), torch.tensor(timesteps)).numpy()
    law = probe("forward", config=text(scheduler), timesteps=timesteps.tolist(), clean=clean.tolist())
    np.testing.assert_allclose(np.array(law["mean"]) + np.array(law["std"]) * noise, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("to", PREDICTIONS)
@pytest.mark.parametrize("origin", PREDICTIONS)
def test_conversions(probe, name, origin, to):
    """diffusers' state and velocity of the same clean sample and noise: each of the three from each other."""
    scheduler = make(DDPMScheduler, prediction_type="sample", **SCHEDULES[name])
    rng = np.random.default_rng(1)
    timesteps = np.arange(scheduler.config.num_train_timesteps)
    if name in ENDS_IN_NOISE and "epsilon" in (origin, to):
        # At the last level the noise is the state: it says nothing about the clean sample, and is refused.
        with pytest.raises(Exception, match="infinite noise"):
            probe("convert", config=text(scheduler), **{"from": origin, "to": to}, timesteps=[int(timesteps[-1])], states=[0.5], values=[0.5])
        timesteps = timesteps[:-1]
    clean, noise = rng.standard_normal((2, len(timesteps)))
    with double_precision():
        given = torch.tensor(clean), torch.tensor(noise), torch.tensor(timesteps)
        states = scheduler.add_noise(*given).numpy()
        values = {"sample": clean, "epsilon": noise, "v_prediction": scheduler.get_velocity(*given).numpy()}
    found = probe(
        "convert",
        config=text(scheduler),
        **{"from": origin, "to": to},
        timesteps=timesteps.tolist(),
        states=states.tolist(),
        values=values[origin].tolist(),
    )
    # From the noise to the clean sample rounding grows by sigma, and the other way by 1 / sigma.
    alpha_bar = scheduler.alphas_cumprod.numpy()[timesteps]
    growth = np.sqrt(np.maximum(1 - alpha_bar, alpha_bar) / np.minimum(1 - alpha_bar, np.maximum(alpha_bar, 1e-300)))
    growth = np.where(alpha_bar == 0, 1.0, growth)
    assert (np.abs(np.array(found) - values[to]) <= 1e-12 * growth).all()


@pytest.mark.parametrize(
    ("decay", "make_schedule"),
    [
        ("constant", lambda optimizer, warmup, _: optimization.get_constant_schedule_with_warmup(optimizer, warmup)),
        ("linear", optimization.get_linear_schedule_with_warmup),
        ("cosine", optimization.get_cosine_schedule_with_warmup),
    ],
)
@pytest.mark.parametrize(("warmup", "steps"), [(0, 10), (3, 10), (10, 10), (100, 1000)])
def test_learning_rates(probe, decay, make_schedule, warmup, steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    schedule = make_schedule(optimizer, warmup, steps)
    theirs = []
    for _ in range(steps):
        theirs.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    ours = probe("learning-rate", peak=0.3, warmup=warmup, steps=steps, decay=decay)
    np.testing.assert_allclose(ours, theirs, rtol=1e-14, atol=1e-17)
