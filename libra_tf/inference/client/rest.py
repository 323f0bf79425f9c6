"""TensorFlow Serving's REST API. https://www.tensorflow.org/tfx/serving/api_rest"""

import base64
import time
import urllib.parse
from collections.abc import Sequence
from typing import Any

import numpy as np
import requests
import requests.adapters
import urllib3

from libra_tf.inference.client import errors, retrying
from libra_tf.inference.client.target import Target
from libra_tf.inference.signature import INPUT, SIGNATURE

_CODES = {
    400: "INVALID_ARGUMENT",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}

_REPEATED_STATUSES = (429, 503)
_BROKEN = (requests.exceptions.ConnectionError, requests.exceptions.ChunkedEncodingError)


class RestTransport:
    """Asks one model over HTTP; several threads may use it at once.

    Args:
      target: the model to ask; its server begins with `http://` or `https://`.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._url = f"{target.server}/v1/models/{urllib.parse.quote(target.model, safe='')}"
        if target.version is not None:
            self._url += f"/versions/{target.version}"
        if target.label:
            self._url += f"/labels/{urllib.parse.quote(target.label, safe='')}"
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=target.concurrency)
        self._session = requests.Session()
        self._session.mount(target.server, adapter)

    def states(self) -> dict[int, str]:
        """Returns the state, such as `AVAILABLE`, of each version that the target selects.

        Raises:
          ServerError: if the server cannot be reached or does not know the model.
          RequestError: if the server does not answer.
        """
        # No retries here: a caller that waits for the model asks again anyway.
        document = self._send("GET", self._url, "model_version_status", retries=0)
        return {int(status["version"]): status["state"] for status in document}

    def predict(self, images: Sequence[bytes]) -> dict[str, np.ndarray]:
        """Returns the outputs of the model for image files.

        Args:
          images: the content of each file.

        Raises:
          ServerError: if no request will be answered.
          RequestError: if this one is not answered; `RefusedError` if an image is the reason.
        """
        encoded = [{"b64": base64.b64encode(image).decode()} for image in images]
        request = {"signature_name": SIGNATURE, "inputs": {INPUT: encoded}}
        outputs = self._send(
            "POST", f"{self._url}:predict", "outputs", retries=self._target.retries, json=request
        )
        if not isinstance(outputs, dict):
            raise errors.ServerError(
                f"{self._target} on {self._target.server} returns only one output; serve a folder "
                "that libra-tf export wrote"
            )
        return {name: np.array(value) for name, value in outputs.items()}

    def close(self) -> None:
        """Closes the connections."""
        self._session.close()

    def _send(self, method: str, url: str, key: str, retries: int, **kwargs: Any) -> Any:
        """Returns the value under `key` in the JSON answer to a request.

        A request is sent again if the connection breaks, even in the middle of the answer, but not
        if it timed out, which would load a slow server further. urllib3's own retries do not cover
        the body of the answer, and wait for as long as `Retry-After` says.
        """
        for wait in [*retrying.waits(retries), None]:
            try:
                response = self._session.request(
                    method, url, timeout=self._target.timeout, **kwargs
                )
            except requests.exceptions.RequestException as error:
                if _is_read_timeout(error):
                    raise errors.from_status("DEADLINE_EXCEEDED", "", self._target) from error
                if wait is None or not isinstance(error, _BROKEN):
                    raise errors.from_status("UNAVAILABLE", _reason(error), self._target) from error
            else:
                if wait is None or response.status_code not in _REPEATED_STATUSES:
                    return self._take(response, key)
            time.sleep(wait)

    def _take(self, response: requests.Response, key: str) -> Any:
        """Returns the value under `key` in an answer, or raises the error that it reports."""
        try:
            document = response.json() if response.content else None
        except requests.exceptions.JSONDecodeError:
            document = None
        if response.ok and isinstance(document, dict) and key in document:
            return document[key]
        code = _CODES.get(response.status_code, f"HTTP status {response.status_code}")
        if isinstance(document, dict) and "error" in document:
            raise errors.from_status(code, str(document["error"]), self._target)
        if code == "INVALID_ARGUMENT" or response.ok:
            code = f"HTTP status {response.status_code}"
        message = f"HTTP status {response.status_code} without TensorFlow Serving's JSON"
        raise errors.from_status(code, message, self._target)


def _is_read_timeout(error: requests.exceptions.RequestException) -> bool:
    """Returns whether the server was silent for too long, before or within its answer."""
    is_in_body = bool(error.args) and isinstance(error.args[0], urllib3.exceptions.ReadTimeoutError)
    return is_in_body or isinstance(error, requests.exceptions.ReadTimeout)


def _reason(error: requests.exceptions.RequestException) -> str:
    """Returns the system's own message from within the nested exceptions."""
    while error.__context__ is not None:
        error = error.__context__
    words = getattr(error, "strerror", None) or str(error)
    # A server that speaks another protocol puts binary data into the message.
    return words if words.isprintable() and words else type(error).__name__
