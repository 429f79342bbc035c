"""The exact errors that Pierret & Galerne publish for CIFAR-10 (arXiv 2405.14250, ablation table of the ICML 2025 version).

Their spectrum, 3,072 eigenvalues of the normalised training images, lies in their repository without a licence, so it
is not part of this one. Give its path in POSTERIOR_CIFAR10_SPECTRUM (their code/cifar10.npy); without it every test
here is reported as skipped.
"""

import hashlib
import os
import subprocess
import time
from pathlib import Path

import pytest
from support import PROGRAM, posterior

SPECTRUM = os.environ.get("POSTERIOR_CIFAR10_SPECTRUM")
SHA256 = "5c896e4125f16a1e7a76efa10e550dc656506b6bb184d56c340e5098317a6e58"

pytestmark = pytest.mark.skipif(
    SPECTRUM is None,
    reason="set POSTERIOR_CIFAR10_SPECTRUM to Pierret & Galerne's cifar10.npy",
)

# Columns: N grid points from t = 1 to epsilon, which are N - 1 steps, each from the exact start p_T and from N(0, I).
# Heun's rows are those of N - 1 steps too, which are twice the evaluations that the table states.
GRID_POINTS = [50, 250, 500, 1000]
TABLE = {
    ("time-euler-maruyama", "0"): "4.78 4.78 0.65 0.66 0.32 0.32 0.16 0.16",
    ("time-euler-maruyama", "1e-5"): "4.77 4.77 0.66 0.66 0.32 0.32 0.16 0.16",
    ("time-euler-maruyama", "1e-4"): "4.76 4.76 0.66 0.66 0.32 0.32 0.17 0.17",
    ("time-euler-maruyama", "1e-3"): "4.68 4.68 0.70 0.70 0.40 0.40 0.27 0.27",
    ("time-exponential", "0"): "2.81 2.81 0.57 0.57 0.30 0.30 0.16 0.16",
    ("time-exponential", "1e-5"): "2.81 2.81 0.57 0.57 0.30 0.30 0.16 0.16",
    ("time-exponential", "1e-4"): "2.82 2.82 0.58 0.58 0.31 0.31 0.17 0.17",
    ("time-exponential", "1e-3"): "2.91 2.91 0.67 0.67 0.41 0.41 0.29 0.29",
    ("time-ddpm", "0"): "6.82 6.82 0.97 0.97 0.47 0.47 0.23 0.23",
    ("time-ddpm", "1e-5"): "6.82 6.82 0.97 0.97 0.47 0.47 0.24 0.23",
    ("time-ddpm", "1e-4"): "6.81 6.81 0.98 0.98 0.47 0.47 0.24 0.24",
    ("time-ddpm", "1e-3"): "6.74 6.74 1.00 1.00 0.53 0.53 0.32 0.32",
    ("time-euler", "0"): "1.72 1.78 0.38 0.44 0.20 0.26 0.10 0.17",
    ("time-euler", "1e-5"): "1.72 1.78 0.38 0.44 0.20 0.26 0.10 0.17",
    ("time-euler", "1e-4"): "1.72 1.78 0.38 0.44 0.20 0.26 0.11 0.17",
    ("time-euler", "1e-3"): "1.73 1.79 0.42 0.48 0.27 0.32 0.21 0.25",
    ("time-heun", "1e-5"): "23.42 23.42 2.86 2.87 1.05 1.06 0.37 0.38",
    ("time-heun", "1e-4"): "4.68 4.68 0.43 0.44 0.12 0.14 0.03 0.08",
    ("time-heun", "1e-3"): "0.58 0.59 0.13 0.15 0.16 0.18 0.17 0.19",
}
# The "continuous" columns: truncation alone (from p_T), and initialization alone (from N(0, I), epsilon 0).
TRUNCATION = {"1e-5": "4.1E-03", "1e-4": "0.03", "1e-3": "0.18"}
INITIALIZATION = {"time-euler-maruyama": "6.7E-04", "time-euler": "0.07"}


def audit(*flags):
    return posterior("audit", "--spectrum", SPECTRUM, *flags)


def in_time(integrator, points, start, end):
    return audit(
        *("--process", "vp-sde", "--sampler", integrator, "--steps", str(points - 1)),
        *("--start", start, "--end-time", end),
    )


def printed(value):
    """A number as their table prints it."""
    return f"{value:1.1E}" if value < 1e-2 else f"{value:1.2f}"


def test_the_file_is_theirs():
    assert hashlib.sha256(Path(SPECTRUM).read_bytes()).hexdigest() == SHA256


@pytest.mark.parametrize(("integrator", "end"), TABLE)
def test_discretised_columns(integrator, end):
    computed = [
        printed(in_time(integrator, points, start, end)["w2"])
        for points in GRID_POINTS
        for start in ("exact", "prior")
    ]
    assert computed == TABLE[integrator, end].split()


def test_heun_has_no_value_at_time_zero():
    """Their table has a dash there: the slope is undefined at t = 0."""
    command = [PROGRAM, "audit", "--spectrum", SPECTRUM, "--process", "vp-sde", "--sampler", "time-heun", "--steps", "49"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "undefined at t = 0" in done.stderr


@pytest.mark.parametrize("end", TRUNCATION)
def test_truncation_alone(end):
    assert printed(in_time("time-euler", 50, "exact", end)["error"]["truncation"]) == TRUNCATION[end]


@pytest.mark.parametrize("integrator", INITIALIZATION)
def test_initialization_alone(integrator):
    assert printed(in_time(integrator, 50, "prior", "0")["error"]["initialization"]) == INITIALIZATION[integrator]


@pytest.mark.parametrize(
    ("sampler", "spacing", "expected"),
    [("ddim", "leading", "5.24"), ("ddim", "trailing", "5.32"), ("dpmpp-2m", "karras", "3.17")],
)
def test_ten_steps_of_a_trained_schedule(sampler, spacing, expected):
    """Ten steps on 1000 linear betas, as diffusers' schedulers place them."""
    assert printed(audit("--sampler", sampler, "--spacing", spacing, "--steps", "10")["w2"]) == expected


def test_optimised_levels():
    began = time.monotonic()
    found = audit("--sampler", "dpmpp-2m", "--spacing", "optimized", "--steps", "10")
    assert time.monotonic() - began < 10
    assert found["w2"] <= 0.06
