"""TensorFlow Serving's REST API. https://www.tensorflow.org/tfx/serving/api_rest"""

import base64
import time
import urllib.parse
from collections.abc import Sequence

import numpy as np
import requests
import requests.adapters
import urllib3

from libra_tf.inference.client import errors, retrying
from libra_tf.inference.client.target import INPUT, SIGNATURE, Target

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
    """Asks one model over HTTP; may be used by several threads.

    Args:
      target: what is asked; its server begins with `http://` or `https://`.
    """

    def __init__(self, target: Target):
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
        """Returns the state of every version that is asked for, such as `AVAILABLE`.

        Raises:
          ServerError: if the server is not there or does not know the model.
          RequestError: if it does not say.
        """
        # Asked once: whoever waits for it asks again.
        document = self._send("GET", self._url, "model_version_status", retries=0)
        return {int(status["version"]): status["state"] for status in document}

    def predict(self, images: Sequence[bytes]) -> dict[str, np.ndarray]:
        """Returns the outputs of the model for image files.

        Raises:
          ServerError: if no request will be answered.
          RequestError: if this one is not; `RefusedError` if because of an image.
        """
        encoded = [{"b64": base64.b64encode(image).decode()} for image in images]
        request = {"signature_name": SIGNATURE, "inputs": {INPUT: encoded}}
        outputs = self._send(
            "POST", f"{self._url}:predict", "outputs", retries=self._target.retries, json=request
        )
        if not isinstance(outputs, dict):
            raise errors.ServerError(
                f"{self._target} on {self._target.server} gives one output only; serve a folder "
                "that export/saved_model.py wrote"
            )
        return {name: np.array(value) for name, value in outputs.items()}

    def close(self) -> None:
        """Closes the connections."""
        self._session.close()

    def _send(self, method, url, key, retries, **kwargs):
        """Returns what the answer has under `key`.

        Sends again what was cut off, wherever in the answer, but not what took too long, which
        would load a slow server. urllib3's own repetitions end before the answer's body, and wait
        for as long as a `Retry-After` says.
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

    def _take(self, response, key):
        """Returns what an answer has under `key`."""
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
    """Says whether the server was silent for too long, before its answer or within it."""
    is_in_body = error.args and isinstance(error.args[0], urllib3.exceptions.ReadTimeoutError)
    return is_in_body or isinstance(error, requests.exceptions.ReadTimeout)


def _reason(error: requests.exceptions.RequestException) -> str:
    """Returns the system's words out of the exceptions around them."""
    while error.__context__ is not None:
        error = error.__context__
    words = getattr(error, "strerror", None) or str(error)
    # What another protocol sends is not for reading.
    return words if words.isprintable() and words else type(error).__name__
