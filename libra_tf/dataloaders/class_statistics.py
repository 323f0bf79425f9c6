"""How often each class occurs in training records, counted in one pass over them."""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import tensorflow as tf
from official.common import dataset_fn

from libra_tf.data import progress

_LABEL, _IS_CROWD = "image/object/class/label", "image/object/is_crowd"
_FEATURES = {name: tf.io.VarLenFeature(tf.int64) for name in (_LABEL, _IS_CROWD)}


@dataclasses.dataclass(frozen=True)
class ClassStatistics:
    """Numbers of objects and images by class.

    Attributes:
      num_objects: int64 `[num_classes]`, the number of objects by class id.
      images_by_classes: how many images show exactly these classes, an entry for each combination
        that occurs.
    """

    num_objects: np.ndarray
    images_by_classes: Mapping[frozenset[int], int]

    @property
    def num_images(self) -> int:
        """The number of images, including those without objects."""
        return sum(self.images_by_classes.values())

    @property
    def frequencies(self) -> np.ndarray:
        """The share of the images that show each class, float64 `[num_classes]`."""
        shares = np.zeros(len(self.num_objects))
        for classes, number in self.images_by_classes.items():
            shares[list(classes)] += number
        return shares / self.num_images


def of_images(images: Iterable[Sequence[int]], num_classes: int) -> ClassStatistics:
    """Counts the classes of images.

    Args:
      images: the class ids of the objects of each image.
      num_classes: the number of classes, including the background.

    Raises:
      ValueError: if a class id is outside `[1, num_classes)`.
    """
    num_objects = np.zeros(num_classes, np.int64)
    images_by_classes: collections.Counter[frozenset[int]] = collections.Counter()
    for labels in images:
        for label in labels:
            if label < 1:
                raise ValueError(
                    f"an object has the class {label}; ids begin at 1, and 0 is the background"
                )
            if label >= num_classes:
                raise ValueError(
                    f"an object has the class {label}, but task.model.num_classes is "
                    f"{num_classes}, which counts the background"
                )
            num_objects[label] += 1
        images_by_classes[frozenset(map(int, labels))] += 1
    return ClassStatistics(num_objects, images_by_classes)


def of_records(
    files: Sequence[str], file_type: str, num_classes: int, report: Callable[[str], None]
) -> ClassStatistics:
    """Counts the classes in TFRecords. It reads them, but decodes no images.

    Args:
      files: the files.
      file_type: Model Garden's `tfrecord` or `tfrecord_compressed`.
      num_classes: the number of classes, including the background.
      report: receives a line of progress from time to time.

    Raises:
      ValueError: if a class id is outside `[1, num_classes)`.
      tf.errors.OpError: if the files cannot be read.
    """
    records = dataset_fn.pick_dataset_fn(file_type)(files)
    labels = records.map(trained_classes, num_parallel_calls=tf.data.AUTOTUNE)
    images = progress.announced(labels.as_numpy_iterator(), None, "counted the classes of", report)
    return of_images(images, num_classes)


def trained_classes(record: tf.Tensor) -> tf.Tensor:
    """Returns the classes of the objects in a record, without crowds.

    Args:
      record: a serialized example.

    Returns:
      int64 `[M]`.
    """
    features = tf.io.parse_single_example(record, _FEATURES)
    labels, is_crowd = features[_LABEL].values, features[_IS_CROWD].values
    # As in Model Garden's decoder, a record need not say it: there are no crowds then.
    is_crowd = tf.pad(is_crowd, [[0, tf.size(labels) - tf.size(is_crowd)]])
    return tf.boolean_mask(labels, tf.equal(is_crowd, 0))
