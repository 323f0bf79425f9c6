"""Where the gradient of one training step comes from."""

import collections
import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from libra_tf.analysis import objective
from libra_tf.analysis.detectors import Detector

_SHARED = ("backbone", "decoder")


class GradientTally:
    """Norms of gradients and box errors over many batches.

    The norm of a loss at a part of the detector is the Euclidean norm of the gradient of the
    weighted loss with respect to the part's trainable weights, in a training step on one batch; the
    mean over the batches is reported. `shared` is backbone and decoder together, where the losses
    compete. The part of a box loss that is of inliers is what their coordinates send back.

    Args:
      detector: what to differentiate.
    """

    def __init__(self, detector: Detector):
        self._detector = detector
        self._norms = collections.defaultdict(list)
        self._losses = collections.defaultdict(list)
        self._errors = collections.defaultdict(list)
        self._slopes = collections.defaultdict(list)
        self._betas = {}
        self._step = tf.function(self._differentiate)

    def add(self, images: tf.Tensor, labels: dict[str, Any]) -> None:
        """Takes a batch into account; the detector stays as it is."""
        with _restored(self._detector.model.non_trainable_variables):
            losses, norms, errors = self._step(images, labels)
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

    def _box_errors(self, loss):
        errors, slopes = (np.concatenate(x[loss]) for x in (self._errors, self._slopes))
        beta = self._betas[loss]
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

    def _differentiate(self, images, labels):
        modules = self._detector.modules
        with tf.GradientTape(persistent=True) as tape:
            losses, heads = self._detector.compute_losses(images, labels)
        norms = {}
        for name, loss in losses.items():
            gradients = _by_module(tape, loss, modules)
            norms.update({f"{name}/all/{part}": norm for part, norm in gradients.items()})
        errors = collections.defaultdict(list)
        parts = collections.defaultdict(list)
        for head in heads:
            slopes = tape.gradient(losses[head.loss], head.outputs, unconnected_gradients="zero")
            self._betas[head.loss] = head.beta
            of_positives = [
                [tf.boolean_mask(*pair) for pair in zip(tensors, head.is_positive, strict=True)]
                for tensors in (head.errors, slopes)
            ]
            errors[head.loss].append([tf.concat(tensors, 0) for tensors in of_positives])
            for output, error, slope in zip(head.outputs, head.errors, slopes, strict=True):
                parts[head.loss].append((output, slope, tf.abs(error) < head.beta))
        for name, triples in parts.items():
            outputs = [output for output, _, _ in triples]
            for kind in ("inliers", "outliers"):
                masked = [
                    tf.where(inlier if kind == "inliers" else ~inlier, slope, 0)
                    for _, slope, inlier in triples
                ]
                gradients = _by_module(tape, outputs, modules, masked)
                norms.update({f"{name}/{kind}/{part}": norm for part, norm in gradients.items()})
        flat = {
            name: tuple(tf.concat(column, 0) for column in zip(*pairs, strict=True))
            for name, pairs in errors.items()
        }
        return losses, norms, flat


def _by_module(tape, target, modules, output_gradients=None):
    """Norms of the gradient at every part, and at the shared parts together."""
    gradients = tape.gradient(
        target, modules, output_gradients=output_gradients, unconnected_gradients="zero"
    )
    norms = {name: tf.linalg.global_norm(parts) for name, parts in gradients.items() if parts}
    shared = [gradient for name in _SHARED for gradient in gradients[name]]
    return {"shared": tf.linalg.global_norm(shared), **norms} if shared else norms


@contextlib.contextmanager
def _restored(variables: list[tf.Variable]) -> Iterator[None]:
    """Sets variables back in the end: a training step moves the statistics of batch norms."""
    values = [variable.numpy() for variable in variables]
    try:
        yield
    finally:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
