"""The flags of `run.py`, for tests in this process."""

import pytest
from absl import flags

from libra_tf.runner import flags as runner_flags


@pytest.fixture(scope="module")
def define():
    if "dataset" not in flags.FLAGS:
        runner_flags.define_flags()


@pytest.fixture
def parse(define):
    """Returns a function from command-line arguments to parsed flags."""

    def parse(*args):
        flags.FLAGS.unparse_flags()
        for name in (
            "config_file",
            "params_override",
            "tpu",
            "experiment",
            "model_dir",
            "dataset",
            "seed",
            "cache_dir",
        ):
            flags.FLAGS[name].unparse()
        flags.FLAGS(["run.py", "--mode=train", *args])
        return flags.FLAGS

    return parse
