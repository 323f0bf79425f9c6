"""A picture of validation images with their detections and ground truth drawn."""

import math
from collections.abc import Mapping, Sequence

import matplotlib.figure
import matplotlib.patches
import numpy as np
import tensorflow as tf
from official.vision.dataloaders import tf_example_decoder

from libra_tf.runner import data_files
from libra_tf.tasks.coco_metric import Detections

_COLUMNS = 4
_COLORS = matplotlib.colormaps["tab10"].colors


def draw(
    path: str,
    input_path: str | Sequence[str],
    detections: Mapping[int, Detections],
    class_names: Mapping[int, str],
    num_images: int = 12,
    score_threshold: float = 0.4,
) -> bool:
    """Writes a PNG that shows the first images of `input_path` that were evaluated.

    Ground truth is drawn in dashed white on black, detections in the colour of their class
    with name and score.

    Args:
      path: file to write.
      input_path: TFRecord files that Model Garden's decoder reads; see `data_files.find`.
      detections: image id -> its detections.
      class_names: category id -> name.
      num_images: number of images at the most.
      score_threshold: detections below it are not drawn.

    Returns:
      Whether there was an image to show.
    """
    examples = _read_examples(input_path, detections, num_images)
    if not examples:
        return False
    rows = math.ceil(len(examples) / _COLUMNS)
    figure = matplotlib.figure.Figure(figsize=(4 * _COLUMNS, 4 * rows + 0.5), layout="constrained")
    figure.suptitle(
        f"dashed: ground truth; solid: detections with a score of {score_threshold} or more"
    )
    grid = list(figure.subplots(rows, _COLUMNS, squeeze=False).flat)
    for axes in grid:
        axes.set_axis_off()
    for axes, (image_id, example) in zip(grid, examples, strict=False):
        _draw_image(axes, example, detections[image_id], class_names, score_threshold)
        axes.set_title(f"image {image_id}", fontsize=9)
    with tf.io.gfile.GFile(path, "wb") as file:
        figure.savefig(file, format="png", dpi=75)
    return True


def _read_examples(
    input_path: str | Sequence[str], detections: Mapping[int, Detections], num_images: int
) -> Sequence[tuple[int, dict[str, np.ndarray]]]:
    decoder = tf_example_decoder.TfExampleDecoder()
    files = [file for found in data_files.find(input_path).values() for file in found]
    examples = []
    for record in tf.data.TFRecordDataset(files):
        example = {key: value.numpy() for key, value in decoder.decode(record).items()}
        image_id = int(example["source_id"])
        if image_id in detections:
            examples.append((image_id, example))
        if len(examples) == num_images:
            break
    return examples


def _draw_image(axes, example, detections, class_names, score_threshold) -> None:
    height, width = example["image"].shape[:2]
    axes.imshow(example["image"])
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    for box in example["groundtruth_boxes"] * [height, width, height, width]:
        _draw_box(axes, box, color="black", linewidth=2.5)
        _draw_box(axes, box, color="white", linewidth=1.2, linestyle=(0, (3, 3)))
    for box, category, score in zip(
        detections.boxes, detections.classes, detections.scores, strict=True
    ):
        if score < score_threshold:
            continue
        color = _COLORS[category % len(_COLORS)]
        _draw_box(axes, box, color=color, linewidth=1.8)
        axes.text(
            box[1],
            box[0],
            f"{class_names.get(category, category)} {score:.2f}",
            fontsize=7,
            color="white",
            verticalalignment="bottom",
            clip_on=True,
            # A name may have a dollar sign.
            parse_math=False,
            bbox={"facecolor": color, "edgecolor": "none", "pad": 1},
        )


def _draw_box(axes, box, **style) -> None:
    ymin, xmin, ymax, xmax = box
    axes.add_patch(
        matplotlib.patches.Rectangle((xmin, ymin), xmax - xmin, ymax - ymin, fill=False, **style)
    )
