"""A stand-in for TensorFlow Serving: the parts of its gRPC and REST API that the client uses.

    python tests/inference/server.py --model_name=cells --model_base_path=served/cells

It exists to test the client, and to try it without the real server; benchmarks/soak.py measures
TensorFlow's own runtime. It has what the client uses: Predict and GetModelStatus, REST with JSON in
columns, and model config files with version policies and labels. Flags, ports, paths, status codes
and error messages are those of `tensorflow_model_server`. It has no batching, does not reload
configs, and does not look for new versions.

Source: github.com/tensorflow/serving, model_servers/ and util/json_tensor.cc.
"""

import argparse
import base64
import concurrent.futures
import contextlib
import dataclasses
import http
import http.server
import json
import os
import pathlib
import re
import signal
import socketserver
import threading
import urllib.parse
from collections.abc import Callable, Iterator

if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)
from tensorflow_serving.config import model_server_config_pb2

errors = tf.errors
WARMUP = "assets.extra/tf_serving_warmup_requests"
GRPC_CODES = {code.value[0]: code for code in grpc.StatusCode}
HTTP_CODES = {
    errors.CANCELLED: 499,
    errors.INVALID_ARGUMENT: 400,
    errors.DEADLINE_EXCEEDED: 504,
    errors.NOT_FOUND: 404,
    errors.ALREADY_EXISTS: 409,
    errors.PERMISSION_DENIED: 403,
    errors.RESOURCE_EXHAUSTED: 429,
    errors.FAILED_PRECONDITION: 400,
    errors.ABORTED: 409,
    errors.OUT_OF_RANGE: 400,
    errors.UNIMPLEMENTED: 501,
    errors.UNAVAILABLE: 503,
    errors.UNAUTHENTICATED: 401,
}
AVAILABLE = get_model_status_pb2.ModelVersionStatus.AVAILABLE
REST_TIMEOUT_SECONDS = 30.0


def invalid_argument(message: str) -> errors.OpError:
    return errors.InvalidArgumentError(None, None, message)


class Version:
    """One version of a model in a session of its own.

    Its warm-up requests are run first; as in TensorFlow Serving, it does not load if one fails.
    """

    def __init__(self, folder: str):
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        load = tf.compat.v1.saved_model.loader.load
        with self._session.graph.as_default():
            self.signatures = load(self._session, ["serve"], folder).signature_def
        if os.path.exists(f"{folder}/{WARMUP}"):
            self._warm_up(f"{folder}/{WARMUP}")

    def _warm_up(self, path: str) -> None:
        for record in tf.data.TFRecordDataset(path):
            log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
            request = log.predict_log.request
            inputs = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
            self.run(self.signatures[request.model_spec.signature_name], inputs, None)

    def run(
        self,
        signature: meta_graph_pb2.SignatureDef,
        inputs: dict[str, np.ndarray],
        timeout_seconds: float | None,
    ) -> dict[str, np.ndarray]:
        """Runs a request as TensorFlow Serving's `RunPredict`."""
        _check_inputs(signature, inputs)
        feed = {signature.inputs[name].name: value for name, value in inputs.items()}
        fetch = {name: info.name for name, info in signature.outputs.items()}
        options = None
        if timeout_seconds is not None:
            milliseconds = max(1, round(1e3 * timeout_seconds))
            options = tf.compat.v1.RunOptions(timeout_in_ms=milliseconds)
        try:
            return self._session.run(fetch, feed, options=options)
        except errors.OpError as error:
            # Put in front by Python.
            message = error.message.removeprefix("Graph execution error:\n\n")
            raise type(error)(None, None, message) from error

    def close(self) -> None:
        self._session.close()


def _check_inputs(signature: meta_graph_pb2.SignatureDef, inputs: dict[str, np.ndarray]) -> None:
    for name in inputs:
        if name not in signature.inputs:
            raise invalid_argument(
                f"input tensor alias not found in signature: {name}. Inputs expected to be in the "
                f"set {{{','.join(sorted(signature.inputs))}}}."
            )


@dataclasses.dataclass
class Model:
    """What is served under a name.

    Attributes:
      versions: number -> version.
      states: number -> what GetModelStatus says; only what is available is served.
      labels: label -> number.
    """

    versions: dict[int, Version]
    states: dict[int, int]
    labels: dict[str, int]


def load_models(config: model_server_config_pb2.ModelServerConfig) -> dict[str, Model]:
    """Loads the versions that the config asks for; by default the newest of every model."""
    models = {}
    for entry in config.model_config_list.config:
        base = pathlib.Path(entry.base_path)
        numbers = sorted(int(path.name) for path in base.iterdir() if path.name.isdecimal())
        policy = entry.model_version_policy
        if policy.WhichOneof("policy_choice") == "specific":
            numbers = list(policy.specific.versions)
        elif policy.WhichOneof("policy_choice") != "all":
            numbers = numbers[-(policy.latest.num_versions or 1) :]
        models[entry.name] = Model(
            {number: Version(str(base / str(number))) for number in numbers},
            dict.fromkeys(numbers, AVAILABLE),
            dict(entry.version_labels),
        )
    return models


def single_model(name: str, base_path: str) -> model_server_config_pb2.ModelServerConfig:
    config = model_server_config_pb2.ModelServerConfig()
    config.model_config_list.config.add(name=name, base_path=base_path, model_platform="tensorflow")
    return config


class Server:
    """Serves models on two ports until it is stopped.

    Args:
      config: the models.
      port: for gRPC; 0 for a free one.
      rest_api_port: for REST; 0 for a free one.
      before_predict: is called at the start of every prediction; tests make it raise or wait.

    Attributes:
      models: name -> its model.
      grpc_address: `host:port`.
      rest_address: `host:port`.
      num_predictions: how many predictions were asked for.
    """

    def __init__(
        self,
        config: model_server_config_pb2.ModelServerConfig,
        port: int = 0,
        rest_api_port: int = 0,
        before_predict: Callable[[], None] = lambda: None,
    ):
        self.models = load_models(config)
        self.before_predict = before_predict
        self.num_predictions = 0
        self._lock = threading.Lock()
        unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._grpc = grpc.server(
            concurrent.futures.ThreadPoolExecutor(16),
            # Otherwise several servers could share a port unnoticed.
            options=[*unlimited, ("grpc.so_reuseport", 0)],
        )
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            _PredictionService(self), self._grpc
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(_ModelService(self), self._grpc)
        self.grpc_address = f"localhost:{self._grpc.add_insecure_port(f'[::]:{port}')}"
        self._rest = _RestServer(("", rest_api_port), _RestHandler)
        self._rest.served = self
        self.rest_address = f"localhost:{self._rest.server_address[1]}"
        self._grpc.start()
        threading.Thread(target=self._rest.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._grpc.stop(grace=None).wait()
        self._rest.shutdown()
        self._rest.server_close()
        for model in self.models.values():
            for version in model.versions.values():
                version.close()

    def find(self, spec: model_pb2.ModelSpec) -> tuple[int, Version]:
        """Returns number and version that a `ModelSpec` asks for."""
        model = self.models.get(spec.name)
        number = self._number(model, spec)
        if number is None or model.states.get(number) != AVAILABLE:
            asked = f"Latest({spec.name})"
            if spec.HasField("version"):
                asked = f"Specific({spec.name}, {spec.version.value})"
            raise errors.NotFoundError(None, None, f"Servable not found for request: {asked}")
        return number, model.versions[number]

    def _number(self, model: Model | None, spec: model_pb2.ModelSpec) -> int | None:
        if spec.version_label:
            if model is None or spec.version_label not in model.labels:
                raise invalid_argument(f"Unrecognized servable version label: {spec.version_label}")
            return model.labels[spec.version_label]
        if model is None:
            return None
        if spec.HasField("version"):
            return spec.version.value
        available = (number for number, state in model.states.items() if state == AVAILABLE)
        return max(available, default=None)

    def status(self, spec: model_pb2.ModelSpec) -> get_model_status_pb2.GetModelStatusResponse:
        response = get_model_status_pb2.GetModelStatusResponse()
        states = self.models[spec.name].states if spec.name in self.models else {}
        if spec.HasField("version"):
            number = spec.version.value
            if number not in states:
                raise errors.NotFoundError(
                    None, None, f"Could not find version {number} of model {spec.name}"
                )
            states = {number: states[number]}
        if not states:
            raise errors.NotFoundError(
                None, None, f"Could not find any versions of model {spec.name}"
            )
        for number, state in states.items():
            response.model_version_status.add(version=number, state=state)
        return response

    def predict(
        self, request: predict_pb2.PredictRequest, timeout_seconds: float | None
    ) -> tuple[int, str, dict[str, np.ndarray]]:
        """Returns version, signature and outputs."""
        with self._lock:
            self.num_predictions += 1
        self.before_predict()
        number, version = self.find(request.model_spec)
        name = request.model_spec.signature_name or "serving_default"
        if name not in version.signatures:
            raise errors.FailedPreconditionError(
                None, None, f'Serving signature key "{name}" not found.'
            )
        inputs = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
        return number, name, version.run(version.signatures[name], inputs, timeout_seconds)


class _PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, served: Server):
        self._served = served

    def Predict(  # noqa: N802, named by the API
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        with _grpc_errors(context):
            number, signature, outputs = self._served.predict(request, context.time_remaining())
            response = predict_pb2.PredictResponse()
            response.model_spec.name = request.model_spec.name
            response.model_spec.version.value = number
            response.model_spec.signature_name = signature
            for name, value in outputs.items():
                response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
            return response


class _ModelService(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, served: Server):
        self._served = served

    def GetModelStatus(  # noqa: N802
        self, request: get_model_status_pb2.GetModelStatusRequest, context: grpc.ServicerContext
    ) -> get_model_status_pb2.GetModelStatusResponse:
        with _grpc_errors(context):
            return self._served.status(request.model_spec)


@contextlib.contextmanager
def _grpc_errors(context: grpc.ServicerContext) -> Iterator[None]:
    """Answers TensorFlow's errors with the same code and message."""
    try:
        yield
    except errors.OpError as error:
        context.abort(GRPC_CODES[error.error_code], error.message)


class _RestServer(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 64


class _RestHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    _WHICH = r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
    _PREDICT = re.compile(rf"/v1/models/(?P<name>[^/:]+){_WHICH}:predict", re.IGNORECASE)
    _STATUS = re.compile(rf"/v1/models/(?P<name>[^/:]+){_WHICH}", re.IGNORECASE)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(self._PREDICT, lambda match: self._predict(match, body))

    def do_GET(self) -> None:
        self._answer(self._STATUS, self._describe)

    def log_message(self, *args: object) -> None:
        pass

    def _answer(self, pattern: re.Pattern, make_document: Callable[[re.Match], dict]) -> None:
        try:
            match = pattern.fullmatch(self.path)
            if not match:
                raise invalid_argument(f"Malformed request: {self.command} {self.path}")
            code, document = http.HTTPStatus.OK, make_document(match)
        except errors.OpError as error:
            code = HTTP_CODES.get(error.error_code, http.HTTPStatus.INTERNAL_SERVER_ERROR)
            document = {"error": error.message}
        encoded = json.dumps(document, indent=4).encode()
        self.send_response(code, "")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    def _predict(self, match: re.Match, body: bytes) -> dict:
        document = json.loads(body)
        request = predict_pb2.PredictRequest()
        _fill_spec(request.model_spec, match)
        name = request.model_spec.signature_name = document["signature_name"]
        _, version = self.server.served.find(request.model_spec)
        if name not in version.signatures:
            raise invalid_argument(f'Serving signature name: "{name}" not found in signature def')
        for key, info in version.signatures[name].inputs.items():
            if key not in document["inputs"]:
                raise invalid_argument(f"Missing named input: {key} in 'inputs' object.")
            values = [base64.b64decode(value["b64"]) for value in document["inputs"][key]]
            request.inputs[key].CopyFrom(tf.make_tensor_proto(values, info.dtype))
        _, _, outputs = self.server.served.predict(request, REST_TIMEOUT_SECONDS)
        return {"outputs": {key: _to_json(value) for key, value in outputs.items()}}

    def _describe(self, match: re.Match) -> dict:
        request = get_model_status_pb2.GetModelStatusRequest()
        _fill_spec(request.model_spec, match)
        state_name = get_model_status_pb2.ModelVersionStatus.State.Name
        return {
            "model_version_status": [
                {
                    "version": str(status.version),
                    "state": state_name(status.state),
                    "status": {"error_code": "OK", "error_message": ""},
                }
                for status in self.server.served.status(request.model_spec).model_version_status
            ]
        }


def _fill_spec(spec: model_pb2.ModelSpec, match: re.Match) -> None:
    spec.name = urllib.parse.unquote(match["name"])
    if match["version"]:
        spec.version.value = int(match["version"])
    if match["label"]:
        spec.version_label = urllib.parse.unquote(match["label"])


def _to_json(value: np.ndarray) -> list:
    is_text = value.dtype == object
    return (np.char.decode(value.astype(bytes)) if is_text else value).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--port", type=int, default=8500, help="for gRPC")
    parser.add_argument("--rest_api_port", type=int, default=8501, help="for REST")
    parser.add_argument("--model_name", default="default")
    parser.add_argument("--model_base_path", help="folder of the model's versions")
    parser.add_argument("--model_config_file", help="used instead of the two above")
    arguments = parser.parse_args()
    config = single_model(arguments.model_name, arguments.model_base_path)
    if arguments.model_config_file:
        text = pathlib.Path(arguments.model_config_file).read_text()
        config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    server = Server(config, arguments.port, arguments.rest_api_port)
    print(f"gRPC on {server.grpc_address}, REST on {server.rest_address}", flush=True)
    signal.sigwait({signal.SIGINT, signal.SIGTERM})
    server.stop()


if __name__ == "__main__":
    main()
