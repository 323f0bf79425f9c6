"""Classes: how many objects each has, and how much training looks at them.

The gradient of a class is taken at its own score, before softmax or sigmoid, where a loss enters
the detector: the sum of |dL/dz_c| over the candidates whose class is c (they raise the score), and
over all others (they lower it). This needs no pass through the detector. The quotient of the two
is that of Tan et al., "Equalization Loss v2", CVPR 2021: near 1 for frequent classes,
far below for rare ones, whose scores are mostly lowered.
"""

import collections
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from libra_tf.analysis.detector import ClassHead
from libra_tf.analysis.samples import Candidates
from libra_tf.balance.samples import POSITIVE

# The rarest classes are this part of those with objects, rounded up.
RAREST = 0.25


class ClassGradients(NamedTuple):
    """What each class gets in training steps, by category id; the background, 0, included.

    Attributes:
      sampled: `[C]`, how many of the candidates in the loss of the first stage are of the class.
      positives: `[C]`, the gradient at its score that comes from candidates of the class.
      negatives: `[C]`, the gradient at its score that comes from all others.
    """

    sampled: Any
    positives: Any
    negatives: Any


def gradients_of_classes(head: ClassHead, slopes: Sequence[tf.Tensor]) -> ClassGradients:
    """Returns what each class gets of a loss in one step.

    Args:
      head: the scores and their targets.
      slopes: of the shapes of `head.logits`, the derivative of the loss at each.

    Returns:
      int32 and float32 tensors `[C]`.
    """
    num_classes = head.logits[0].shape[-1] // _num_candidates(head)
    targets = tf.concat([tf.reshape(x, [-1]) for x in head.targets], axis=0)
    targets = tf.cast(targets, tf.int32)
    sizes = tf.concat([tf.reshape(x, [-1, num_classes]) for x in slopes], axis=0)
    sizes = tf.abs(tf.cast(sizes, tf.float32))
    is_of_class = tf.one_hot(targets, num_classes, on_value=True, off_value=False)
    return ClassGradients(
        tf.math.count_nonzero(is_of_class, axis=0, dtype=tf.int32),
        tf.reduce_sum(tf.where(is_of_class, sizes, 0.0), axis=0),
        # Not the rest of the whole sum: where the positives are much more, it would be rounding.
        tf.reduce_sum(tf.where(is_of_class, 0.0, sizes), axis=0),
    )


def _num_candidates(head: ClassHead) -> int:
    """Returns A, the number of candidates at a place: 1 where each has a row of its own."""
    logits, targets = head.logits[0], head.targets[0]
    return targets.shape[-1] if len(logits.shape) == len(targets.shape) else 1


def add_stages(stages: Sequence[ClassGradients]) -> ClassGradients:
    """Adds up the gradients of all stages of a cascade; the first stage says what is sampled.

    Args:
      stages: of one step.
    """
    return ClassGradients(
        stages[0].sampled,
        tf.add_n([stage.positives for stage in stages]),
        tf.add_n([stage.negatives for stage in stages]),
    )


def add_up(steps: Sequence[ClassGradients]) -> ClassGradients:
    """Adds up steps.

    Args:
      steps: with arrays; at least one.
    """
    return ClassGradients(*(np.sum(values, axis=0) for values in zip(*steps, strict=True)))


class ClassTally:
    """Counts the objects and the positives of each class over many images.

    Args:
      class_names: category id to name, a different one for each. An id that is called by its number
        may be no class, as in the gaps of COCO's ids: it counts as one only if it has objects.
    """

    def __init__(self, class_names: Mapping[int, str]):
        self._names = dict(class_names)
        self._objects = collections.Counter()
        self._images = collections.Counter()
        self._positives = collections.defaultdict(collections.Counter)
        self._num_images = 0

    def add_image(self, categories: np.ndarray, candidates: Mapping[str, Candidates]) -> None:
        """Adds an image.

        Args:
          categories: int array `[M]`, the category ids of its objects.
          candidates: by kind, its candidates.
        """
        self._objects.update(categories.tolist())
        self._images.update(set(categories.tolist()))
        for kind, of_kind in candidates.items():
            self._positives[kind].update(of_kind.classes[of_kind.kinds == POSITIVE].tolist())
        self._num_images += 1

    def result(self, gradients: ClassGradients, precisions: Mapping[str, float]) -> dict[str, Any]:
        """Returns all numbers, ready for JSON.

        Args:
          gradients: of the same images, arrays by category id.
          precisions: by class name, the AP that an evaluation has measured, if any.

        Returns:
          `by_class`, the rarest first, and what the rarest of those with objects have together; see
          docs/analysis.md.
        """
        ordered = sorted(
            (category for category in self._names if self._is_class(category)),
            key=lambda category: (self._objects[category], category),
        )
        total = float(sum(gradients.positives[category] for category in ordered))
        by_class = {
            self._names[category]: {
                "objects": self._objects[category],
                "images": self._images[category],
                "positives": {kind: n[category] for kind, n in self._positives.items()},
                # RetinaNet does not sample: its loss takes all positives.
                "sampled": gradients.sampled[category] if "proposals" in self._positives else None,
                "gradient_share": gradients.positives[category] / total if total > 0 else None,
                "positive_over_negative": _quotient(gradients, category),
                "AP": _measured(precisions.get(self._names[category])),
            }
            for category in ordered
        }
        return {
            "num_images": self._num_images,
            "num_objects": sum(self._objects[category] for category in ordered),
            "rarest": _rarest(by_class),
            "by_class": by_class,
        }

    def _is_class(self, category: int) -> bool:
        return self._objects[category] > 0 or self._names[category] != str(category)


def _quotient(gradients: ClassGradients, category: int) -> float | None:
    negatives = gradients.negatives[category]
    return gradients.positives[category] / negatives if negatives > 0 else None


def _measured(precision: float | None) -> float | None:
    """Returns the AP; None for the -1 of a class without objects in the evaluation."""
    return None if precision is None or precision < 0 else precision


def _rarest(by_class: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the rarest classes with objects, and their parts.

    `even` is their part of the classes with objects; without any, all parts are None.
    """
    present = {name: row for name, row in by_class.items() if row["objects"]}
    names = list(present)[: int(np.ceil(RAREST * len(present)))]
    if not names:
        return {"classes": [], "even": None, "objects": None, "gradient": None}
    shares = [present[name]["gradient_share"] for name in names]
    return {
        "classes": names,
        "even": len(names) / len(present),
        "objects": sum(present[name]["objects"] for name in names)
        / sum(row["objects"] for row in present.values()),
        "gradient": None if None in shares else sum(shares),
    }
