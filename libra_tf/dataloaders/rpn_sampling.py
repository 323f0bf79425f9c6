"""Samples anchors for the scores of Model Garden's RPN: balanced, or as in the published configs.

Model Garden's parser labels and samples the anchors of an image in one go. Here the parser keeps
the labels of all anchors, and sampling happens afterwards, on its batches.
"""

from collections.abc import Mapping, Sequence

import tensorflow as tf
from official.vision.configs import maskrcnn
from official.vision.ops import iou_similarity

from libra_tf import ops
from libra_tf.balance import quotas
from libra_tf.configs import components
from libra_tf.ops import pools, sampling
from libra_tf.ops.boxes import is_object


def is_model_gardens(config: components.RPNSampler) -> bool:
    """Returns whether Model Garden's own sampler does what a config asks for."""
    return config.type == "random" and not config.max_negatives_per_positive


def label_all_anchors(data: maskrcnn.DataConfig) -> maskrcnn.DataConfig:
    """Returns a copy of a data config that makes Model Garden's parser sample every anchor."""
    # The number of anchors is not known here, but the samplers accept no more than this.
    every = {"rpn_batch_size_per_im": pools.MAX_CANDIDATES, "rpn_fg_fraction": 1.0}
    return data.replace(parser=every)


def sample_dataset(
    dataset: tf.data.Dataset,
    config: components.RPNSampler,
    parser: maskrcnn.Parser,
    seed: int,
    first_batch: int = 0,
) -> tf.data.Dataset:
    """Samples anchors of every image of a training set.

    The sample affects only the score loss. Model Garden's box loss uses all positive anchors, also
    with Model Garden's own sampler.

    Args:
      dataset: batches (images, labels) from Model Garden's parser with `label_all_anchors`.
      config: how to sample.
      parser: Model Garden's config of how many anchors to sample and which are negative.
      seed: determines the sample, together with the position of the image in the training.
      first_batch: how many batches of the training come before the dataset.

    Returns:
      The same batches, with `rpn_score_targets` -1 for anchors that are not sampled.
    """

    def sample_batch(index: tf.Tensor, batch: tuple[tf.Tensor, Mapping]) -> tuple[tf.Tensor, dict]:
        images, labels = batch
        targets = labels["rpn_score_targets"]
        flat = tf.concat([_flatten(targets[level]) for level in targets], axis=1)
        # All images of a batch have the same size, and therefore the same anchors.
        anchors = [tf.reshape(labels["anchor_boxes"][level][0], [-1, 4]) for level in targets]
        anchors = tf.concat(anchors, axis=0)
        batch_size = tf.shape(flat)[0]
        positions = tf.cast(index, tf.int32) * batch_size + tf.range(batch_size)
        # One image at a time: the IoUs of a batch at 1024x1024 do not fit into memory.
        sampled = tf.map_fn(
            lambda image: sample_anchors(*image[:2], anchors, config, parser, [seed, image[2]]),
            (flat, labels["gt_boxes"], positions),
            parallel_iterations=1,
            fn_output_signature=tf.TensorSpec(flat.shape[1:], flat.dtype),
        )
        return images, {**labels, "rpn_score_targets": _unflatten(sampled, targets)}

    batches = dataset.enumerate(first_batch).map(sample_batch, num_parallel_calls=tf.data.AUTOTUNE)
    return batches.prefetch(tf.data.AUTOTUNE)


def sample_anchors(
    score_targets: tf.Tensor,
    gt_boxes: tf.Tensor,
    anchors: tf.Tensor,
    config: components.RPNSampler,
    parser: maskrcnn.Parser,
    seed: tf.Tensor | Sequence[int],
) -> tf.Tensor:
    """Samples labelled anchors of one image.

    Of the `rpn_batch_size_per_im` sampled anchors, at most a share of `rpn_fg_fraction` are
    positives. The rest are negatives, up to the limit in the config. With `type: iou_balanced`,
    positives are drawn evenly over the objects they overlap most, and negatives evenly over the
    range of their largest IoUs with any object.

    Args:
      score_targets: int32 `[N]`: 1 for positive, 0 for negative and -1 for ignored anchors.
      gt_boxes: float `[M, 4]`, `[ymin, xmin, ymax, xmax]` in pixels, padded at the end with boxes
        of -1.
      anchors: float `[N, 4]`, `[ymin, xmin, ymax, xmax]` in pixels.
      config: as in `sample_dataset`.
      parser: as in `sample_dataset`.
      seed: two ints that determine the sample.

    Returns:
      int32 `[N]`: `score_targets`, but -1 for anchors that are not sampled.
    """
    seed = tf.stack(seed)
    quota = quotas.of_rpn_anchors(config, parser)
    if config.type == "random":
        return _sample_at_random(score_targets, quota, seed)
    return _sample_balanced(score_targets, gt_boxes, anchors, config, quota, seed)


def _sample_at_random(score_targets: tf.Tensor, quota: quotas.Quota, seed: tf.Tensor) -> tf.Tensor:
    positives = _indices_of_positives(score_targets)
    positives = positives[_draw_at_random(positives, quota, seed)]
    negatives = ops.sample_random(
        tf.equal(score_targets, 0)[tf.newaxis],
        quota.num_negatives_beside(tf.size(positives)),
        seed,
    )
    return _keep(score_targets, positives, negatives[0])


def _sample_balanced(
    score_targets: tf.Tensor,
    gt_boxes: tf.Tensor,
    anchors: tf.Tensor,
    config: components.RPNSampler,
    quota: quotas.Quota,
    seed: tf.Tensor,
) -> tf.Tensor:
    # One padding box stays where there is no object: its IoU with every anchor is 0.
    num_objects = tf.math.count_nonzero(is_object(gt_boxes), dtype=tf.int32)
    gt_boxes = gt_boxes[: tf.maximum(num_objects, 1)]
    ious = iou_similarity.IouSimilarity()(anchors, gt_boxes)
    positives = _indices_of_positives(score_targets)
    if config.instance_balanced:
        is_sampled = _draw_evenly(tf.gather_nd(ious, positives), quota, seed)
    else:
        is_sampled = _draw_at_random(positives, quota, seed)
    positives = positives[is_sampled]
    negatives = sampling.draw_iou_balanced(
        tf.reduce_max(ious, axis=1)[tf.newaxis],
        tf.equal(score_targets, 0)[tf.newaxis],
        quota.num_negatives_beside(tf.size(positives)),
        config.bins(quota.negative_iou),
        seed,
    )
    return _keep(score_targets, positives, negatives[0])


def _indices_of_positives(score_targets: tf.Tensor) -> tf.Tensor:
    """Returns the indices of positives, int64 `[P, 1]`.

    Drawing from these alone is fast: it takes as long as sorting them, and there are few.
    """
    return tf.where(tf.equal(score_targets, 1))


def _draw_at_random(positives: tf.Tensor, quota: quotas.Quota, seed: tf.Tensor) -> tf.Tensor:
    """Returns which positives to sample, bool `[P]`, drawn at random."""
    candidates = tf.ones_like(positives[:, 0], tf.bool)[tf.newaxis]
    return ops.sample_random(candidates, quota.max_positives, seed)[0]


def _draw_evenly(ious: tf.Tensor, quota: quotas.Quota, seed: tf.Tensor) -> tf.Tensor:
    """Returns which positives to sample, bool `[P]`, drawn evenly over the objects.

    Args:
      ious: `[P, M]`, IoUs of the positives with the objects.
      quota: how many to sample.
      seed: as in `sample_anchors`.
    """
    instances = tf.argmax(ious, axis=1, output_type=tf.int32)[tf.newaxis]
    candidates = tf.ones_like(instances, tf.bool)
    return ops.sample_instance_balanced(
        instances, candidates, quota.max_positives, tf.shape(ious)[1], seed
    )[0]


def _keep(score_targets: tf.Tensor, positives: tf.Tensor, is_negative: tf.Tensor) -> tf.Tensor:
    """Returns `score_targets` with -1 for anchors that are not sampled.

    Args:
      score_targets: int32 `[N]`.
      positives: int64 `[P, 1]`, indices of the sampled positives.
      is_negative: bool `[N]`, which anchors are sampled negatives.
    """
    sampled = tf.where(is_negative, score_targets, -1)
    return tf.tensor_scatter_nd_update(sampled, positives, tf.ones_like(positives[:, 0], tf.int32))


def _flatten(targets: tf.Tensor) -> tf.Tensor:
    """Reshapes targets of one level from `[B, height, width, anchors]` to `[B, N]`."""
    return tf.reshape(targets, [tf.shape(targets)[0], targets.shape[1:].num_elements() or -1])


def _unflatten(flat: tf.Tensor, targets: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Splits `[B, N]` into levels with the shapes of `targets`."""
    sizes = [tf.size(target[0]) for target in targets.values()]
    parts = tf.split(flat, sizes, axis=1, num=len(sizes))
    return {
        level: tf.ensure_shape(tf.reshape(part, tf.shape(target)), target.shape)
        for (level, target), part in zip(targets.items(), parts, strict=True)
    }
