"""Plans against diffusers' schedulers, step by step: same start, same network outputs, same noise.

Both sides run in double precision. Where diffusers takes a wrong turn the plan does not follow it and says so; then the
warning must be there, the two must part at the very step it names, and agree again once diffusers is told the right
step.
"""

import itertools

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from schedulers import ENDS_IN_NOISE, ONLY_DDPM, PREDICTIONS, SCHEDULES, SPACINGS, make, text, trajectory
from support import ProbeError, distance

# diffusers' 1 - abar has 1e-16 of absolute error beside values of 1e-4, and sums over up to 50 steps.
TOLERANCE = 1e-9
# Far above it, and far below what a wrong step does.
APART = 1e-6
STEPS = [7, 10, 50]
SIZE = 5


def cases(predictions=PREDICTIONS, schedules=SCHEDULES, spacings=SPACINGS):
    """All combinations that make sense, with the leading offset that latent diffusion uses among them."""
    found = []
    for schedule, prediction, spacing in itertools.product(schedules, predictions, spacings):
        if schedule in ENDS_IN_NOISE and prediction == "epsilon":
            continue
        for offset in [0, 1] if spacing == "leading" else [0]:
            config = {"prediction_type": prediction, "timestep_spacing": spacing, "steps_offset": offset}
            name = f"{schedule}-{prediction}-{spacing}{'+1' if offset else ''}"
            found.append(pytest.param({**config, **SCHEDULES[schedule]}, id=name))
    return found


def run(probe, scheduler, steps, eta=None, seed=0):
    """The plan's run, and the outputs that it was given."""
    outputs = np.random.default_rng(seed).standard_normal((steps, SIZE)).tolist()
    return probe("plan", config=text(scheduler), steps=steps, eta=eta, seed=seed, outputs=outputs), outputs


def warned(ours):
    return {warning["name"]: warning["text"] for warning in ours["warnings"]}


@pytest.mark.parametrize("config", cases())
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_small_log", "fixed_large"])
def test_ddpm(probe, config, variance):
    for steps in STEPS:
        scheduler = make(DDPMScheduler, variance_type=variance, **config)
        ours, outputs = run(probe, scheduler, steps)
        timesteps, states, estimates = trajectory(scheduler, steps, ours["start"], outputs, ours["noise"])
        assert len(ours["rows"]) == steps
        extra = {"ExtraTimestep"} if len(timesteps) > steps else set()
        timesteps = timesteps[:steps]
        scale = max(1.0, np.abs(estimates).max())
        assert distance(ours["estimates"], estimates) < TOLERANCE
        assert distance(ours["states"][:-1], states[:-1]) < TOLERANCE * scale
        # diffusers adds noise at the last step too, unless it is timestep 0: none to speak of (1e-10) with the small
        # variances, the whole beta with the large one.
        difference = states[-1] - np.array(ours["states"][-1])
        noise = np.array(ours["noise"][-1])
        assert ours["states"][-1] == ours["output"]
        if variance == "fixed_large" and timesteps[-1] > 0:
            std = np.sqrt(1 - scheduler.alphas_cumprod[timesteps[-1]].item())
            assert distance(difference, std * noise) < TOLERANCE * scale
            assert set(warned(ours)) == {"NoiseAtLastStep"} | extra
            assert f"at timestep {timesteps[-1]}:" in warned(ours)["NoiseAtLastStep"]
        else:
            assert np.abs(difference).max() < TOLERANCE * scale
            assert set(warned(ours)) == extra


@pytest.mark.parametrize("config", cases(schedules=[name for name in SCHEDULES if name not in ONLY_DDPM]))
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("ends_clean", [True, False], ids=["to_clean", "to_first_level"])
def test_ddim(probe, config, eta, ends_clean):
    for steps in STEPS:
        scheduler = make(DDIMScheduler, set_alpha_to_one=ends_clean, **config)
        ours, outputs = run(probe, scheduler, steps, eta)
        start, noise = ours["start"], ours["noise"] + [[0.0] * SIZE]
        rows, warnings = len(ours["rows"]), warned(ours)
        timesteps, states, estimates = trajectory(scheduler, steps, start, outputs, noise, eta=eta, repaired=True)
        if not np.isfinite(states).all():
            # See test_full_noise_from_zero_terminal_snr.
            assert "RootOfRounding" in warnings
            assert np.isfinite(ours["states"]).all()
            continue
        extra = {"ExtraTimestep"} if len(timesteps) > steps else set()
        timesteps = timesteps[:steps]
        scale = max(1.0, np.abs(estimates).max())
        # One step may be missing: from timestep 0 to timestep 0, which does nothing there either.
        assert rows == steps - ("LastStepDoesNothing" in warnings)
        if rows < steps:
            assert timesteps[-1] == 0 and not ends_clean
            assert distance(states[-1], states[-2]) < TOLERANCE * scale
        assert distance(ours["estimates"], estimates[:rows]) < TOLERANCE
        assert distance(ours["states"], states[:rows]) < TOLERANCE * scale
        assert distance(ours["output"], states[-1]) < TOLERANCE * scale

        total = scheduler.config.num_train_timesteps
        following = [*timesteps[1:], -1]
        taken = [max(timestep - total // steps, -1) for timestep in timesteps]
        wrong = [index for index, (ours_to, theirs_to) in enumerate(zip(following, taken)) if ours_to != theirs_to]
        scheduler = make(DDIMScheduler, set_alpha_to_one=ends_clean, **config)
        _, unrepaired, _ = trajectory(scheduler, steps, start, outputs, noise, eta=eta)
        missing = {"LastStepDoesNothing"} if rows < steps else set()
        if eta == 1.0 and scheduler.alphas_cumprod[timesteps[0]] == 0.0:
            missing |= {"RootOfRounding"}
        assert set(warnings) == ({"WrongPreviousTimestep"} if wrong else set()) | missing | extra
        if wrong:
            at = wrong[0]
            assert f"wrong in {len(wrong)} of" in warnings["WrongPreviousTimestep"]
            assert f"the first is at {timesteps[at]}:" in warnings["WrongPreviousTimestep"]
            if at > 0:
                assert distance(ours["states"][:at], unrepaired[:at]) < TOLERANCE * scale
            assert distance(ours["states"][at], unrepaired[at]) > APART
        else:
            assert distance(ours["states"], unrepaired[:rows]) < TOLERANCE * scale


@pytest.mark.parametrize("schedule", sorted(ENDS_IN_NOISE))
@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
def test_full_noise_from_zero_terminal_snr(probe, schedule, spacing):
    """diffusers' DDIM with eta = 1 takes the root of 1 - abar - std², which is 0 up to rounding.

    In its own single precision about every other step count misses zero by a rounding: to NaN below it, to noise of
    2e-4 above it. Which side it is differs between machines. Its DDPM computes the same without a root.
    """
    config = {"prediction_type": "v_prediction", "timestep_spacing": spacing, **SCHEDULES[schedule]}
    rounded = 0
    for steps in range(2, 30):
        ours, outputs = run(probe, make(DDIMScheduler, **config), steps, 1.0)
        assert "RootOfRounding" in warned(ours)
        ddpm = make(DDPMScheduler, variance_type="fixed_small", **config)
        _, states, _ = trajectory(ddpm, steps, ours["start"], outputs, ours["noise"])
        assert distance(ours["states"], states) < TOLERANCE
        scheduler = DDIMScheduler(clip_sample=False, **config)
        scheduler.set_timesteps(steps)
        last, next_timestep = 999, 999 - 1000 // steps
        variance = scheduler._get_variance(last, next_timestep)
        squared = (1 - scheduler.alphas_cumprod[next_timestep] - (variance**0.5) ** 2).item()
        assert abs(squared) < 2.0**-22
        rounded += squared != 0
        output, start, noise = (torch.tensor([values]) for values in (outputs[0], ours["start"], ours["noise"][0]))
        made = scheduler.step(output.float(), last, start.float(), eta=1.0, variance_noise=noise.float()).prev_sample
        assert bool(made.isnan().any()) == (squared < 0)
    assert rounded > 5


@pytest.mark.parametrize("config", cases(schedules=["linear", "cosine", "zero_snr"]))
@pytest.mark.parametrize("kind", [DDPMScheduler, DDIMScheduler])
def test_clipping(probe, config, kind):
    """The clamp is the same where diffusers takes the direction from the clamped estimate (always in DDPM)."""
    scheduler = make(kind, clip_sample=True, clip_sample_range=0.7, **config)
    eta = 0.5 if kind is DDIMScheduler else None
    ours, outputs = run(probe, scheduler, 10, eta)
    _, states, estimates = trajectory(
        scheduler, 10, ours["start"], outputs, ours["noise"], eta=0.5, repaired=True, clip_direction=True
    )
    assert np.abs(estimates).max() == pytest.approx(0.7)
    assert distance(ours["estimates"], estimates) < TOLERANCE
    assert distance(ours["states"], states) < TOLERANCE
    assert "±0.7" in warned(ours)["ClipsEstimate"]
    if kind is DDIMScheduler:
        _, states, _ = trajectory(scheduler, 10, ours["start"], outputs, ours["noise"], eta=0.5, repaired=True)
        assert distance(ours["states"], states) > APART
        assert "keeps the noise of the unclamped one" in warned(ours)["ClipsEstimate"]


@pytest.mark.parametrize("config", cases(schedules=["linear", "scaled_linear", "cosine", "betas", "short"]))
@pytest.mark.parametrize("order", [1, 2])
def test_dpm_solver(probe, config, order):
    for steps in STEPS:
        scheduler = make(DPMSolverMultistepScheduler, solver_order=order, **config)
        ours, outputs = run(probe, scheduler, steps)
        timesteps, states, _ = trajectory(scheduler, steps, ours["start"], outputs, ours["noise"])
        # With a timestep too many, diffusers' last step but one leads there and not to the clean sample.
        rows = steps - 1 if len(timesteps) > steps else steps
        scale = max(1.0, np.abs(ours["estimates"]).max())
        assert distance(ours["states"][:rows], states[:rows]) < TOLERANCE * scale
        assert set(warned(ours)) == ({"ExtraTimestep"} if len(timesteps) > steps else set())


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "cosine"])
@pytest.mark.parametrize("order", [1, 2])
def test_dpm_solver_on_karras_levels(probe, schedule, prediction, order):
    for steps in STEPS:
        config = {"prediction_type": prediction, "solver_order": order, "use_karras_sigmas": True}
        scheduler = make(DPMSolverMultistepScheduler, **config, **SCHEDULES[schedule])
        ours, outputs = run(probe, scheduler, steps)
        _, states, _ = trajectory(scheduler, steps, ours["start"], outputs, ours["noise"])
        assert distance(ours["states"], states) < TOLERANCE * max(1.0, np.abs(ours["estimates"]).max())
        assert set(warned(ours)) == {"RoundedConditioning"}


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("kind", [DDPMScheduler, DDIMScheduler, DPMSolverMultistepScheduler])
def test_timesteps_of_many_step_counts(probe, kind, spacing):
    """The levels of the plan are those of diffusers' timesteps, but for one timestep too many."""
    scheduler = make(kind, prediction_type="sample", timestep_spacing=spacing)
    sigmas = probe("levels", config=text(scheduler))["sigma"]
    extra = 0
    for steps in [1, 2, 3, *range(5, 1000, 17), 61, 121, 999, 1000]:
        if kind is DPMSolverMultistepScheduler and steps == 1000 and spacing != "trailing":
            # diffusers repeats timesteps here; there are not that many levels.
            with pytest.raises(ProbeError, match="1001 steps do not fit"):
                probe("plan", config=text(scheduler), steps=steps, eta=None, seed=0, outputs=[])
            continue
        ours = probe("plan", config=text(scheduler), steps=steps, eta=None, seed=0, outputs=[[0.0]] * steps)
        scheduler.set_timesteps(steps)
        made = scheduler.timesteps.tolist()
        warnings = warned(ours)
        assert ("ExtraTimestep" in warnings) == (len(made) > steps)
        if len(made) > steps:
            extra += 1
            assert (len(made), made[-1]) == (steps + 1, -1)
        # Linspace's single step would start at timestep 0, where there is no noise; leading's does by definition.
        assert ("SingleStepFromZero" in warnings) == (made == [0] and spacing == "linspace")
        assert ("SingleStepFromStart" in warnings) == (made == [0] and spacing == "leading")
        if made == [0] and spacing == "linspace":
            made = [999]
        assert [row["from"] for row in ours["rows"]] == [sigmas[timestep] for timestep in made[:steps]]
        assert [row["to"] for row in ours["rows"]][:-1] == [row["from"] for row in ours["rows"]][1:]
    assert (extra > 0) == (spacing == "trailing")


def test_a_step_past_the_schedule(probe):
    """With as many steps as timesteps, an offset of 1 asks diffusers for timestep 1000 of 1000."""
    scheduler = make(DDIMScheduler, steps_offset=1)
    ours, outputs = run(probe, scheduler, 1000, 0.0)
    assert "OffsetPastEnd" in warned(ours)
    with pytest.raises(IndexError):
        trajectory(scheduler, 1000, ours["start"], outputs, ours["noise"])


@pytest.mark.parametrize("schedule", sorted(ONLY_DDPM))
@pytest.mark.parametrize("kind", [DDIMScheduler, DPMSolverMultistepScheduler])
def test_schedules_that_diffusers_refuses(probe, kind, schedule):
    config = text(make(kind)).replace('"linear"', f'"{schedule}"')
    ours = probe("plan", config=config, steps=10, eta=None, seed=0, outputs=[[0.0]] * 10)
    assert "ScheduleRefused" in warned(ours)
    with pytest.raises(NotImplementedError):
        make(kind, **SCHEDULES[schedule])


@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
def test_dpm_solver_patches_the_end_of_a_zero_snr_schedule(probe, spacing):
    config = {"prediction_type": "v_prediction", "timestep_spacing": spacing, "rescale_betas_zero_snr": True}
    scheduler = make(DPMSolverMultistepScheduler, **config)
    ours, outputs = run(probe, scheduler, 10)
    _, states, _ = trajectory(scheduler, 10, ours["start"], outputs, ours["noise"])
    assert set(warned(ours)) == {"TerminalLevelReplaced"}
    assert ours["rows"][0]["from"] == "inf"
    assert distance(ours["states"], states) > APART
    # Its first level is sqrt(2^24 - 1) instead of infinity: 2^-12 in the first step, and a second-order correction in
    # the second one, for a first step that is ten long in log sigma instead of infinitely long.
    assert distance(ours["states"][:1], states[:1]) < 2.0**-11
    assert distance(ours["states"], states) < 1e-2


def test_the_logarithm_of_the_large_variance_is_not_a_number_there(probe):
    scheduler = make(DDPMScheduler, variance_type="fixed_large_log")
    ours, outputs = run(probe, scheduler, 10)
    _, states, _ = trajectory(scheduler, 10, ours["start"], outputs, ours["noise"])
    assert "NotANumber" in warned(ours)
    assert np.isnan(states[0]).all()
    large, _ = run(probe, make(DDPMScheduler, variance_type="fixed_large"), 10)
    assert ours["states"] == large["states"]


@pytest.mark.parametrize("kind", [DDPMScheduler, DDIMScheduler])
def test_epsilon_with_zero_terminal_snr(probe, kind):
    scheduler = make(kind, rescale_betas_zero_snr=True, timestep_spacing="trailing")
    with pytest.raises(ProbeError, match="zero terminal"):
        run(probe, scheduler, 10)
    outputs = noise = [[0.5]] * 10
    _, states, _ = trajectory(scheduler, 10, [0.5], outputs, noise)
    assert not np.isfinite(states).all()
