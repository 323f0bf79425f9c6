"""Sets images aside for validation where a data set has only one split."""

import dataclasses
from collections.abc import Iterable

from libra_tf.data.annotations import AnnotationFile
from libra_tf.data.checking import CheckedImage, CheckedSplit
from libra_tf.data.problems import DatasetError
from libra_tf.data.source import TRAIN, VAL

DEFAULT_SHARE = 0.1


def for_validation(split: CheckedSplit, share: float) -> dict[str, CheckedSplit]:
    """Divides a split in two, by the content of its images.

    The choice is the same every time and does not depend on names or order. Copies of an image stay
    together. Adding images to a data set moves few of the others.

    Args:
      split: the only split.
      share: the part of the images to set aside, above 0. At least one image goes to each side,
        unless it is 1, which gives all images to both: for evaluation only.

    Returns:
      The splits "train" and "val".

    Raises:
      DatasetError: if there are not two different images.
    """
    if share == 1:
        return {TRAIN: split, VAL: split}
    digests = sorted({image.facts.digest for image in split.images})
    if len(digests) < 2:
        raise DatasetError(
            f"{split.annotation_file.path} has no two different images, so none can be set "
            "aside for validation: add images, or a validation split"
        )
    count = min(max(1, round(share * len(digests))), len(digests) - 1)
    # A digest is as good as a random number, and it is always the same.
    chosen = set(digests[:count])
    rest = _only(split, (i for i in split.images if i.facts.digest not in chosen))
    aside = _only(split, (i for i in split.images if i.facts.digest in chosen))
    # What was found in the whole split stays with one half, so that it is said once.
    file = dataclasses.replace(aside.annotation_file, left_out=(), unusable_segmentations={})
    return {TRAIN: rest, VAL: dataclasses.replace(aside, annotation_file=file)}


def _only(split: CheckedSplit, images: Iterable[CheckedImage]) -> CheckedSplit:
    images = list(images)
    ids = {image.entry["id"] for image in images}
    return CheckedSplit(_with_images(split.annotation_file, images, ids), images)


def _with_images(file: AnnotationFile, images: list[CheckedImage], ids: set[int]) -> AnnotationFile:
    return dataclasses.replace(
        file,
        images=[image.entry for image in images],
        annotations=[entry for entry in file.annotations if entry["image_id"] in ids],
    )
