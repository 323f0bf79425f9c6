"""Draws validation images with their detections and ground truth on a single sheet."""

import io
import math
import posixpath
from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from official.core import config_definitions as cfg
from official.vision.dataloaders import tf_example_decoder
from PIL import Image, ImageDraw

from libra_tf import atomic
from libra_tf.inference import drawing
from libra_tf.runner import input_data
from libra_tf.tasks.coco_metric import Detections

_NUM_IMAGES, _COLUMNS = 12, 4
# Detections with a lower score are not drawn.
_SCORE_THRESHOLD = 0.4
# In pixels: longer side of each image, margin around it, and height of the text above it.
_SIDE, _MARGIN, _TITLE = 300, 8, 22
_FONT_SIZE = 14
# Where Model Garden's converters write it, which its decoder leaves out.
_FILE_NAME = "image/filename"


def draw(
    path: str,
    data: cfg.DataConfig,
    detections: Mapping[int, Detections],
    class_names: Mapping[int, str],
) -> bool:
    """Writes a PNG of the first evaluated images.

    Args:
      path: file to write, local or remote.
      data: config of the validation images, which are TFRecords for Model Garden's decoder.
      detections: detections by image id.
      class_names: class names by category id.

    Returns:
      False if there was no image to draw.

    Raises:
      OSError, tf.errors.OpError: if the images cannot be read or the file cannot be written.
    """
    examples = _read_examples(data, detections)
    if not examples:
        return False
    rows = math.ceil(len(examples) / _COLUMNS)
    cell, top = _SIDE + 2 * _MARGIN, 2 * _TITLE
    sheet = Image.new("RGB", (_COLUMNS * cell, top + rows * (cell + _TITLE)), "white")
    canvas, font = ImageDraw.Draw(sheet), drawing.load_font(_FONT_SIZE)
    title = f"dashed: ground truth; solid: detections with a score of {_SCORE_THRESHOLD} or more"
    canvas.text((_MARGIN, _MARGIN), title, fill="black", font=font)
    for number, (image_id, name, example) in enumerate(examples):
        row, column = divmod(number, _COLUMNS)
        x, y = column * cell + _MARGIN, top + row * (cell + _TITLE)
        canvas.text((x, y), drawing.shorten(name, font, _SIDE), fill="black", font=font)
        picture = _draw_image(example, detections[image_id], class_names)
        sheet.paste(picture, (x, y + _TITLE))
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    atomic.write_file(path, buffer.getvalue())
    return True


def _read_examples(
    data: cfg.DataConfig, detections: Mapping[int, Detections]
) -> list[tuple[int, str, dict[str, np.ndarray]]]:
    """Returns the id, the title and the decoded record of each image to show."""
    decoder = tf_example_decoder.TfExampleDecoder()
    examples = []
    for record in input_data.read_records(data):
        example = {key: value.numpy() for key, value in decoder.decode(record).items()}
        image_id = int(example["source_id"])
        if image_id in detections:
            examples.append((image_id, _title(record, image_id), example))
        if len(examples) == _NUM_IMAGES:
            break
    return examples


def _title(record: tf.Tensor, image_id: int) -> str:
    """Returns the name of the image's file, or its number if the record does not have it."""
    feature = {_FILE_NAME: tf.io.FixedLenFeature([], tf.string, default_value="")}
    path = tf.io.parse_single_example(record, feature)[_FILE_NAME].numpy().decode(errors="replace")
    return posixpath.basename(path) or f"image {image_id}"


def _draw_image(
    example: Mapping[str, np.ndarray],
    detections: Detections,
    class_names: Mapping[int, str],
) -> Image.Image:
    """Scales an image to the size of a cell, and draws on it afterwards to keep labels readable."""
    image = Image.fromarray(example["image"])
    scale = _SIDE / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    is_drawn = detections.scores >= _SCORE_THRESHOLD
    return drawing.draw_detections(
        image.resize((width, height)),
        detections.boxes[is_drawn] * scale,
        [str(class_names.get(id_, id_)) for id_ in detections.classes[is_drawn]],
        detections.scores[is_drawn],
        None if detections.masks is None else detections.masks[is_drawn],
        # Crowds need not be found, so they would look like something missed.
        truth=example["groundtruth_boxes"][~example["groundtruth_is_crowd"]]
        * [height, width, height, width],
    )
