"""The audit's exact output against diffusers run with the ideal predictor on Gaussian data.

With data N(0, s²) the ideal prediction is a multiple of the state, so diffusers' whole loop is linear: its response to a
unit start, and to a unit noise at each step, is the law of its output. No random numbers, no sampling error.
"""

import json

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from schedulers import make, text
from support import double_precision, posterior
from unittest import mock
from diffusers.schedulers import scheduling_ddpm

# diffusers' 1 - abar is a difference of doubles, 1e-12 relative at the least noisy level.
TOLERANCE = 1e-9


def output_std(scheduler, steps, data_std, eta=0.0):
    """The exact standard deviation of diffusers' output from N(0, 1), by superposition.

    One column for the start and one for each step's noise: each is 1 in its own place and 0 elsewhere.
    """
    with double_precision():
        scheduler.set_timesteps(steps)
        multistep = isinstance(scheduler, DPMSolverMultistepScheduler)
        if multistep:
            scheduler.set_begin_index(0)
        columns = len(scheduler.timesteps) + 1
        state = torch.zeros(1, columns)
        state[0, 0] = 1.0
        for index, timestep in enumerate(scheduler.timesteps):
            alpha_bar = scheduler.alphas_cumprod[int(timestep)]
            # E[epsilon | y] and E[x0 | y] of y = sqrt(abar) x0 + sqrt(1 - abar) epsilon.
            gain = {
                "epsilon": (1 - alpha_bar).sqrt(),
                "sample": alpha_bar.sqrt() * data_std**2,
            }[scheduler.config.prediction_type] / (alpha_bar * data_std**2 + 1 - alpha_bar)
            fresh = torch.zeros(1, columns)
            fresh[0, index + 1] = 1.0
            if isinstance(scheduler, DDPMScheduler):
                with mock.patch.object(scheduling_ddpm, "randn_tensor", lambda *_, fresh=fresh, **__: fresh):
                    made = scheduler.step(gain * state, int(timestep), state)
            elif multistep:
                made = scheduler.step(gain * state, timestep, state)
            else:
                made = scheduler.step(gain * state, int(timestep), state, eta=eta, variance_noise=fresh)
            state = made.prev_sample
        return state.norm().item()


def audited(scheduler, steps, data_std, tmp_path, *flags):
    path = tmp_path / "scheduler_config.json"
    path.write_text(text(scheduler))
    flags = ["--scheduler-config", path, "--steps", steps, "--data-std", data_std, *flags]
    return posterior("audit", *flags)["output_std"][0]


@pytest.mark.parametrize("data_std", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("steps", [7, 10, 50, 1000])
@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_ddim(tmp_path, schedule, prediction, steps, data_std):
    scheduler = make(DDIMScheduler, beta_schedule=schedule, prediction_type=prediction)
    theirs = output_std(scheduler, steps, data_std)
    assert audited(scheduler, steps, data_std, tmp_path) == pytest.approx(theirs, rel=TOLERANCE)
    # The same by the program's own names.
    name = {"linear": "linear", "scaled_linear": "scaled-linear", "squaredcos_cap_v2": "cosine"}[schedule]
    flags = ["--process", "vp", "--schedule", name, "--sampler", "ddim", "--spacing", "leading"]
    ours = posterior("audit", *flags, "--steps", steps, "--data-std", data_std)
    assert ours["output_std"][0] == pytest.approx(theirs, rel=TOLERANCE)
    assert ours["network_evaluations"] == steps


def test_known_value():
    """VP linear, data std 0.5, ten DDIM steps, leading: 0.3741."""
    scheduler = make(DDIMScheduler)
    assert round(output_std(scheduler, 10, 0.5), 4) == 0.3741
    ours = posterior("audit", "--sampler", "ddim", "--spacing", "leading", "--steps", 10, "--data-std", 0.5)
    assert round(ours["output_std"][0], 4) == 0.3741


@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("steps", [10, 50])
def test_ddim_with_noise(tmp_path, steps, eta):
    scheduler = make(DDIMScheduler)
    theirs = output_std(scheduler, steps, 0.5, eta)
    assert audited(scheduler, steps, 0.5, tmp_path, "--eta", eta) == pytest.approx(theirs, rel=TOLERANCE)


@pytest.mark.parametrize("spacing", ["leading", "linspace"])
@pytest.mark.parametrize("steps", [7, 10, 50, 1000])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_ddpm(tmp_path, variance, steps, spacing):
    """Leading and linspace end at timestep 0, where diffusers adds no noise either."""
    scheduler = make(DDPMScheduler, variance_type=variance, timestep_spacing=spacing)
    theirs = output_std(scheduler, steps, 0.5)
    assert audited(scheduler, steps, 0.5, tmp_path) == pytest.approx(theirs, rel=TOLERANCE)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [7, 10, 50])
def test_dpm_solver(tmp_path, steps, spacing):
    scheduler = make(DPMSolverMultistepScheduler, timestep_spacing=spacing)
    theirs = output_std(scheduler, steps, 0.5)
    assert audited(scheduler, steps, 0.5, tmp_path) == pytest.approx(theirs, rel=TOLERANCE)


def test_a_spectrum_is_one_audit_an_axis(tmp_path):
    spectrum = tmp_path / "variances.csv"
    stds = np.array([2.0, 0.5, 0.1])
    spectrum.write_text("\n".join(repr(float(variance)) for variance in stds**2))
    ours = posterior("audit", "--sampler", "ddim", "--spacing", "leading", "--steps", 10, "--spectrum", spectrum)
    theirs = [output_std(make(DDIMScheduler), 10, std) for std in stds]
    np.testing.assert_allclose(ours["output_std"], theirs, rtol=TOLERANCE)
    assert ours["w2"] == pytest.approx(np.linalg.norm(np.array(theirs) - stds), rel=TOLERANCE)
    json.dumps(ours, allow_nan=False)
