"""What the RPN of a trained detector proposes, for a detector without an RPN to train on."""

import os
from collections.abc import Callable, Iterator

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
    """Makes the folders of proposals of a run's training and validation images.

    Args:
      model_dir: folder of a run of Libra Faster, Mask or Cascade R-CNN: its `params.yaml` and its
        newest checkpoint are read.
      folder: where `train` and `val` are made; see `libra_tf.data.proposals`.
      num_proposals: the most proposals of an image, and the most of a level before suppression.
      report: is given lines about the progress.

    Raises:
      UsageError: if there is no such run, it has no RPN, its images are gone, or there are to be
        no proposals.
      DatasetError: if a folder is there already or cannot be written.
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
    generator = config.model.roi_generator
    generator.test_num_proposals = generator.test_pre_nms_top_k = num_proposals
    task = run.build_task()
    model = run.load_model()
    report(f"the proposals are those of {run.checkpoint}")
    splits = {"train": config.train_data, "val": config.validation_data}
    # Both are looked for before the long work on the first.
    images = {name: _read_images(task, data, model_dir) for name, data in splits.items()}
    for name, path in folders.items():
        write_folder(path, propose(model, images[name]), report=report)


def propose(model: keras.Model, images: tf.data.Dataset) -> Iterator[tuple[int, np.ndarray]]:
    """Gives the proposals of a detector's RPN in the pixels of the original images.

    Args:
      model: Model Garden's `MaskRCNNModel`.
      images: batches as its task gives them for evaluation.

    Yields:
      The source id of an image and its boxes, `[N, 4]` float32, `[ymin, xmin, ymax, xmax]` in
      pixels of the original image, best first.
    """

    @tf.function
    def rois_of(pixels, labels):
        features = model.decoder(model.backbone(pixels, training=False), training=False)
        scores, boxes = model.rpn_head(features)
        image_shape = labels["image_info"][:, 1]
        anchors = labels["anchor_boxes"]
        return model.roi_generator(boxes, scores, anchors, image_shape, training=False)[0]

    for pixels, labels in images:
        ids, info = labels["groundtruths"]["source_id"].numpy(), labels["image_info"].numpy()
        rois = rois_of(pixels, labels).numpy()
        for source_id, boxes, (_, _, scale, offset) in zip(ids, rois, info, strict=True):
            # Model Garden pads with empty boxes.
            boxes = boxes[np.all(boxes[:, 2:] > boxes[:, :2], axis=-1)]
            yield int(source_id), (boxes + np.tile(offset, 2)) / np.tile(scale, 2)


def _read_images(
    task: maskrcnn.LibraMaskRCNNTask, data: model_garden.DataConfig, model_dir: str
) -> tf.data.Dataset:
    """Gives every image once, in batches as for evaluation."""
    batch_size = task.task_config.validation_data.global_batch_size
    data = data.replace(
        is_training=False, drop_remainder=False, dtype="float32", global_batch_size=batch_size
    )
    try:
        return task.build_inputs(data)
    except ValueError as error:
        raise UsageError(
            f"the images of --model_dir={model_dir} cannot be read: {error} Give that "
            "run's command again with --mode=eval, which converts them anew"
        ) from error
