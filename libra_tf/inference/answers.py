"""The detections in one image, as a line of JSON or a picture."""

import dataclasses
import io
import json
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from libra_tf.inference.drawing import draw_detections
from libra_tf.inference.errors import DetectorError

_NEEDED = (
    "detection_boxes",
    "detection_scores",
    "detection_classes",
    "detection_class_names",
    "num_detections",
    "image_size",
)


@dataclasses.dataclass(frozen=True)
class Answer:
    """The detections in an image, best first.

    Attributes:
      height: height of the image in pixels.
      width: width of the image in pixels.
      boxes: float32 `[N, 4]`, `[ymin, xmin, ymax, xmax]` in pixels.
      scores: float32 `[N]`, in [0, 1].
      category_ids: int `[N]`.
      names: str `[N]`, the category names.
      masks: float `[N, h, w]`, the probability in each cell of a regular grid over the box; None if
        the detector predicts no masks.
    """

    height: int
    width: int
    boxes: np.ndarray
    scores: np.ndarray
    category_ids: np.ndarray
    names: np.ndarray
    masks: np.ndarray | None = None

    def to_json(self, file: str, pastes_masks: bool = False) -> str:
        """Returns the detections as a line of JSON.

        Args:
          file: the name of the image file to write into it.
          pastes_masks: whether to give masks as `segmentation`, run-length encoded in the image as
            in COCO's results, instead of the grid over the box.
        """
        detections = [
            {
                "box": _rounded(box),
                "score": _rounded(score),
                "category_id": int(category_id),
                "name": name,
            }
            for box, score, category_id, name in zip(
                self.boxes, self.scores, self.category_ids, self.names, strict=True
            )
        ]
        if self.masks is not None and pastes_masks:
            # Imported here because it imports TensorFlow.
            from libra_tf.inference import pasting

            masks = pasting.encode(self.masks, self.boxes, self.height, self.width)
            for detection, mask in zip(detections, masks, strict=True):
                detection["segmentation"] = mask
        elif self.masks is not None:
            for detection, mask in zip(detections, self.masks, strict=True):
                detection["mask"] = np.round(mask.astype(float), 3).tolist()
        return json.dumps(
            {"file": file, "height": self.height, "width": self.width, "detections": detections}
        )

    def draw(self, encoded: bytes, threshold: float) -> Image.Image:
        """Draws the detections on their image.

        Args:
          encoded: the content of the image file.
          threshold: detections with a lower score are not drawn.
        """
        return self.draw_on(Image.open(io.BytesIO(encoded)), threshold)

    def draw_on(self, image: Image.Image, threshold: float) -> Image.Image:
        """Draws the detections on their image.

        Args:
          image: the image, which is not changed.
          threshold: detections with a lower score are not drawn.
        """
        is_drawn = self.scores >= threshold
        return draw_detections(
            image,
            self.boxes[is_drawn],
            [str(name) for name in self.names[is_drawn]],
            self.scores[is_drawn],
            None if self.masks is None else self.masks[is_drawn],
        )


def with_text(array: np.ndarray) -> np.ndarray:
    """Decodes an array of UTF-8 byte strings; returns any other array unchanged."""
    return np.char.decode(array.astype(bytes), "utf-8") if array.dtype == object else array


def from_outputs(outputs: Mapping[str, np.ndarray], is_normalized: bool) -> list[Answer]:
    """Splits the outputs for a batch into one answer per image.

    Args:
      outputs: the model's outputs; see `libra_tf.serving.detection.DetectionModule`.
      is_normalized: whether boxes are fractions of the image's height and width.

    Returns:
      An answer for each image.

    Raises:
      DetectorError: if they are not the outputs of an exported detector.
    """
    missing = [name for name in _NEEDED if name not in outputs]
    if missing:
        raise DetectorError(
            f"the model returns no {missing[0]}; serve a folder that libra-tf export wrote"
        )
    answers = []
    for i, num in enumerate(outputs["num_detections"]):
        height, width = (int(size) for size in outputs["image_size"][i])
        boxes = outputs["detection_boxes"][i, :num].astype(np.float32).reshape(-1, 4)
        if is_normalized:
            boxes = boxes * np.array([height, width] * 2, np.float32)
        masks = outputs.get("detection_masks")
        answers.append(
            Answer(
                height,
                width,
                boxes,
                outputs["detection_scores"][i, :num].astype(np.float32),
                outputs["detection_classes"][i, :num],
                outputs["detection_class_names"][i, :num],
                None if masks is None else masks[i, :num],
            )
        )
    return answers


def to_outputs(found: Sequence[Answer]) -> dict[str, np.ndarray]:
    """Gives answers the form of a model's outputs, the inverse of `from_outputs`.

    Args:
      found: an answer for each image of a batch.

    Returns:
      The outputs, padded to the most detections in an image. Boxes are in pixels.
    """
    most = max(len(answer.scores) for answer in found)
    outputs = {
        "detection_boxes": _padded([answer.boxes for answer in found], most),
        "detection_scores": _padded([answer.scores for answer in found], most),
        "detection_classes": _padded([answer.category_ids for answer in found], most),
        "detection_class_names": _padded([answer.names for answer in found], most),
        "num_detections": np.array([len(answer.scores) for answer in found]),
        "image_size": np.array([(answer.height, answer.width) for answer in found]),
    }
    if found[0].masks is not None:
        outputs["detection_masks"] = _padded([answer.masks for answer in found], most)
    return outputs


def _padded(arrays: Sequence[np.ndarray], length: int) -> np.ndarray:
    return np.stack(
        [
            np.concatenate([array, np.zeros((length - len(array), *array.shape[1:]), array.dtype)])
            for array in arrays
        ]
    )


def _rounded(values: np.ndarray) -> float | list[float]:
    """Rounds to the digits that float32 has; more would be noise."""
    if np.ndim(values):
        return [_rounded(value) for value in values]
    return float(f"{values:.7g}")
