"""Writes the proposals of a trained detector's RPN, as training input for one without an RPN."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from official.vision.configs import maskrcnn as model_garden

from libra_tf.cli.errors import UsageError
from libra_tf.compat import keras
from libra_tf.data.proposals import require_free, write_folder
from libra_tf.runs import trained_run
from libra_tf.tasks import maskrcnn


def write_proposals(
    model_dir: str, folder: str, num_proposals: int = 2000, report: Callable[[str], None] = print
) -> None:
    """Writes the proposals for a run's training and validation images.

    Args:
      model_dir: folder of a run of Libra Faster, Mask or Cascade R-CNN: its `params.yaml` and its
        newest checkpoint are read.
      folder: where the folders `train` and `val` are created; see `libra_tf.data.proposals`.
      num_proposals: the most proposals per image.
      report: receives progress lines.

    Raises:
      UsageError: if there is no such run, it has no RPN, its images cannot be read, or
        `num_proposals` is less than 1.
      DatasetError: if a folder already exists or cannot be written.
    """
    if num_proposals < 1:
        raise UsageError(f"--num_proposals={num_proposals} must be at least 1")
    folders = {name: os.path.join(folder, name) for name in ("train", "val")}
    for path in folders.values():
        require_free(path)
    run = trained_run.read(model_dir)
    config = run.params.task
    if not config.has_rpn:
        raise UsageError(
            f"--model_dir={model_dir} holds a detector without an RPN; train a "
            "libra_fasterrcnn experiment"
        )
    ask_for(config.model.roi_generator, num_proposals)
    task = run.build_task()
    model = run.load_model()
    report(f"writing the proposals of {run.checkpoint}")
    splits = {"train": config.train_data, "val": config.validation_data}
    # Both are opened before the long work on the first, so that a missing one is reported at once.
    images = {name: _read_images(task, data, model_dir) for name, data in splits.items()}
    for name, path in folders.items():
        write_folder(path, propose(model, images[name]), report=report)


def ask_for(generator: model_garden.ROIGenerator, num_proposals: int) -> None:
    """Lets a detector give so many proposals outside of training.

    Args:
      generator: its config, which is changed in place.
      num_proposals: the most proposals per image. As many are taken from each pyramid level before
        NMS if the config takes fewer.
    """
    generator.test_num_proposals = num_proposals
    generator.test_pre_nms_top_k = max(generator.test_pre_nms_top_k, num_proposals)


def propose(model: keras.Model, images: tf.data.Dataset) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the proposals of a detector's RPN in pixels of the original images.

    Args:
      model: Model Garden's `MaskRCNNModel`.
      images: batches from its task's evaluation input.

    Yields:
      The source id of an image and its boxes, float32 `[N, 4]`, `[ymin, xmin, ymax, xmax]` in
      pixels of the original image, best first.
    """

    @tf.function(autograph=False)
    def propose_rois(pixels: tf.Tensor, labels: dict[str, Any]) -> tf.Tensor:
        features = model.decoder(model.backbone(pixels, training=False), training=False)
        scores, boxes = model.rpn_head(features)
        image_shape = labels["image_info"][:, 1]
        anchors = labels["anchor_boxes"]
        return model.roi_generator(boxes, scores, anchors, image_shape, training=False)[0]

    for pixels, labels in images:
        ids, info = labels["groundtruths"]["source_id"].numpy(), labels["image_info"].numpy()
        rois = propose_rois(pixels, labels).numpy()
        for source_id, boxes, (_, _, scale, offset) in zip(ids, rois, info, strict=True):
            # Model Garden pads with empty boxes.
            boxes = boxes[np.all(boxes[:, 2:] > boxes[:, :2], axis=-1)]
            yield int(source_id), (boxes + np.tile(offset, 2)) / np.tile(scale, 2)


def _read_images(
    task: maskrcnn.LibraMaskRCNNTask, data: model_garden.DataConfig, model_dir: str
) -> tf.data.Dataset:
    """Returns a dataset with every image once, batched as for evaluation."""
    batch_size = task.task_config.validation_data.global_batch_size
    data = data.replace(
        is_training=False, drop_remainder=False, dtype="float32", global_batch_size=batch_size
    )
    try:
        return task.build_inputs(data)
    except ValueError as error:
        raise UsageError(
            f"the images of --model_dir={model_dir} cannot be read: {error} Rerun the command of "
            "that run with --mode=eval, which converts them again"
        ) from error
