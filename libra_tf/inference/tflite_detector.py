"""Runs a TensorFlow Lite file that `export/tflite.py` wrote."""

import json
import os
import pathlib
import threading
import zipfile
from collections.abc import Sequence

import numpy as np

from libra_tf.cli import quiet
from libra_tf.cli.errors import UsageError, first_line
from libra_tf.compat import tflite_interpreter
from libra_tf.inference import errors
from libra_tf.serving import tflite
from libra_tf.serving.detection import list_class_names
from libra_tf.serving.images import MAX_PIXELS


class TFLiteDetector:
    """Detects objects with a converted detector; several threads may use it, and take turns.

    Args:
      path: the file.
      max_pixels: images with more pixels are refused.

    Raises:
      UsageError: if `export/tflite.py` did not write the file.
    """

    normalized_boxes = False

    def __init__(self, path: str, max_pixels: int = MAX_PIXELS) -> None:
        self.source = path
        self._max_pixels = max_pixels
        try:
            with zipfile.ZipFile(path) as archive:
                description = json.loads(archive.read(tflite.DETECTOR))
            names = description["class_names"]
            self.class_names = {int(number): name for number, name in names.items()}
            self._letterbox = description["letterbox"]
            interpreter = tflite_interpreter(pathlib.Path(path).read_bytes(), os.cpu_count())
            self._run = interpreter.get_signature_runner()
            # The first run logs which delegate it uses.
            with quiet.stderr_closed():
                self._run(image=np.zeros([1, *self._letterbox["padded_size"], 3], np.float32))
        # What a damaged or foreign file makes the interpreter raise varies.
        except Exception as error:
            reason = first_line(error)
            raise UsageError(
                f"--model={path} cannot be loaded ({reason}); name a file that libra-tf tflite "
                "wrote"
            ) from error
        self._names = np.array(list_class_names(self.class_names))
        self._lock = threading.Lock()

    def predict(self, encoded_images: Sequence[bytes]) -> dict[str, np.ndarray]:
        """Returns the same outputs for image files as a SavedModel.

        Args:
          encoded_images: the content of each file.

        Raises:
          RefusedError: if a file is damaged, too large, or neither JPEG nor PNG.
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
        """Returns the outputs for one image, without the batch axis."""
        pixels, image_info, problem = tflite.to_input(encoded, self._max_pixels, self._letterbox)
        if problem:
            raise errors.RefusedError({0: problem})
        with self._lock:
            outputs = {name: value[0] for name, value in self._run(image=pixels[None]).items()}
        outputs["detection_boxes"] = outputs["detection_boxes"] / np.tile(image_info[2], 2)
        outputs["detection_class_names"] = self._names[outputs["detection_classes"]]
        outputs["image_size"] = image_info[0].astype(np.int32)
        return outputs
