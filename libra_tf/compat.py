"""The one place that knows which Keras and which Model Garden are installed.

Two lanes are supported:

* current: TensorFlow 2.20 with tf-models-official 2.20, which is built on `tf_keras`;
* addons: TensorFlow 2.15 with tf-models-official 2.15 and TensorFlow Addons, built on `tf.keras`.

The two Keras packages can be installed side by side but their classes are different, so
everything that subclasses Keras takes `keras` from here.
"""

import tensorflow as tf

_TF_VERSION = tuple(int(part) for part in tf.__version__.split(".")[:2])

# From 2.16 on `tf.keras` is Keras 3, which Model Garden is not built on.
IS_ADDONS_LANE = _TF_VERSION < (2, 16)

if IS_ADDONS_LANE:
    keras = tf.keras
else:
    import tf_keras as keras


def tflite_interpreter(model: bytes, num_threads: int):
    """Loads a TensorFlow Lite model.

    Args:
      model: the content of its file.
      num_threads: how many threads may work on one image.

    Returns:
      An interpreter: `ai_edge_litert.interpreter.Interpreter`, which tf-models-official brings
      along, or in the addons lane its predecessor `tf.lite.Interpreter`.

    Raises:
      ValueError: if it is not a model.
    """
    if IS_ADDONS_LANE:
        return tf.lite.Interpreter(model_content=model, num_threads=num_threads)
    from ai_edge_litert import interpreter

    return interpreter.Interpreter(model_content=model, num_threads=num_threads)


__all__ = ["IS_ADDONS_LANE", "keras", "tflite_interpreter"]
