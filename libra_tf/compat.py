"""The one place that knows which Keras and which Model Garden are installed.

Two lanes are supported:

* current: TensorFlow 2.20 with tf-models-official 2.20, which is built on `tf_keras`;
* addons: TensorFlow 2.15 with tf-models-official 2.15 and TensorFlow Addons, built on `tf.keras`.

The two Keras packages can be installed side by side, but their classes are different, so all code
that subclasses Keras imports `keras` from here. `substituted` replaces names that Model Garden
hardcodes.
"""

import contextlib
import types
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

_TF_VERSION = tuple(int(part) for part in tf.__version__.split(".")[:2])

# Since TensorFlow 2.16, `tf.keras` is Keras 3, which Model Garden does not use.
IS_ADDONS_LANE = _TF_VERSION < (2, 16)

if IS_ADDONS_LANE:
    keras = tf.keras
else:
    import tf_keras as keras


def tflite_interpreter(model: bytes, num_threads: int) -> Any:
    """Loads a TensorFlow Lite model.

    Args:
      model: content of the model file.
      num_threads: maximum number of threads to use for one image.

    Returns:
      An `ai_edge_litert.interpreter.Interpreter`, which tf-models-official installs, or in the
      addons lane its predecessor, a `tf.lite.Interpreter`.

    Raises:
      ValueError: if the content is not a model.
    """
    if IS_ADDONS_LANE:
        return tf.lite.Interpreter(model_content=model, num_threads=num_threads)
    from ai_edge_litert import interpreter

    return interpreter.Interpreter(model_content=model, num_threads=num_threads)


@contextlib.contextmanager
def substituted(owner: types.ModuleType, name: str, replacement: Any) -> Iterator[None]:
    """Replaces a name in a module, usually one of Model Garden, while the block runs.

    This is only for places where a Model Garden method hardcodes a class or function and has no
    argument for it. In tf-models-official 2.15 and 2.20, these are:

    * `official/vision/tasks/retinanet.py`, `build_inputs`: `retinanet_input.Parser`;
    * `official/vision/tasks/maskrcnn.py`, `build_inputs`: `maskrcnn_input.Parser`;
    * `official/vision/tasks/retinanet.py`, `build_metrics`, and
      `official/vision/tasks/maskrcnn.py`, `_build_coco_metrics`: `coco_evaluator.COCOEvaluator`;
    * both tasks, `build_model`: `factory.build_retinanet` and `factory.build_maskrcnn`;
    * both parsers: `anchor.build_anchor_generator`;
    * both tasks, `build_inputs`: `input_reader_factory.input_reader_generator`;
    * `official/vision/dataloaders/input_reader_factory.py`, and our readers in its place:
      `input_reader.InputReader`, for images that are repeated;
    * `official/vision/tasks/retinanet.py`, `build_losses`: `focal_loss.FocalLoss`, for weights of
      the classes (the name of the module is replaced, in the task's);
    * `official/vision/modeling/factory.py`, `build_retinanet` and `build_maskrcnn`: the classes
      of `dense_prediction_heads`, `instance_heads`, `roi_generator`, `roi_sampler` and
      `mask_sampler`;
    * the parsers' random draws, which are in TensorFlow itself: `tf.random.uniform`, `normal` and
      `shuffle`, `tf.image.sample_distorted_bounding_box`, and `tf.while_loop` around them. Only
      while a parser of a seeded training is traced; see `libra_tf.dataloaders.draws`.

    Do not build different tasks in several threads at once: this is not thread-safe.

    Args:
      owner: the module in which Model Garden looks up the name.
      name: the name to replace.
      replacement: what the name refers to while the block runs.
    """
    original = getattr(owner, name)
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        setattr(owner, name, original)


__all__ = ["IS_ADDONS_LANE", "keras", "substituted", "tflite_interpreter"]
