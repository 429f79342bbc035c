"""What the tests share: the probe, diffusers in double precision, and how far two arrays are apart."""

import contextlib
import json
import os
import subprocess
from pathlib import Path
from unittest import mock

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = Path(os.environ.get("POSTERIOR_BIN", ROOT / "target/release/posterior"))
PROBE = PROGRAM.with_name("posterior-parity")


class Probe:
    """The program `posterior-parity`: a request in, the library's own numbers out."""

    def __init__(self):
        self.process = subprocess.Popen([PROBE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, request, **arguments):
        self.process.stdin.write(json.dumps({"request": request, **arguments}, allow_nan=False) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if "error" in answer:
            raise ProbeError(answer["error"])
        return answer["ok"]

    def close(self):
        self.process.stdin.close()
        assert self.process.wait() == 0


class ProbeError(Exception):
    """The library's error message."""


def posterior(*arguments):
    """Runs the program; its JSON document."""
    [document] = posterior_lines(*arguments)
    return document


def posterior_lines(*arguments):
    """Runs the program; its JSON documents, one a line."""
    command = [PROGRAM, "--format", "json", "--quiet", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@contextlib.contextmanager
def double_precision():
    """diffusers' own code in double precision.

    Its schedulers ask for torch.float32 by name, which leaves them exact to some 1e-4 relative at the least noisy
    levels. Under another meaning of that name the same lines compute in double, and agreement can be asked for to
    rounding.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with mock.patch.object(torch, "float32", torch.float64), mock.patch.object(np, "float32", np.float64):
            yield
    finally:
        torch.set_default_dtype(before)


def levels(values):
    """Levels from the probe, whose JSON has no infinity."""
    return np.array([np.inf if value == "inf" else value for value in values], dtype=np.float64)


def distance(ours, theirs):
    """The greatest difference, in units of the greatest value or of 1, whichever is larger."""
    ours, theirs = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    assert ours.shape == theirs.shape
    assert np.isfinite(ours).all() and np.isfinite(theirs).all()
    return np.abs(ours - theirs).max() / max(1.0, np.abs(theirs).max())
