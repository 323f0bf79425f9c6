"""oneDNN is on in a run, and where TensorFlow would leave it off, the slow fusion is off."""

import io
import os

import pytest
import rich.console
import tensorflow as tf

from libra_tf import precision
from libra_tf.cli import program
from libra_tf.commands import run
from libra_tf.runner import onednn, session

VARIABLE = "TF_ENABLE_ONEDNN_OPTS"


@pytest.fixture
def options():
    """Grappler's options, as they are read; they are the process's own."""
    before = tf.config.optimizer.get_experimental_options()
    yield tf.config.optimizer.get_experimental_options
    tf.config.optimizer.set_experimental_options({"remapping": before.get("remapping", True)})


@pytest.mark.parametrize("asked, becomes", [(None, "1"), ("0", "0"), ("1", "1")])
def test_the_environment_decides(monkeypatch, asked, becomes):
    # Set first, so that what `switch_on` sets is undone as well.
    monkeypatch.setenv(VARIABLE, asked or "")
    if asked is None:
        monkeypatch.delenv(VARIABLE)
    onednn.switch_on()
    assert os.environ[VARIABLE] == becomes


@pytest.mark.parametrize(
    "value, flags, is_off",
    [
        ("1", {"avx2"}, True),
        ("1", {"avx2", "avx_vnni"}, False),
        ("1", {"avx512f", "avx512_vnni"}, False),
        ("0", {"avx2"}, False),
        # Not on Linux, or not an x86 processor.
        ("1", set(), False),
    ],
)
def test_the_fusion_is_off_where_it_is_slow(monkeypatch, options, value, flags, is_off):
    monkeypatch.setenv(VARIABLE, value)
    monkeypatch.setattr(precision, "cpu_flags", lambda: frozenset(flags))
    onednn.keep_convolutions_apart()
    assert (options().get("remapping") is False) == is_off


def test_a_gpu_keeps_its_fusions(monkeypatch, options):
    monkeypatch.setenv(VARIABLE, "1")
    monkeypatch.setattr(precision, "cpu_flags", lambda: frozenset({"avx2"}))
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
    onednn.keep_convolutions_apart()
    assert options().get("remapping") is not False


def test_a_run_does_both_in_time(monkeypatch, parse, tmp_path):
    """Before TensorFlow is imported, and before a graph is built."""
    calls = []
    for module, name in (
        (onednn, "switch_on"),
        (program, "before_tensorflow"),
        (onednn, "keep_convolutions_apart"),
        (session, "run"),
    ):
        monkeypatch.setattr(module, name, lambda *_, name=name: calls.append(name))
    parse(f"--model_dir={tmp_path / 'run'}")
    run._run(rich.console.Console(file=io.StringIO()))
    assert calls == ["switch_on", "before_tensorflow", "keep_convolutions_apart", "run"]
