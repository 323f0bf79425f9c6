"""Support for `task.model.compatibility: mmdetection` in the tasks."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf
from official.core import config_definitions as cfg
from official.modeling import hyperparams
from official.vision.modeling import factory
from official.vision.ops import anchor

from libra_tf import compat
from libra_tf.dataloaders import orientation
from libra_tf.modeling.mmdetection import models
from libra_tf.modeling.mmdetection.anchors import AnchorGenerator


@contextlib.contextmanager
def parts_for(model_config: hyperparams.Config) -> Iterator[None]:
    """Makes Model Garden's tasks build MMDetection's detectors and anchors while the block runs.

    Without `compatibility` in the config, nothing changes.

    Args:
      model_config: config of the model.
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


def batching_for(
    model_config: hyperparams.Config,
    data: cfg.DataConfig,
    input_context: tf.distribute.InputContext | None,
) -> contextlib.AbstractContextManager[None]:
    """Lets the block build training data as MMDetection batches them: by orientation.

    Without `compatibility` in the config, nothing changes. Enter it after any other context that
    replaces Model Garden's reader.

    Args:
      model_config: config of the model.
      data: config of the data.
      input_context: of the input pipeline that the block builds; None for the only one.
    """
    if not model_config.compatibility or not data.is_training:
        return contextlib.nullcontext()
    return orientation.batching(data, input_context)
