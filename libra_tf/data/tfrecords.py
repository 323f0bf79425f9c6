"""Writing a checked split as the TFRecords that Model Garden's `TfExampleDecoder` reads."""

import errno
import hashlib
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from libra_tf.data import ahead, images, segmentations
from libra_tf.data.annotations import Annotation, ImageEntry
from libra_tf.data.checking import CheckedImage
from libra_tf.data.problems import DatasetError

if TYPE_CHECKING:
    import tensorflow as tf

# Model Garden's create_coco_tf_record.py uses 32 shards for any size; input pipelines only need
# enough files to interleave and to shuffle.
_EXAMPLES_PER_SHARD = 64
_MAX_SHARDS = 256
# Enough to keep every thread busy, and few enough not to fill the memory.
_AHEAD_PER_THREAD = 8


def num_shards(num_examples: int) -> int:
    """Returns how many files, at least 1, hold a split of that many examples."""
    return max(1, min(_MAX_SHARDS, -(-num_examples // _EXAMPLES_PER_SHARD)))


def write_split(
    prefix: str,
    examples: Iterable[tuple[CheckedImage, list[Annotation]]],
    shards: int,
    class_names: dict[int, str],
    with_masks: bool = False,
) -> None:
    """Distributes examples in turn over `<prefix>-00000-of-0000N.tfrecord` and so on.

    Several threads make them; only a few examples are in memory at any time.

    Args:
      prefix: folder and first part of the file names.
      examples: pairs of an image and its cleaned annotations.
      shards: number of files.
      class_names: name of each category id.
      with_masks: whether every annotation has a `segmentation`, to be written as well.

    Raises:
      DatasetError: if an image is no longer what was checked.
      OSError: if the files cannot be written.
    """
    # TensorFlow takes seconds to import; users with a mistake in the data need not wait for it.
    import tensorflow as tf
    from official.vision.data import tfrecord_lib

    num_threads = os.cpu_count() or 1
    try:
        tfrecord_lib.write_tf_record_dataset(
            prefix,
            ahead.in_threads(
                lambda example: _to_example(*example, class_names, with_masks),
                examples,
                num_threads,
                num_threads * _AHEAD_PER_THREAD,
            ),
            # Its own parallel processes would be forks of one that runs TensorFlow.
            lambda example: (example, 0),
            shards,
            multiple_processes=0,
            unpack_arguments=False,
        )
    except tf.errors.OpError as error:
        raise OSError(errno.EIO, error.message) from error


def _to_example(
    image: CheckedImage,
    annotations: list[Annotation],
    class_names: dict[int, str],
    with_masks: bool,
) -> "tf.train.Example":
    import tensorflow as tf
    from official.vision.data import tfrecord_lib

    encoded, encoded_format = _encoded_image(image)
    # The size in the entry is that of the pixels in the record, which may have been turned.
    features = tfrecord_lib.image_info_to_feature_dict(
        image.entry["height"],
        image.entry["width"],
        image.entry["file_name"],
        image.entry["id"],
        encoded,
        encoded_format,
    )
    # An image without objects gets no box features at all: an empty list has no type.
    if annotations:
        features.update(_object_features(image.entry, annotations, class_names))
        if with_masks:
            size = image.entry["width"], image.entry["height"]
            masks = [segmentations.encode_png(a["segmentation"], *size) for a in annotations]
            features["image/object/mask"] = tfrecord_lib.convert_to_feature(masks)
    return tf.train.Example(features=tf.train.Features(feature=features))


def _encoded_image(image: CheckedImage) -> tuple[bytes, str]:
    """Returns an image's content and format as they go into the record."""
    try:
        encoded = image.path.read_bytes()
    except OSError:
        encoded = b""
    if hashlib.sha256(encoded).hexdigest() != image.facts.digest:
        raise DatasetError(
            f"{image.path} changed while the data set was being read: run again when nothing is "
            "writing to the folder"
        )
    encoded_format = "png" if image.facts.encoding.startswith("PNG") else "jpg"
    if image.facts.needs_conversion or image.is_turned:
        encoded, encoded_format = images.encode_as_png(encoded, image.is_turned), "png"
    _require_decodable(encoded, image)
    return encoded, encoded_format


def _require_decodable(encoded: bytes, image: CheckedImage) -> None:
    """Decodes as Model Garden will: Pillow is more lenient with some damage."""
    import tensorflow as tf

    try:
        tf.io.decode_image(encoded, channels=3)
    except tf.errors.InvalidArgumentError as error:
        raise DatasetError(
            f"{image.path} is damaged: TensorFlow cannot decode it. Replace the file or remove its "
            "entry"
        ) from error


def _object_features(
    image: ImageEntry, annotations: list[Annotation], class_names: dict[int, str]
) -> "dict[str, tf.train.Feature]":
    from official.vision.data import tfrecord_lib

    width, height = image["width"], image["height"]
    lists = {
        "bbox/xmin": [a["bbox"][0] / width for a in annotations],
        "bbox/xmax": [(a["bbox"][0] + a["bbox"][2]) / width for a in annotations],
        "bbox/ymin": [a["bbox"][1] / height for a in annotations],
        "bbox/ymax": [(a["bbox"][1] + a["bbox"][3]) / height for a in annotations],
        "class/text": [class_names[a["category_id"]].encode() for a in annotations],
        "class/label": [a["category_id"] for a in annotations],
        "is_crowd": [a["iscrowd"] for a in annotations],
        "area": [float(a["area"]) for a in annotations],
    }
    return {
        f"image/object/{name}": tfrecord_lib.convert_to_feature(values)
        for name, values in lists.items()
    }
