"""Detection in images that are much larger than a detector's input, tile by tile.

A detector sees every image at the size of its input, so in a large image small objects vanish. Here
the image is cut into overlapping tiles, each tile is an image of its own, and the detections are
merged. One more look at the whole image, reduced to the size of a tile, finds what is larger than a
tile. The idea is that of SAHI (https://arxiv.org/abs/2202.06934).
"""

import dataclasses
import io
import itertools
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from official.vision.ops import box_ops
from PIL import Image

from libra_tf.cli.errors import UsageError
from libra_tf.data.images import png_of
from libra_tf.inference import answers
from libra_tf.inference.answers import Answer
from libra_tf.inference.drawing import to_8_bits
from libra_tf.inference.errors import RefusedError
from libra_tf.inference.local import LocalDetector
from libra_tf.inference.tflite_detector import TFLiteDetector
from libra_tf.serving.images import MAX_PIXELS

SMALLEST_TILE = 64
# The detector of a run refuses no images of this size; an export may have a lower limit.
LARGEST_TILE = 4096
# Neighbours share this part of a tile: an object that is smaller is whole in at least one.
OVERLAP = 0.25
# Detections of one class that overlap more than this are one object.
_SAME_OBJECT = 0.5
# A box that ends this close to a cut, in pixels, may be a part of an object.
_AT_THE_CUT = 2
_TILES_AT_ONCE = 4
# Of an image, the best: merging compares each with each.
_MOST_DETECTIONS = 3000


class TiledDetector:
    """Detects in tiles, behind the same interface as the detector that it asks.

    Args:
      detector: detects in one tile.
      tile: height and width of a tile in pixels.
      max_pixels: images with more pixels are refused.

    Attributes:
      source: what detects, for the user.
      class_names: the names of the classes by category id.
      normalized_boxes: False: boxes are in pixels of the whole image.

    Raises:
      UsageError: if tiles are too small, or larger than what the detector takes.
    """

    normalized_boxes = False

    def __init__(
        self, detector: LocalDetector | TFLiteDetector, tile: int, max_pixels: int = MAX_PIXELS
    ) -> None:
        if not SMALLEST_TILE <= tile <= LARGEST_TILE:
            raise UsageError(
                f"--tiles={tile}: tiles must have from {SMALLEST_TILE} to {LARGEST_TILE} pixels"
            )
        self.source = f"{detector.source}, in tiles of {tile}x{tile} pixels"
        self.class_names = detector.class_names
        self._detector = detector
        self._tile = tile
        self._max_pixels = max_pixels
        # Pillow's own limit holds for the whole process; set before several threads read images.
        if Image.MAX_IMAGE_PIXELS is not None:
            Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, max_pixels)

    def predict(self, images: Sequence[bytes]) -> dict[str, np.ndarray]:
        """Returns the outputs for image files, as the detector itself does.

        Args:
          images: the content of each file.

        Raises:
          RefusedError: if a file is damaged, too large, or neither JPEG nor PNG.
        """
        found = []
        for position, encoded in enumerate(images):
            try:
                found.append(self._detect(encoded))
            except RefusedError as refusal:
                (problem, *_) = refusal.problems.values()
                raise RefusedError({position: problem}) from refusal
        return answers.to_outputs(found)

    def _detect(self, encoded: bytes) -> Answer:
        try:
            size = _size(encoded)
        except Image.DecompressionBombError as error:
            reason = f"has more pixels than --max_pixels={self._max_pixels}"
            raise RefusedError({0: reason}) from error
        if size is None or max(size) <= self._tile:
            # A file that is no image gets the detector's own refusal.
            return self._ask([encoded])[0]
        if size[0] * size[1] > self._max_pixels:
            raise RefusedError(
                {0: f"has {size[0] * size[1]} pixels, more than --max_pixels={self._max_pixels}"}
            )
        image = _decode(encoded)
        offsets = list(itertools.product(*(starts(length, self._tile) for length in size)))
        found, is_cut = [], []
        for first in range(0, len(offsets), _TILES_AT_ONCE):
            some = offsets[first : first + _TILES_AT_ONCE]
            tiles = [image.crop(_area(offset, self._tile, size)) for offset in some]
            for answer, offset in zip(self._ask(map(png_of, tiles)), some, strict=True):
                found.append(_moved(answer, *offset))
                is_cut.append(_ends_at_a_cut(found[-1].boxes, offset, self._tile, size))
        whole = self._look_at_the_whole(image)
        return _merged([*found, whole], [*is_cut, np.zeros(len(whole.scores), bool)], size)

    def _ask(self, images: Sequence[bytes]) -> list[Answer]:
        outputs = self._detector.predict(list(images))
        return answers.from_outputs(outputs, self._detector.normalized_boxes)

    def _look_at_the_whole(self, image: Image.Image) -> Answer:
        reduced = image.copy()
        reduced.thumbnail((self._tile, self._tile))
        (answer,) = self._ask([png_of(reduced)])
        scale = np.array([image.height / reduced.height, image.width / reduced.width] * 2)
        return dataclasses.replace(answer, boxes=answer.boxes * scale.astype(np.float32))


def starts(length: int, tile: int) -> list[int]:
    """Returns where tiles begin along an axis.

    Args:
      length: of the image in pixels.
      tile: of a tile.

    Returns:
      The first pixels of the fewest tiles, evenly spread, that cover the axis. Neighbours share at
      least `OVERLAP` of a tile.
    """
    if length <= tile:
        return [0]
    most = int(tile * (1 - OVERLAP))
    steps = -(-(length - tile) // most)
    return [round(step * (length - tile) / steps) for step in range(steps + 1)]


def _area(offset: tuple[int, int], tile: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    (x, y), (width, height) = offset, size
    return x, y, min(x + tile, width), min(y + tile, height)


def _size(encoded: bytes) -> tuple[int, int] | None:
    """Returns width and height of an image file, None if it is none.

    Raises:
      DecompressionBombError: if it has more pixels than Pillow reads.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return image.size
    except Image.DecompressionBombError:
        raise
    # Pillow's readers raise all sorts of errors for damaged files.
    except Exception:
        return None


def _decode(encoded: bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(encoded)) as file:
            return to_8_bits(file).convert("RGB")
    # Pillow's decoders raise all sorts of errors for damaged files.
    except Exception as error:
        raise RefusedError({0: "is truncated or damaged"}) from error


def _moved(answer: Answer, x: int, y: int) -> Answer:
    return dataclasses.replace(answer, boxes=answer.boxes + np.array([y, x, y, x], np.float32))


def _ends_at_a_cut(
    boxes: np.ndarray, offset: tuple[int, int], tile: int, size: tuple[int, int]
) -> np.ndarray:
    """Returns for boxes in the image `[N, 4]` whether the tile's edge may have cut them, `[N]`."""
    left, top, right, bottom = _area(offset, tile, size)
    ymin, xmin, ymax, xmax = boxes.T
    return (
        ((top > 0) & (ymin < top + _AT_THE_CUT))
        | ((left > 0) & (xmin < left + _AT_THE_CUT))
        | ((bottom < size[1]) & (ymax > bottom - _AT_THE_CUT))
        | ((right < size[0]) & (xmax > right - _AT_THE_CUT))
    )


def _merged(found: Sequence[Answer], is_cut: Sequence[np.ndarray], size: tuple[int, int]) -> Answer:
    """Keeps one detection for each object.

    Whole boxes come before cut ones, and then the better score. What overlaps a kept box of its
    class too much is dropped: two boxes by their IoU, a cut box by the part of it that is covered.
    """
    width, height = size
    fields = ["boxes", "scores", "category_ids", "names"]
    if found[0].masks is not None:
        fields.append("masks")
    together = {
        field: np.concatenate([getattr(answer, field) for answer in found]) for field in fields
    }
    best = np.argsort(-together["scores"], kind="stable")[:_MOST_DETECTIONS]
    together = {field: values[best] for field, values in together.items()}
    scores, category_ids = together["scores"], together["category_ids"]
    cut = np.concatenate(is_cut)[best]
    # Model Garden takes boxes with a negative edge for padding.
    boxes = np.clip(together["boxes"], 0, np.array([height, width] * 2, np.float32))
    overlaps = _overlaps(boxes, cut) * (category_ids[:, np.newaxis] == category_ids)
    kept = tf.image.non_max_suppression_overlaps(
        overlaps, scores + ~cut, max(1, len(scores)), _SAME_OBJECT
    ).numpy()
    kept = kept[np.argsort(-scores[kept], kind="stable")]
    return Answer(height, width, **{field: values[kept] for field, values in together.items()})


def _overlaps(boxes: np.ndarray, is_cut: np.ndarray) -> np.ndarray:
    """Returns the overlap of each pair, `[N, N]`: IoU, or the covered part of a cut box."""
    iou = box_ops.bbox_overlap(boxes[np.newaxis], boxes[np.newaxis])[0].numpy()
    covered = box_ops.bbox_intersection_over_area(boxes[np.newaxis], boxes[np.newaxis])
    part = np.where(is_cut[:, np.newaxis], covered[0].numpy(), 0)
    return np.maximum(iou, np.maximum(part, part.T))
