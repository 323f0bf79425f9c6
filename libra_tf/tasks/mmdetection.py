"""What the tasks do with `task.model.compatibility: mmdetection`."""

import contextlib
from collections.abc import Iterator

from official.modeling import hyperparams
from official.vision.modeling import factory
from official.vision.ops import anchor

from libra_tf import compat
from libra_tf.modeling.mmdetection import models
from libra_tf.modeling.mmdetection.anchors import AnchorGenerator


@contextlib.contextmanager
def parts_for(model_config: hyperparams.Config) -> Iterator[None]:
    """Makes Model Garden's tasks build MMDetection's detectors and anchors, if the config says so.

    Args:
      model_config: config with `compatibility`.
    """
    if not model_config.compatibility:
        yield
        return
    with (
        compat.substituted(factory, "build_retinanet", models.build_retinanet),
        compat.substituted(factory, "build_maskrcnn", models.build_fasterrcnn),
        compat.substituted(anchor, "build_anchor_generator", AnchorGenerator),
    ):
        yield
