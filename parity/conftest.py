"""Fixtures, and the rule about skipped tests: none is silent, and with CI=true only those named here may be."""

import os
from collections import Counter

import pytest
from support import Probe

# Models and data come from packages or are made here. Set before transformers and datasets are imported, which would
# otherwise ask a server about them.
os.environ["HF_HUB_OFFLINE"] = "1"

# Test file -> why it may be skipped where CI=true.
MAY_BE_SKIPPED = {
    "test_published_table.py": "the spectrum that it needs has no licence and cannot be fetched by a package",
    "test_rank.py::test_sound_quality": "the comparisons come in a package for R (Debian: r-cran-psychotools)",
}


def pytest_configure(config):
    # diffusers' own, about NumPy 2.
    config.addinivalue_line("filterwarnings", "ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="session")
def probe():
    probe = Probe()
    yield probe
    probe.close()


def _excuse(node):
    names = (name for name in MAY_BE_SKIPPED if node.split("/")[-1].startswith(name))
    return next((MAY_BE_SKIPPED[name] for name in names), None)


def pytest_terminal_summary(terminalreporter):
    skipped = terminalreporter.stats.get("skipped", [])
    if not skipped:
        terminalreporter.write_line("No test was skipped.")
        return
    reasons = Counter()
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        excuse = _excuse(report.nodeid) or "not on the list of tests that may be skipped"
        reasons[report.nodeid.split("[")[0], reason.removeprefix("Skipped: "), excuse] += 1
    terminalreporter.section(f"NOT CHECKED: {len(skipped)}", red=True, bold=True)
    for (test, reason, excuse), count in reasons.items():
        terminalreporter.write_line(f"{test} ({count}): {reason} -- {excuse}")


def pytest_sessionfinish(session):
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    unexcused = [report for report in reporter.stats.get("skipped", []) if _excuse(report.nodeid) is None]
    if unexcused and os.environ.get("CI") == "true" and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
def one_thread(request):
    """For small models: PyTorch's threads wait for each other by spinning, and have nothing to share there."""
    # Not before HF_HUB_OFFLINE is set, and not for tests without a network.
    import torch

    before = torch.get_num_threads()
    if "smollm2" not in request.fixturenames:
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Directories of tiny models by family, made when asked for."""
    from language_models import write_tiny_model

    made = {}

    def of(name, **more):
        key = name, *sorted(more.items())
        if key not in made:
            made[key] = write_tiny_model(name, tmp_path_factory.mktemp(name), **more)
        return made[key]

    return of
