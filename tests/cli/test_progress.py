import io

import pytest
import rich.console

from libra_tf.cli import progress


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_plain_lines(clock):
    out = io.StringIO()
    bar = progress.Progress(rich.console.Console(file=out, width=40))
    bar.start("training", total=400, done=100)
    for step in range(101, 401):
        clock[0] += 0.5
        bar.advance(step, images=8, loss=2.0)
    bar.stop()
    lines = out.getvalue().splitlines()
    assert len(lines) == 15
    assert lines[0] == "training: step 120/400, loss 2.000, 16.0 images/s, 2 min 20 s left"
    assert lines[-1].startswith("training: step 400/400") and lines[-1].endswith("0 s left")


def test_the_first_unit_does_not_count_for_the_rate(clock):
    out = io.StringIO()
    bar = progress.Progress(rich.console.Console(file=out, width=200))
    bar.start("evaluating", total=3, unit="batch")
    for batch, seconds in enumerate((60, 4, 4), start=1):
        clock[0] += seconds
        bar.advance(batch, images=4)
    first, second, _ = out.getvalue().splitlines()
    assert first == "evaluating: batch 1/3"
    assert second == "evaluating: batch 2/3, 1.0 images/s, 4 s left"


def test_results_that_were_already_waiting_give_no_rate(clock):
    out = io.StringIO()
    bar = progress.Progress(rich.console.Console(file=out, width=200))
    bar.start("detecting", total=3, unit="image")
    bar.advance(0, images=1)
    for image, seconds in enumerate((1e-4, 1e-4, 4), start=1):
        clock[0] += seconds
        if image == 2:
            clock[0] += 2.0  # The next line is due.
            bar.start("detecting", total=3, done=1, unit="image")
            bar.advance(1, images=1)
        bar.advance(image, images=1)
    assert "image 3/3, 0.5 images/s, 0 s left" in out.getvalue()
    assert out.getvalue().count("images/s") == 1


def test_a_terminal_gets_a_bar_that_leaves_nothing(clock):
    out = io.StringIO()
    bar = progress.Progress(rich.console.Console(file=out, force_terminal=True, width=100))
    bar.start("training", total=10)
    bar.advance(10, loss=0.5)
    bar.stop()
    assert "loss 0.500" in out.getvalue()
    assert out.getvalue().endswith("\x1b[2K")  # the line is erased


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "5 s"), (65, "1 min 05 s"), (7265, "2 h 01 min")]
)
def test_durations(seconds, text):
    assert progress._duration(seconds) == text
