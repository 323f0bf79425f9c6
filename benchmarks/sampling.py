"""IoU-balanced sampling compared with Model Garden's random sampling of RoIs."""

import functools
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf
from official.vision.modeling.layers import box_sampler, roi_sampler

from comparison import Comparison
from libra_tf.compat import keras
from libra_tf.layers import IoUBalancedROISampler

NUM_SAMPLES = 512
MAX_INSTANCES = 100
LAYERS = {"ours": IoUBalancedROISampler, "Model Garden": roi_sampler.ROISampler}
SIZES = ((2, 1000), (8, 1000), (8, 2000))


def comparisons() -> Iterator[Comparison]:
    """Yields the whole layer, the choice of indices alone, and how that scales."""
    for batch, num_proposals in SIZES:
        for jit_compile in (False, True):
            size = f"batch {batch}, {num_proposals}+{MAX_INSTANCES} boxes"
            size += ", XLA" if jit_compile else ""
            yield Comparison(
                f"layer, {size}",
                {
                    name: functools.partial(_layer, layer, batch, num_proposals, jit_compile)
                    for name, layer in LAYERS.items()
                },
            )
            choices = {"ours": _our_choice, "Model Garden": _model_gardens_choice}
            yield Comparison(
                f"choice of indices, {size}",
                {
                    name: functools.partial(_choice, choice, batch, num_proposals, jit_compile)
                    for name, choice in choices.items()
                },
            )
    for num_proposals in (500, 4000, 16000, 64000):
        yield Comparison(
            f"choice of indices, batch 1, {num_proposals}+{MAX_INSTANCES} boxes",
            {"ours": functools.partial(_choice, _our_choice, 1, num_proposals, False)},
            note=functools.partial(_per_box, num_proposals + MAX_INSTANCES),
        )


def _per_box(num_boxes: int, name: str, seconds: float) -> str:
    del name
    return f"{1e9 * seconds / (num_boxes * np.log2(num_boxes)):.1f} ns per N log2 N"


def scene(batch: int, num_proposals: int) -> list[tf.Tensor]:
    """Returns proposals near and far from 20 instances per image, padded to MAX_INSTANCES."""
    rng = np.random.default_rng(0)
    num_instances = 20
    corners = rng.uniform(0, 800, (batch, num_instances, 2))
    instances = np.concatenate([corners, corners + rng.uniform(20, 200, corners.shape)], -1)
    nearest = instances[:, rng.integers(0, num_instances, num_proposals)]
    proposals = nearest + rng.normal(size=nearest.shape) * rng.choice(
        [3, 20, 100, 400], (batch, num_proposals, 1)
    )
    proposals = np.maximum(proposals, 0)
    proposals[..., 2:] = np.maximum(proposals[..., 2:], proposals[..., :2] + 1)
    missing = [(0, 0), (0, MAX_INSTANCES - num_instances)]
    gt_boxes = np.pad(instances, [*missing, (0, 0)], constant_values=-1)
    classes = np.pad(rng.integers(1, 80, corners.shape[:2]), missing, constant_values=-1)
    return [tf.constant(x, tf.float32) for x in (proposals, gt_boxes, classes)]


def _layer(
    layer_class: type[keras.layers.Layer], batch: int, num_proposals: int, jit_compile: bool
) -> Callable[[], np.ndarray]:
    layer = layer_class(num_sampled_rois=NUM_SAMPLES)
    inputs = scene(batch, num_proposals)
    sample = tf.function(layer, jit_compile=jit_compile)
    return lambda: sample(*inputs)[0].numpy()


def _matches(batch: int, num_proposals: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns IoUs, matched instances and indicators of all boxes, as in both layers."""
    layer = roi_sampler.ROISampler()
    boxes, gt_boxes, _ = scene(batch, num_proposals)
    boxes = tf.concat([boxes, gt_boxes], 1)
    padding = [tf.reduce_max(b, -1, keepdims=True) < 0 for b in (boxes, gt_boxes)]
    ious = layer._sim_calc(boxes, gt_boxes, *padding)
    return ious, *layer._box_matcher(ious)


def _choice(
    make_choice: Callable[[], Callable[..., tf.Tensor]],
    batch: int,
    num_proposals: int,
    jit_compile: bool,
) -> Callable[[], np.ndarray]:
    inputs = _matches(batch, num_proposals)
    choose = tf.function(make_choice(), jit_compile=jit_compile)
    return lambda: choose(*inputs).numpy()


def _our_choice() -> Callable[..., tf.Tensor]:
    return IoUBalancedROISampler(num_sampled_rois=NUM_SAMPLES).choose


def _model_gardens_choice() -> Callable[..., tf.Tensor]:
    sampler = box_sampler.BoxSampler(NUM_SAMPLES, 0.25)

    def choose(ious: tf.Tensor, instances: tf.Tensor, indicators: tf.Tensor) -> tf.Tensor:
        del ious, instances
        return sampler(indicators >= 0, tf.equal(indicators, -1), tf.equal(indicators, -2))

    return choose
