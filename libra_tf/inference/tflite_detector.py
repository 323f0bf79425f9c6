"""Detection with a TensorFlow Lite file that `export/tflite.py` wrote."""

import json
import os
import pathlib
import threading
import zipfile
from collections.abc import Sequence

import numpy as np

from libra_tf.cli import quiet
from libra_tf.cli.errors import UsageError
from libra_tf.compat import tflite_interpreter
from libra_tf.inference.client import errors
from libra_tf.serving import tflite
from libra_tf.serving.images import MAX_PIXELS


class TFLiteDetector:
    """Detects with a converted detector; may be used by several threads, which take turns.

    Args:
      path: the file.
      max_pixels: images with more pixels are refused.

    Raises:
      UsageError: if `export` did not write it.
    """

    normalized_boxes = False

    def __init__(self, path: str, max_pixels: int = MAX_PIXELS):
        self.source = path
        self._max_pixels = max_pixels
        try:
            with zipfile.ZipFile(path) as archive:
                description = json.loads(archive.read(tflite.DETECTOR))
            names = {int(number): name for number, name in description["class_names"].items()}
            self._letterbox = description["letterbox"]
            interpreter = tflite_interpreter(pathlib.Path(path).read_bytes(), os.cpu_count())
            self._run = interpreter.get_signature_runner()
            # The first run says which delegate it found.
            with quiet.stderr_closed():
                self._run(image=np.zeros([1, *self._letterbox["padded_size"], 3], np.float32))
        # A foreign or damaged file raises all sorts of things.
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UsageError(
                f"--model={path} cannot be loaded ({reason}); name a file that export/tflite.py "
                "wrote"
            ) from error
        self._names = np.array([names.get(i, "") for i in range(max(names) + 1)])
        self._lock = threading.Lock()

    def predict(self, encoded_images: Sequence[bytes]) -> dict[str, np.ndarray]:
        """Returns the outputs that a SavedModel gives for image files.

        Raises:
          RefusedError: if one of them is damaged, too large, or neither a JPEG nor a PNG file.
        """
        answers, problems = [], {}
        for place, encoded in enumerate(encoded_images):
            try:
                answers.append(self._detect(encoded))
            except errors.RefusedError as error:
                problems[place] = str(error)
        if problems:
            raise errors.RefusedError(problems)
        return {name: np.stack([answer[name] for answer in answers]) for name in answers[0]}

    def _detect(self, encoded: bytes) -> dict[str, np.ndarray]:
        pixels, image_info, problem = tflite.to_input(encoded, self._max_pixels, self._letterbox)
        if problem:
            raise errors.RefusedError({0: problem})
        with self._lock:
            outputs = {name: value[0] for name, value in self._run(image=pixels[None]).items()}
        outputs["detection_boxes"] = outputs["detection_boxes"] / np.tile(image_info[2], 2)
        outputs["detection_class_names"] = self._names[outputs["detection_classes"]]
        outputs["image_size"] = image_info[0].astype(np.int32)
        return outputs
