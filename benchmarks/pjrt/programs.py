"""Builds what a case lowers, in TensorFlow: a function and its inputs."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

import sampling
from building import SWITCHES_OFF, prepare
from cases import Case
from libra_tf import ops
from libra_tf.compat import keras
from libra_tf.layers import NonLocal2D

RPN_SAMPLES = 256
# TensorFlow's batched suppression cannot be compiled, and statistics of one device need no sum.
COMPILABLE = {
    "model": {
        "norm_activation": {"use_sync_bn": False},
        "detection_generator": {"nms_version": "v2"},
    }
}
COMPILABLE_RPN = {"model": {"roi_generator": {"use_batched_nms": False}}}
# Most different images of a batch; a larger one repeats them, so that the file stays small.
_DIFFERENT = 2


@dataclasses.dataclass(frozen=True)
class Program:
    """A function to lower.

    Attributes:
      function: takes the inputs, and returns a list of tensors. The first is a vector of figures
        that say whether another machine computes the same.
      inputs: how `pjrt_run.draw` makes each input: its shape, dtype and origin. One that comes from
        a file has no name of a file yet, but its `rows`.
    """

    function: Callable[..., list[tf.Tensor]]
    inputs: list[dict[str, Any]]


def build_program(case: Case) -> Program:
    """Builds the program of a case, within the precision of the case."""
    keras.utils.set_random_seed(0)
    if case.what == "non_local":
        return _non_local(case)
    if case.what == "roi_sampler":
        return _roi_sampler(case)
    if case.what == "rpn_sampler":
        return _rpn_sampler(case)
    return _detector(case)


def _detector(case: Case) -> Program:
    is_training = case.work == "training"
    off = SWITCHES_OFF[case.what] if case.whose == "model_garden" else {}
    if not is_training:
        off = {"model": off.get("model", {})}
    switches = _merged(_merged(COMPILABLE, off), {} if _is_one_stage(case) else COMPILABLE_RPN)
    task, params, batch = prepare(
        f"libra_{case.what}_{case.scale}",
        switches,
        is_training,
        min(case.batch, _DIFFERENT),
        case.size,
        case.dtype,
    )
    model = task.build_model()
    optimizer = task.create_optimizer(params.trainer.optimizer_config)

    def train(images: tf.Tensor, *labels: tf.Tensor) -> list[tf.Tensor]:
        inputs = tf.nest.pack_sequence_as(batch, [images, *labels])
        return [tf.cast(task.train_step(inputs, model, optimizer)[task.loss], tf.float32)[None]]

    def infer(images: tf.Tensor, *labels: tf.Tensor) -> list[tf.Tensor]:
        _, labels = tf.nest.pack_sequence_as(batch, [images, *labels])
        shape, anchors = labels["image_info"][:, 1, :], labels["anchor_boxes"]
        outputs = model(images, image_shape=shape, anchor_boxes=anchors, training=False)
        tensors = tf.nest.flatten(outputs)
        return [_means(tensors), *tensors]

    images, *labels = tf.nest.flatten(batch)
    inputs = [_normal((case.batch, *images.shape[1:]), images.dtype.name, seed=0)]
    inputs += [_stored(label.numpy(), case.batch) for label in labels]
    return Program(train if is_training else infer, inputs)


def _is_one_stage(case: Case) -> bool:
    return case.what == "retinanet"


def _means(tensors: list[tf.Tensor]) -> tf.Tensor:
    return tf.stack([tf.reduce_mean(tf.abs(tf.cast(tensor, tf.float32))) for tensor in tensors])


def _non_local(case: Case) -> Program:
    shape = (case.batch, *case.size, 256)
    layer = NonLocal2D(out_kernel_initializer=keras.initializers.RandomNormal())
    layer.build(shape)

    def gradients(x: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = tf.reduce_mean(tf.cast(layer(x), tf.float32) ** 2)
        results = tape.gradient(value, [x, *layer.trainable_variables])
        return [tf.stack([value, *tf.unstack(_means(results))]), *results]

    return Program(gradients, [_normal(shape, case.dtype, seed=0)])


def _roi_sampler(case: Case) -> Program:
    layer_class = sampling.LAYERS["ours" if case.whose == "ours" else "Model Garden"]
    seed = {"seed": 0} if case.whose == "ours" else {}
    layer = layer_class(num_sampled_rois=sampling.NUM_SAMPLES, **seed)

    def sample(*inputs: tf.Tensor) -> list[tf.Tensor]:
        outputs = list(layer(*inputs))
        return [_means(outputs), *outputs]

    scene = sampling.scene(case.batch, case.size)
    return Program(sample, [_stored(tensor.numpy(), case.batch) for tensor in scene])


def _rpn_sampler(case: Case) -> Program:
    def sample(noise: tf.Tensor, seed: tf.Tensor) -> list[tf.Tensor]:
        # Most anchors overlap nothing, and few of the others overlap much.
        ious = tf.clip_by_value(0.2 * (noise - 1.5), 0.0, 1.0)
        is_sampled = ops.sample_iou_balanced(ious, ious < 0.3, RPN_SAMPLES, seed=seed)
        return [_means([is_sampled, tf.where(is_sampled, ious, 0.0)]), is_sampled]

    # With a seed in the program, TensorFlow would draw while lowering.
    seed = {"shape": [2], "dtype": "int32", "from": "constant", "value": 0}
    return Program(sample, [_normal((case.batch, case.size), case.dtype, seed=0), seed])


def _normal(shape: tuple[int, ...], dtype: str, seed: int) -> dict[str, Any]:
    origin = {"from": "normal", "mean": 0.0, "std": 1.0, "seed": seed}
    return {"shape": list(shape), "dtype": dtype, **origin}


def _stored(rows: np.ndarray, batch: int) -> dict[str, Any]:
    shape = [batch, *rows.shape[1:]]
    return {"shape": shape, "dtype": rows.dtype.name, "from": "file", "rows": rows}


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `one` with the values of `other`, in groups too."""
    merged = dict(one)
    for key, value in other.items():
        in_group = isinstance(value, Mapping) and key in one
        merged[key] = _merged(one[key], value) if in_group else value
    return merged
