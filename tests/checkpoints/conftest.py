"""Imported detectors."""

import pytest

MODELS = ("libra_retinanet_r50", "libra_faster_rcnn_r50", "libra_faster_rcnn_x50")


@pytest.fixture(scope="session")
def imported(golden_models):
    """By name, the golden detectors in TensorFlow."""
    from libra_tf.checkpoints import mmdet

    return {name: mmdet.import_detector(str(golden_models / f"{name}.pth")) for name in MODELS}
