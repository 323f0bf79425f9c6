"""Warm-up requests, which TensorFlow Serving runs before it makes a model available.

https://www.tensorflow.org/tfx/serving/saved_model_warmup
"""

import os
from collections.abc import Mapping

import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

PATH = os.path.join("assets.extra", "tf_serving_warmup_requests")


def write_requests(folder: str, requests: Mapping[str, Mapping[str, tf.Tensor]]) -> None:
    """Writes the requests that a server runs after loading a model.

    Args:
      folder: the SavedModel's version folder.
      requests: signature -> its inputs by name.
    """
    path = os.path.join(folder, PATH)
    tf.io.gfile.makedirs(os.path.dirname(path))
    with tf.io.TFRecordWriter(path) as writer:
        for signature, inputs in requests.items():
            writer.write(_log(signature, inputs).SerializeToString())


def _log(signature: str, inputs: Mapping[str, tf.Tensor]) -> prediction_log_pb2.PredictionLog:
    request = predict_pb2.PredictRequest()
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return prediction_log_pb2.PredictionLog(
        predict_log=prediction_log_pb2.PredictLog(request=request)
    )
