"""diffusers' schedulers, made and stepped in double precision."""

from unittest import mock

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from diffusers.schedulers import scheduling_ddpm
from support import double_precision

# Name -> what a configuration says. The last two are rejected for epsilon by us, and divide by zero there.
SCHEDULES = {
    "linear": {"beta_schedule": "linear"},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "sigmoid": {"beta_schedule": "sigmoid"},
    "laplace": {"beta_schedule": "laplace"},
    "betas": {"trained_betas": [0.001 * (1 + index % 7) for index in range(1000)]},
    "short": {"beta_schedule": "linear", "num_train_timesteps": 113, "beta_start": 0.001, "beta_end": 0.1},
    "zero_snr": {"beta_schedule": "linear", "rescale_betas_zero_snr": True},
    "cosine_zero_snr": {"beta_schedule": "squaredcos_cap_v2", "rescale_betas_zero_snr": True},
}
ONLY_DDPM = {"sigmoid", "laplace"}
ENDS_IN_NOISE = {"zero_snr", "cosine_zero_snr"}
PREDICTIONS = ["epsilon", "sample", "v_prediction"]
SPACINGS = ["leading", "trailing", "linspace"]


def make(kind, **config):
    """A scheduler whose constants are doubles. Nothing is clamped unless the configuration says so."""
    with double_precision():
        if kind is not DPMSolverMultistepScheduler:
            config = {"clip_sample": False, **config}
        scheduler = kind(**config)
    assert scheduler.alphas_cumprod.dtype == torch.float64
    return scheduler


def text(scheduler):
    """The scheduler_config.json that diffusers writes."""
    return scheduler.to_json_string()


class Gap(int):
    """A step count n with T // n = gap: makes DDIMScheduler find the next timestep of its own list."""

    def __new__(cls, gap):
        made = super().__new__(cls, 1)
        made.gap = gap
        return made

    def __rfloordiv__(self, total):
        return self.gap


def trajectory(scheduler, steps, start, outputs, noise, *, eta=0.0, repaired=False, clip_direction=False):
    """diffusers' states and clean estimates after each step, with these network outputs and this noise.

    `repaired` gives DDIM's steps the next timestep of the list, where diffusers computes t - T // n. The timestep too
    many that trailing spacing may make, -1, is not run.
    """
    with double_precision():
        scheduler.set_timesteps(steps)
        timesteps = scheduler.timesteps.tolist()
        if isinstance(scheduler, DPMSolverMultistepScheduler):
            # As diffusers' pipelines do; otherwise repeated timesteps confuse its search for the first step.
            scheduler.set_begin_index(0)
        state = torch.tensor(start).reshape(1, -1)
        states, estimates = [], []
        for index, timestep in enumerate(scheduler.timesteps[:steps]):
            output, fresh = (torch.tensor(values[index]).reshape(1, -1) for values in (outputs, noise))
            if isinstance(scheduler, DDPMScheduler):
                with mock.patch.object(scheduling_ddpm, "randn_tensor", lambda *_, fresh=fresh, **__: fresh):
                    made = scheduler.step(output, int(timestep), state)
            elif isinstance(scheduler, DDIMScheduler):
                if repaired:
                    following = timesteps[index + 1] if index + 1 < len(timesteps) else -1
                    scheduler.num_inference_steps = Gap(timesteps[index] - following)
                made = scheduler.step(
                    output, int(timestep), state, eta=eta, variance_noise=fresh, use_clipped_model_output=clip_direction
                )
            else:
                made = scheduler.step(output, timestep, state)
            state = made.prev_sample
            assert state.dtype == torch.float64
            states.append(state.numpy().ravel())
            if hasattr(made, "pred_original_sample"):
                estimates.append(made.pred_original_sample.numpy().ravel())
    return timesteps, np.array(states), np.array(estimates)
