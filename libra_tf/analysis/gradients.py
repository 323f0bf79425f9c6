"""Where the gradient of a training step comes from."""

import collections
import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from libra_tf.analysis import classes, objective
from libra_tf.analysis.detector import BoxHead, Detector, TrainingStep

_SHARED = ("backbone", "decoder")
# A gradient by part of the detector, one tensor for each trainable weight.
_ByPart = dict[str, list[tf.Tensor]]


class GradientTally:
    """Norms of gradients and box errors over many batches.

    The norm of a loss at a part of the detector is the Euclidean norm of the gradient of the
    weighted loss with respect to the part's trainable weights, in a training step on one batch. The
    result is the mean over the batches. `shared` is the backbone and the decoder together, where
    the losses compete. The inliers' part of a box loss is the gradient that their coordinates send
    back. What each class gets of the classification loss is in `libra_tf.analysis.classes`.

    Args:
      detector: the detector to differentiate.
    """

    def __init__(self, detector: Detector):
        self._detector = detector
        self._norms = collections.defaultdict(list)
        self._losses = collections.defaultdict(list)
        self._errors = collections.defaultdict(list)
        self._slopes = collections.defaultdict(list)
        self._of_classes = []
        self._step = tf.function(self._differentiate, autograph=False)

    def add(self, images: tf.Tensor, labels: dict[str, Any]) -> None:
        """Adds a batch; the detector stays as it is.

        Args:
          images: float `[B, height, width, 3]`.
          labels: as in training.
        """
        with _restored(self._detector.model.non_trainable_variables):
            losses, norms, errors, of_classes = self._step(images, labels)
        self._of_classes.append(tf.nest.map_structure(lambda x: x.numpy(), of_classes))
        for name, loss in losses.items():
            self._losses[name].append(float(loss))
        for key, norm in norms.items():
            self._norms[key].append(float(norm))
        for name, (of_head, slopes) in errors.items():
            self._errors[name].append(of_head.numpy())
            self._slopes[name].append(slopes.numpy())

    def result(self) -> dict[str, Any]:
        """Returns all numbers, ready for JSON."""
        norms = collections.defaultdict(lambda: collections.defaultdict(dict))
        for key, values in self._norms.items():
            loss, errors, module = key.split("/")
            norms[loss][errors][module] = float(np.mean(values))
        return {
            "losses": {name: float(np.mean(values)) for name, values in self._losses.items()},
            "weights": self._detector.losses,
            "gradient_norms": norms,
            "box_errors": {name: self._box_errors(name) for name in self._errors},
        }

    def of_classes(self) -> classes.ClassGradients:
        """Returns what each class gets of the classification loss, summed over the batches."""
        return classes.add_up(self._of_classes)

    def _box_errors(self, loss: str) -> dict[str, Any]:
        errors, slopes = (np.concatenate(x[loss]) for x in (self._errors, self._slopes))
        beta = self._detector.betas[loss]
        result = {
            "beta": beta,
            "median_error": float(np.median(np.abs(errors))) if errors.size else None,
            "error_90_percent": float(np.quantile(np.abs(errors), 0.9)) if errors.size else None,
            **objective.shares_of_gradient(errors, slopes, beta),
            "histogram": objective.error_histogram(errors, slopes, beta),
        }
        if loss != "rpn_box":
            form = self._detector.config.losses.balanced_l1.form
            result["grid"] = objective.balanced_l1_grid(errors, beta, form)
        return result

    def _differentiate(
        self, images: tf.Tensor, labels: dict[str, Any]
    ) -> tuple[
        dict[str, tf.Tensor],
        dict[str, tf.Tensor],
        dict[str, tuple[tf.Tensor, tf.Tensor]],
        classes.ClassGradients,
    ]:
        """Returns the losses; norms by `loss/errors/part`; errors and their slopes; of classes."""
        modules = self._detector.modules
        with tf.GradientTape(persistent=True) as tape:
            step = self._detector.take_step(images, labels)
        by_loss = collections.defaultdict(list)
        for head in step.box_heads:
            by_loss[head.loss].append(head)
        gradients, errors = {}, {}
        for name, loss in step.losses.items():
            if name in by_loss:
                beta = self._detector.betas[name]
                of_kinds, errors[name] = _box_gradients(tape, loss, by_loss[name], beta, modules)
            else:
                of_kinds = {"all": _gradients(tape, loss, modules)}
            gradients.update({f"{name}/{kind}": parts for kind, parts in of_kinds.items()})
        norms = {
            f"{key}/{part}": norm
            for key, of_parts in gradients.items()
            for part, norm in _norms(of_parts).items()
        }
        return step.losses, norms, errors, _of_classes(tape, step)


def _of_classes(tape: tf.GradientTape, step: TrainingStep) -> classes.ClassGradients:
    slopes = [tape.gradient(step.losses[head.loss], head.logits) for head in step.class_heads]
    pairs = zip(step.class_heads, slopes, strict=True)
    return classes.add_stages([classes.gradients_of_classes(*pair) for pair in pairs])


def _box_gradients(
    tape: tf.GradientTape,
    loss: tf.Tensor,
    heads: list[BoxHead],
    beta: float,
    modules: dict[str, list[tf.Variable]],
) -> tuple[dict[str, _ByPart], tuple[tf.Tensor, tf.Tensor]]:
    """Gradients of a box loss by kind of error; and the positives' errors and slopes."""
    outputs = [output for head in heads for output in head.boxes.outputs]
    slopes = tape.gradient(loss, outputs, unconnected_gradients="zero")
    is_inlier = [tf.abs(error) < beta for head in heads for error in head.boxes.errors]
    masks = {"inliers": is_inlier, "outliers": [~inlier for inlier in is_inlier]}
    gradients = {}
    for kind, of_kind in masks.items():
        masked = [tf.where(mask, slope, 0) for mask, slope in zip(of_kind, slopes, strict=True)]
        gradients[kind] = _gradients(tape, outputs, modules, masked)
    # A box loss reaches the weights through its outputs alone, and gradients add up.
    gradients["all"] = tf.nest.map_structure(tf.add, gradients["inliers"], gradients["outliers"])
    return gradients, _of_positives(heads, slopes)


def _of_positives(heads: list[BoxHead], slopes: list[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """The errors of the positives of all heads, and the slopes of the loss there, both flat."""
    masks = [mask for head in heads for mask in head.boxes.is_positive]
    errors = [error for head in heads for error in head.boxes.errors]
    return tuple(
        tf.concat([tf.boolean_mask(*pair) for pair in zip(tensors, masks, strict=True)], 0)
        for tensors in (errors, slopes)
    )


def _gradients(
    tape: tf.GradientTape,
    target: tf.Tensor | list[tf.Tensor],
    modules: dict[str, list[tf.Variable]],
    output_gradients: list[tf.Tensor] | None = None,
) -> _ByPart:
    return tape.gradient(
        target, modules, output_gradients=output_gradients, unconnected_gradients="zero"
    )


def _norms(gradients: _ByPart) -> dict[str, tf.Tensor]:
    """Norms of the gradient at every part, and at the shared parts together."""
    norms = {name: tf.linalg.global_norm(parts) for name, parts in gradients.items() if parts}
    shared = [gradient for name in _SHARED for gradient in gradients[name]]
    return {"shared": tf.linalg.global_norm(shared), **norms} if shared else norms


@contextlib.contextmanager
def _restored(variables: list[tf.Variable]) -> Iterator[None]:
    """Restores variables afterwards: a training step moves the statistics of batch norms."""
    values = [variable.numpy() for variable in variables]
    try:
        yield
    finally:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
