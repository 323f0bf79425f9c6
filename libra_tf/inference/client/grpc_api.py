"""TensorFlow Serving's gRPC API. Its messages are TensorFlow's, so importing it is slow."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from libra_tf.inference import answers
from libra_tf.inference.client import errors, retrying
from libra_tf.inference.client.target import Target
from libra_tf.inference.signature import INPUT, SIGNATURE


class GrpcTransport:
    """Asks one model over gRPC, without encryption; several threads may use it at once.

    Args:
      target: the model to ask; its server begins with `grpc://`.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        address = target.server.removeprefix("grpc://")
        self._channel = grpc.insecure_channel(address, options=_options(target.retries))
        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._model = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def states(self) -> dict[int, str]:
        """Returns the state, such as `AVAILABLE`, of each version that the target selects.

        Raises:
          ServerError: if the server cannot be reached or does not know the model.
          RequestError: if the server does not answer.
        """
        request = get_model_status_pb2.GetModelStatusRequest()
        self._fill(request.model_spec)
        response = self._call(self._model.GetModelStatus, request)
        name = get_model_status_pb2.ModelVersionStatus.State.Name
        return {status.version: name(status.state) for status in response.model_version_status}

    def predict(self, images: Sequence[bytes]) -> dict[str, np.ndarray]:
        """Returns the outputs of the model for image files.

        Args:
          images: the content of each file.

        Raises:
          ServerError: if no request will be answered.
          RequestError: if this one is not answered; `RefusedError` if an image is the reason.
        """
        request = predict_pb2.PredictRequest()
        self._fill(request.model_spec)
        request.model_spec.signature_name = SIGNATURE
        request.inputs[INPUT].CopyFrom(tf.make_tensor_proto(list(images), dtype=tf.string))
        response = self._call(self._prediction.Predict, request)
        return {
            name: answers.with_text(tf.make_ndarray(value))
            for name, value in response.outputs.items()
        }

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def _fill(self, spec: model_pb2.ModelSpec) -> None:
        spec.name = self._target.model
        if self._target.version is not None:
            spec.version.value = self._target.version
        if self._target.label:
            spec.version_label = self._target.label

    def _call(self, method: Callable[..., Any], request: Any) -> Any:
        """Returns the response of a stub's method, and raises its errors as ours."""
        try:
            return method(request, timeout=self._target.timeout)
        except grpc.RpcError as error:
            raise errors.from_status(error.code().name, error.details(), self._target) from error


def _options(retries: int) -> list[tuple[str, int | str]]:
    """Returns the options of a channel that retries."""
    policy = {
        "maxAttempts": retries + 1,
        "initialBackoff": f"{retrying.FIRST_WAIT_SECONDS}s",
        "maxBackoff": f"{retrying.LONGEST_WAIT_SECONDS}s",
        "backoffMultiplier": retrying.FACTOR,
        "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
    }
    service = {"name": [{"service": "tensorflow.serving.PredictionService"}]}
    if retries:
        service["retryPolicy"] = policy
    return [
        ("grpc.service_config", json.dumps({"methodConfig": [service]})),
        ("grpc.enable_retries", int(retries > 0)),
        # Requests larger than this are not retried, and the default is too small for photographs.
        ("grpc.per_rpc_retry_buffer_size", 2**30),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        # Reconnect to a restarted server before the retries are used up.
        ("grpc.initial_reconnect_backoff_ms", 500),
        ("grpc.max_reconnect_backoff_ms", 2000),
    ]
