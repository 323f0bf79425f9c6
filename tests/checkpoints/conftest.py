"""Imported detectors. MMDetection's checkpoints need PyTorch: `pip install '.[mmdet]'`."""

import importlib.util
import os

import pytest

from libra_tf import compat
from tests.checkpoints.names import MODELS

if importlib.util.find_spec("torch") is None:
    # In CI a golden test that does not run is a failure; the addons lane is installed without.
    if os.environ.get("CI") and not compat.IS_ADDONS_LANE:
        raise pytest.UsageError("CI needs PyTorch: install the extra `mmdet`")
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def imported(golden_models):
    """The golden detectors in TensorFlow, by name."""
    from libra_tf.checkpoints import importing

    return {name: importing.import_detector(str(golden_models / f"{name}.pth")) for name in MODELS}
