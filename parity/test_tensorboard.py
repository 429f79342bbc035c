"""TensorBoard's own reader against the event files that a run writes.

The run is the example `quadratic`, killed on the way and resumed, so that the files overlap: what TensorBoard shows
must be `metrics.jsonl`, each step once, as if the run had never been killed. Both of TensorBoard's readers are asked:
the Python one (which drops the overlap at the SessionLog START record) and the server that its web page uses.
"""

import json
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import pytest
from support import PROGRAM, ROOT
from tensorboard.backend.event_processing import event_accumulator, event_file_loader

EXAMPLE = PROGRAM.parent / "examples/quadratic"
STEPS = 70


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that was killed (not asked to stop) after step 30 and once more after step 50, each time between checkpoints."""
    run = tmp_path_factory.mktemp("tensorboard") / "run"
    for step in (30, 50):
        process = subprocess.Popen([EXAMPLE, run, str(STEPS), "20"], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not any(line["step"] >= step for line in metrics(run)):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run([EXAMPLE, run, str(STEPS)], check=True, stderr=subprocess.DEVNULL)
    return run


def metrics(run):
    """The whole lines of metrics.jsonl."""
    path = run / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def expected(run):
    """name -> [(step, value)] from metrics.jsonl."""
    series = {}
    for line in metrics(run):
        for name, value in line.items():
            if name != "step":
                series.setdefault(name, []).append((line["step"], value))
    return series


def assert_same(series, expected):
    assert [step for step, _ in series] == [step for step, _ in expected]
    # An event holds single precision.
    assert [value for _, value in series] == pytest.approx([value for _, value in expected], rel=2.0**-23)


def test_the_files_overlap(run):
    """Otherwise the other tests would not see what a kill leaves."""
    files = sorted((run / "tensorboard").iterdir())
    assert len(files) == 3
    steps = [[event.step for event in event_file_loader.EventFileLoader(str(file)).Load()] for file in files]
    assert max(steps[0]) >= min(step for step in steps[1] if step > 0)


def test_the_python_reader_shows_the_metrics(run):
    accumulator = event_accumulator.EventAccumulator(
        str(run / "tensorboard"), size_guidance={event_accumulator.TENSORS: 0, event_accumulator.SCALARS: 0}
    )
    accumulator.Reload()
    wanted = expected(run)
    tags = accumulator.Tags()
    assert set(tags["scalars"]) == set(wanted) >= {"loss", "grad_norm", "learning_rate", "epoch", "eval_loss"}
    for name, series in wanted.items():
        assert_same([(event.step, event.value) for event in accumulator.Scalars(name)], series)
    assert tags["images"] == ["picture"]
    images = accumulator.Images("picture")
    assert [image.step for image in images][-1] == STEPS
    assert {(image.width, image.height) for image in images} == {(2, 1)}
    assert images[0].encoded_image_string == (ROOT / "crates/train/examples/two-pixels.png").read_bytes()


def test_the_server_shows_the_metrics(run):
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", run, "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        address = next(word for line in server.stderr for word in line.split() if word.startswith("http://"))

        def get(path, **query):
            url = urllib.parse.urljoin(address, f"data/plugin/{path}?{urllib.parse.urlencode(query)}")
            with urllib.request.urlopen(url) as response:
                return json.load(response)

        wanted = expected(run)
        deadline = time.monotonic() + 60
        while not (tags := get("scalars/tags").get("tensorboard", {})).keys() >= wanted.keys() or (
            max(step for _, step, _ in get("scalars/scalars", run="tensorboard", tag="loss")) < STEPS
        ):
            assert time.monotonic() < deadline, tags
            time.sleep(0.2)
        for name, series in wanted.items():
            points = get("scalars/scalars", run="tensorboard", tag=name)
            assert_same([(step, value) for _, step, value in points], series)
        assert get("images/tags")["tensorboard"].keys() == {"picture"}
    finally:
        server.terminate()
        server.wait()
