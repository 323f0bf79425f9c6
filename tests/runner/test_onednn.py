"""oneDNN is on in a run, and where TensorFlow would leave it off, the slow fusion is off."""

import os
import subprocess
import sys

import pytest
import tensorflow as tf

from libra_tf import precision
from libra_tf.runner import onednn

VARIABLE = "TF_ENABLE_ONEDNN_OPTS"


@pytest.fixture
def options():
    """Grappler's options, as they are read; they are the process's own."""
    before = tf.config.optimizer.get_experimental_options()
    yield tf.config.optimizer.get_experimental_options
    tf.config.optimizer.set_experimental_options({"remapping": before.get("remapping", True)})


@pytest.mark.parametrize("asked, becomes", [(None, "1"), ("0", "0"), ("1", "1")])
def test_the_environment_decides(monkeypatch, asked, becomes):
    if asked is None:
        monkeypatch.delenv(VARIABLE, raising=False)
    else:
        monkeypatch.setenv(VARIABLE, asked)
    onednn.switch_on()
    assert os.environ[VARIABLE] == becomes


@pytest.mark.parametrize(
    "value, flags, is_off",
    [
        ("1", {"avx2"}, True),
        ("1", {"avx2", "avx_vnni"}, False),
        ("1", {"avx512f", "avx512_vnni"}, False),
        ("0", {"avx2"}, False),
    ],
)
def test_the_fusion_is_off_where_it_is_slow(monkeypatch, options, value, flags, is_off):
    monkeypatch.setenv(VARIABLE, value)
    monkeypatch.setattr(precision, "cpu_flags", lambda: frozenset(flags))
    onednn.keep_convolutions_apart()
    assert (options().get("remapping") is False) == is_off


def test_importing_it_does_not_import_tensorflow():
    code = "import sys, libra_tf.runner.onednn; print('tensorflow' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
