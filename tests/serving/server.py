"""A stand-in for TensorFlow Serving: speaks the same gRPC and REST API on top of a SavedModel.

    python tests/serving/server.py --model_name=cells --model_base_path=served/cells

It is there for tests, and to try the client without the real server. The model runs as it does in
TensorFlow Serving, in a session on the graph of the folder. Flags, ports, paths, JSON forms, status
codes and error messages are those of `tensorflow_model_server`, as far as they are here: Predict,
GetModelMetadata and GetModelStatus; model config files with version policies and labels. It has no
batching, no reloading of configs, and does not look for new versions.

Source: github.com/tensorflow/serving, model_servers/ and util/json_tensor.cc.
"""

import argparse
import base64
import binascii
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
from collections.abc import Callable

if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import json_format, text_format
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
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

    def run(self, signature, inputs, timeout_seconds) -> dict[str, np.ndarray]:
        """Checks and runs a request as TensorFlow Serving's `RunPredict`."""
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
        except UnicodeDecodeError as error:
            # Messages about damaged tf.Examples repeat their bytes, which Python cannot take over.
            raise invalid_argument("the error message is not text") from error

    def close(self):
        self._session.close()


def _check_inputs(signature, inputs) -> None:
    sent, required = set(inputs), set(signature.inputs)
    if len(sent) != len(required):
        extra, missing = ",".join(sorted(sent - required)), ",".join(sorted(required - sent))
        raise invalid_argument(
            f"input size does not match signature: {len(sent)}!={len(required)} "
            f"len({{{','.join(sorted(sent))}}}) != len({{{','.join(sorted(required))}}}). "
            f"Sent extra: {{{extra}}}. Missing but required: {{{missing}}}."
        )
    for i, (name, value) in enumerate(inputs.items()):
        if name not in required:
            raise invalid_argument(
                f"input tensor alias not found in signature: {name}. Inputs expected to be in the "
                f"set {{{','.join(sorted(required))}}}."
            )
        info = signature.inputs[name]
        sent_type = tf.as_dtype(value.dtype if value.dtype != object else tf.string)
        expected = tf.as_dtype(info.dtype)
        if sent_type != expected:
            raise invalid_argument(
                f"Expects arg[{i}] to be {expected.name} but {sent_type.name} is provided"
            )
        if not tf.TensorShape(info.tensor_shape).is_compatible_with(value.shape):
            raise invalid_argument(
                f"Input to reshape has shape {list(value.shape)}, expected "
                f"{tf.TensorShape(info.tensor_shape)}"
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

    def find(self, spec) -> tuple[int, Version]:
        """Returns number and version that a `ModelSpec` asks for."""
        model = self.models.get(spec.name)
        number = self._number(model, spec)
        if number is None or model.states.get(number) != AVAILABLE:
            asked = f"Latest({spec.name})"
            if spec.HasField("version"):
                asked = f"Specific({spec.name}, {spec.version.value})"
            raise errors.NotFoundError(None, None, f"Servable not found for request: {asked}")
        return number, model.versions[number]

    def _number(self, model, spec) -> int | None:
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

    def status(self, spec) -> get_model_status_pb2.GetModelStatusResponse:
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

    def predict(self, request, timeout_seconds) -> tuple[int, str, dict[str, np.ndarray]]:
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
        try:
            inputs = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
        except (ValueError, TypeError) as error:
            raise invalid_argument(f"Tensor parsing failed: {error}") from error
        return number, name, version.run(version.signatures[name], inputs, timeout_seconds)


class _PredictionService:
    def __init__(self, served: Server):
        self._served = served

    def Predict(self, request, context):  # noqa: N802, named by the API
        with _grpc_errors(context):
            number, signature, outputs = self._served.predict(request, context.time_remaining())
            response = predict_pb2.PredictResponse()
            response.model_spec.name = request.model_spec.name
            response.model_spec.version.value = number
            response.model_spec.signature_name = signature
            for name, value in outputs.items():
                response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
            return response

    def GetModelMetadata(self, request, context):  # noqa: N802
        with _grpc_errors(context):
            if list(request.metadata_field) != ["signature_def"]:
                raise invalid_argument("GetModelMetadata request needs the field signature_def")
            number, signatures = _signatures(self._served, request.model_spec)
            response = get_model_metadata_pb2.GetModelMetadataResponse()
            response.model_spec.name = request.model_spec.name
            response.model_spec.version.value = number
            response.metadata["signature_def"].Pack(signatures)
            return response

    def Classify(self, request, context):  # noqa: N802
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "not in this stand-in")

    Regress = MultiInference = Classify


class _ModelService:
    def __init__(self, served: Server):
        self._served = served

    def GetModelStatus(self, request, context):  # noqa: N802
        with _grpc_errors(context):
            return self._served.status(request.model_spec)

    def HandleReloadConfigRequest(self, request, context):  # noqa: N802
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "not in this stand-in")


@contextlib.contextmanager
def _grpc_errors(context):
    """Answers TensorFlow's errors with the same code and message."""
    try:
        yield
    except errors.OpError as error:
        context.abort(GRPC_CODES[error.error_code], error.message)


def _signatures(served: Server, spec):
    number, version = served.find(spec)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    for name, signature in version.signatures.items():
        signatures.signature_def[name].CopyFrom(signature)
    return number, signatures


class _RestServer(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 64


class _RestHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    _WHICH = r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
    _PREDICT = re.compile(rf"/v1/models/(?P<name>[^/:]+){_WHICH}:predict", re.IGNORECASE)
    _STATUS = re.compile(
        rf"/v1/models/(?P<name>[^/:]+){_WHICH}(?P<metadata>/metadata)?", re.IGNORECASE
    )

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(self._PREDICT, lambda match: self._predict(match, body))

    def do_GET(self):
        self._answer(self._STATUS, self._describe)

    def log_message(self, *args):
        pass

    def _answer(self, pattern, make_document):
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

    def _predict(self, match, body):
        document = _parse(body)
        request = predict_pb2.PredictRequest()
        _fill_spec(request.model_spec, match)
        request.model_spec.signature_name = document.get("signature_name", "")
        _, version = self.server.served.find(request.model_spec)
        name = request.model_spec.signature_name or "serving_default"
        if name not in version.signatures:
            raise invalid_argument(f'Serving signature name: "{name}" not found in signature def')
        is_rows = "instances" in document
        for key, value in _tensors(document, version.signatures[name].inputs).items():
            request.inputs[key].CopyFrom(value)
        _, _, outputs = self.server.served.predict(request, REST_TIMEOUT_SECONDS)
        outputs = {key: _to_json(key, value) for key, value in outputs.items()}
        if not is_rows:
            return {"outputs": _without_only_name(outputs)}
        rows = [dict(zip(outputs, row, strict=True)) for row in zip(*outputs.values(), strict=True)]
        return {"predictions": [_without_only_name(row) for row in rows]}

    def _describe(self, match):
        request = get_model_status_pb2.GetModelStatusRequest()
        _fill_spec(request.model_spec, match)
        if match["metadata"]:
            number, signatures = _signatures(self.server.served, request.model_spec)
            spec = {"name": request.model_spec.name, "signature_name": "", "version": str(number)}
            signature_def = json_format.MessageToDict(signatures, preserving_proto_field_name=True)
            return {"model_spec": spec, "metadata": {"signature_def": signature_def}}
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


def _fill_spec(spec, match) -> None:
    spec.name = urllib.parse.unquote(match["name"])
    if match["version"]:
        spec.version.value = int(match["version"])
    if match["label"]:
        spec.version_label = urllib.parse.unquote(match["label"])


def _parse(body: bytes) -> dict:
    if not body:
        raise invalid_argument("JSON Parse error: The document is empty")
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise invalid_argument(f"JSON Parse error: {error}") from error
    if not isinstance(document, dict):
        raise invalid_argument(f"JSON Value: {json.dumps(document)} Is not object")
    if not isinstance(document.get("signature_name", ""), str):
        raise invalid_argument(
            f"JSON Value: {json.dumps(document)} not formatted correctly. 'signature_name' key "
            "must be a string value."
        )
    return document


def _tensors(document: dict, inputs) -> dict:
    """Input name -> tensor, from the row form (`instances`) or the columnar one (`inputs`)."""
    if ("instances" in document) == ("inputs" in document):
        raise invalid_argument(
            f"JSON Value: {json.dumps(document)} Not formatted correctly expecting only one of "
            "'inputs' or 'instances' keys to exist "
            if "inputs" in document
            else "Missing 'inputs' or 'instances' key"
        )
    columns = document.get("inputs")
    if "instances" in document:
        columns = _columns(document["instances"], inputs)
    if not isinstance(columns, dict) or set(columns) == {"b64"}:
        if len(inputs) > 1:
            raise invalid_argument(
                "inputs is a plain value/list, but expecting an object as multiple input tensors "
                "required as per tensorinfo_map"
            )
        columns = {next(iter(inputs)): columns}
    for name in inputs:
        if name not in columns:
            raise invalid_argument(f"Missing named input: {name} in 'inputs' object.")
    return {name: _tensor(columns[name], info.dtype) for name, info in inputs.items()}


def _columns(instances, inputs):
    if not isinstance(instances, list):
        raise invalid_argument("JSON Value: Excepting 'instances' to be an list/array")
    if not instances:
        raise invalid_argument("JSON Value: No values in 'instances' array")
    if not isinstance(instances[0], dict) or set(instances[0]) == {"b64"}:
        return instances
    for i, row in enumerate(instances):
        if not isinstance(row, dict) or set(row) != set(inputs):
            raise invalid_argument(
                f"Failed to process element: {i} of 'instances' list. JSON object: "
                f"{json.dumps(row)} keys must be equal to: {','.join(sorted(inputs))}"
            )
    return {name: [row[name] for row in instances] for name in inputs}


def _tensor(value, dtype):
    dtype = tf.as_dtype(dtype)
    leaves, shape = [], _shape(value)
    _collect(value, shape, 0, dtype, leaves)
    try:
        return tf.make_tensor_proto(leaves, dtype=dtype, shape=shape)
    except (ValueError, TypeError, OverflowError) as error:
        raise invalid_argument(f"JSON Value: {error}") from error


def _shape(value) -> list[int]:
    if not isinstance(value, list):
        return []
    return [len(value), *(_shape(value[0]) if value else [])]


def _collect(value, shape, level, dtype, leaves) -> None:
    if not isinstance(value, list):
        if level != len(shape):
            raise invalid_argument(
                f"JSON Value: {json.dumps(value)} found at incorrect level: {level + 1} in the "
                f"JSON DOM. Expected at level: {len(shape)}"
            )
        leaves.append(_leaf(value, dtype))
        return
    if level >= len(shape):
        raise invalid_argument(
            f"Encountered list at unexpected level: {level} expected < {len(shape)}"
        )
    if len(value) != shape[level]:
        raise invalid_argument(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: "
            f"{shape[level]}"
        )
    for item in value:
        _collect(item, shape, level + 1, dtype, leaves)


def _leaf(value, dtype):
    if dtype == tf.string and isinstance(value, str):
        return value.encode(errors="surrogatepass")
    if dtype == tf.string and isinstance(value, dict):
        if set(value) != {"b64"} or not isinstance(value["b64"], str):
            raise invalid_argument(
                f"JSON Value: {json.dumps(value)} not formatted correctly for base64 data"
            )
        try:
            return base64.b64decode(value["b64"], validate=True)
        except binascii.Error:
            raise invalid_argument("Unable to base64 decode") from None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if dtype == tf.string or not is_number:
        kinds = {dict: "Object", str: "String", bool: str(value), type(None): "Null"}
        raise invalid_argument(
            f"JSON Value: {json.dumps(value)} Type: {kinds.get(type(value), 'Number')} is not of "
            f"expected type: {dtype.name}"
        )
    return value


def _to_json(name: str, value: np.ndarray):
    if value.dtype != object:
        return value.tolist()
    decode = np.vectorize(
        (lambda item: {"b64": base64.b64encode(item).decode()})
        if name.endswith("_bytes")
        else (lambda item: item.decode()),
        otypes=[object],
    )
    return decode(value).tolist() if value.size else value.tolist()


def _without_only_name(outputs: dict):
    return next(iter(outputs.values())) if len(outputs) == 1 else outputs


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
