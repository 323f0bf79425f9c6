"""What the tasks do with `task.model.compatibility: mmdetection`."""

import contextlib
from collections.abc import Iterator
from unittest import mock

from official.modeling import hyperparams
from official.vision.modeling import factory
from official.vision.ops import anchor

from libra_tf.modeling.mmdetection import models
from libra_tf.modeling.mmdetection.anchors import AnchorGenerator


@contextlib.contextmanager
def parts_for(model_config: hyperparams.Config) -> Iterator[None]:
    """Lets Model Garden's tasks build MMDetection's detectors and anchors, if the config says so.

    The tasks name the functions that build both, and take no others.

    Args:
      model_config: config with `compatibility`.
    """
    if not model_config.compatibility:
        yield
        return
    with (
        mock.patch.object(factory, "build_retinanet", models.build_retinanet),
        mock.patch.object(factory, "build_maskrcnn", models.build_fasterrcnn),
        mock.patch.object(anchor, "build_anchor_generator", AnchorGenerator),
    ):
        yield
