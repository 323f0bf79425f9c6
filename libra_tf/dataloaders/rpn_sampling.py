"""Sampling of the anchors that Model Garden's RPN learns to score: balanced, or as published.

Model Garden's parser labels the anchors of an image and samples among them at once. Here it is
asked for the labels of all anchors, and its batches are sampled from afterwards.
"""

import tensorflow as tf
from official.vision.configs import maskrcnn
from official.vision.ops import iou_similarity

from libra_tf import ops
from libra_tf.configs import components
from libra_tf.ops import pools, sampling


def is_model_gardens(config: components.RPNSampler) -> bool:
    """Returns whether Model Garden's own sampler draws what a config says."""
    return config.type == "random" and not config.max_negatives_per_positive


def label_all_anchors(data: maskrcnn.DataConfig) -> maskrcnn.DataConfig:
    """Returns a copy of a data config with which Model Garden's parser samples every anchor."""
    # More anchors than that cannot be sampled from, and what they number is not known here.
    every = {"rpn_batch_size_per_im": pools.MAX_CANDIDATES, "rpn_fg_fraction": 1.0}
    return data.replace(parser=every)


def sample_dataset(
    dataset: tf.data.Dataset,
    config: components.RPNSampler,
    parser: maskrcnn.Parser,
    seed: int,
) -> tf.data.Dataset:
    """Samples among the anchors of every image of a training set.

    Only the scores learn from the sample: Model Garden's box loss takes all positive anchors, with
    its own sampler, too.

    Args:
      dataset: batches (images, labels) of Model Garden's parser for `label_all_anchors`.
      config: how to sample.
      parser: Model Garden's config of how many anchors to sample and which are negative.
      seed: fixes, with the position of an image in the dataset, what is sampled.

    Returns:
      The same batches, with `rpn_score_targets` -1 for the anchors that are not sampled.
    """

    def sample_batch(index, batch):
        images, labels = batch
        targets = labels["rpn_score_targets"]
        flat = tf.concat([_flatten(targets[level]) for level in targets], axis=1)
        # All images have one size, and therefore the same anchors.
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

    batches = dataset.enumerate().map(sample_batch, num_parallel_calls=tf.data.AUTOTUNE)
    return batches.prefetch(tf.data.AUTOTUNE)


def sample_anchors(
    score_targets: tf.Tensor,
    gt_boxes: tf.Tensor,
    anchors: tf.Tensor,
    config: components.RPNSampler,
    parser: maskrcnn.Parser,
    seed: tf.Tensor | tuple[int, int],
) -> tf.Tensor:
    """Samples among the labelled anchors of one image.

    Of `rpn_batch_size_per_im` anchors, at most the share `rpn_fg_fraction` are positives and the
    rest negatives, of which there may be a limit. With `type: iou_balanced`, positives are drawn
    evenly over the objects of largest IoU, negatives evenly over the range of their IoUs with the
    nearest object.

    Args:
      score_targets: int32 `[N]`: 1 for positive, 0 for negative and -1 for ignored anchors.
      gt_boxes: float `[M, 4]`, `[ymin, xmin, ymax, xmax]` in pixels; boxes of -1 pad at the end.
      anchors: float `[N, 4]`, likewise.
      config: as in `sample_dataset`.
      parser: as in `sample_dataset`.
      seed: two ints, which fix what is sampled.

    Returns:
      int32 `[N]`: `score_targets`, or -1 where an anchor is not sampled.
    """
    seed = tf.stack(seed)
    if config.type == "random":
        return _sample_at_random(score_targets, config, parser, seed)
    return _sample_balanced(score_targets, gt_boxes, anchors, config, parser, seed)


def _sample_at_random(score_targets, config, parser, seed):
    positives = _indices_of_positives(score_targets)
    positives = positives[_draw_at_random(positives, parser, seed)]
    negatives = ops.sample_random(
        tf.equal(score_targets, 0)[tf.newaxis],
        _num_negatives(tf.size(positives), config, parser),
        seed,
    )
    return _keep(score_targets, positives, negatives[0])


def _sample_balanced(score_targets, gt_boxes, anchors, config, parser, seed):
    # One padding box stays where there is no object: its IoU with every anchor is 0.
    num_objects = tf.math.count_nonzero(tf.reduce_max(gt_boxes, axis=1) >= 0, dtype=tf.int32)
    gt_boxes = gt_boxes[: tf.maximum(num_objects, 1)]
    ious = iou_similarity.IouSimilarity()(anchors, gt_boxes)
    positives = _indices_of_positives(score_targets)
    if config.instance_balanced:
        is_sampled = _draw_evenly(tf.gather_nd(ious, positives), parser, seed)
    else:
        is_sampled = _draw_at_random(positives, parser, seed)
    positives = positives[is_sampled]
    negatives = sampling.draw_iou_balanced(
        tf.reduce_max(ious, axis=1)[tf.newaxis],
        tf.equal(score_targets, 0)[tf.newaxis],
        _num_negatives(tf.size(positives), config, parser),
        config.bins(parser.rpn_unmatched_threshold),
        seed,
    )
    return _keep(score_targets, positives, negatives[0])


def _indices_of_positives(score_targets):
    """Indices `[P, 1]`: there are few positives, and a draw takes as long as sorting them."""
    return tf.where(tf.equal(score_targets, 1))


def _draw_at_random(positives, parser, seed):
    """Bool `[P]`."""
    candidates = tf.ones_like(positives[:, 0], tf.bool)[tf.newaxis]
    return ops.sample_random(candidates, _max_positives(parser), seed)[0]


def _draw_evenly(ious, parser, seed):
    """Bool `[P]`, drawn evenly over the objects, from IoUs `[P, M]`."""
    instances = tf.argmax(ious, axis=1, output_type=tf.int32)[tf.newaxis]
    candidates = tf.ones_like(instances, tf.bool)
    return ops.sample_instance_balanced(
        instances, candidates, _max_positives(parser), tf.shape(ious)[1], seed
    )[0]


def _keep(score_targets, positives, is_negative):
    """`score_targets` of the sampled anchors, -1 for all others."""
    sampled = tf.where(is_negative, score_targets, -1)
    return tf.tensor_scatter_nd_update(sampled, positives, tf.ones_like(positives[:, 0], tf.int32))


def _max_positives(parser):
    return int(parser.rpn_batch_size_per_im * parser.rpn_fg_fraction)


def _num_negatives(num_positives, config, parser):
    num_negatives = parser.rpn_batch_size_per_im - num_positives
    limit = config.max_negatives_per_positive
    if not limit:
        return num_negatives
    return tf.minimum(num_negatives, limit * tf.maximum(num_positives, 1))


def _flatten(targets):
    """Targets `[batch, height, width, anchors]` of one level as `[batch, N]`."""
    return tf.reshape(targets, [tf.shape(targets)[0], targets.shape[1:].num_elements()])


def _unflatten(flat, targets):
    """Splits `[batch, N]` into levels of the shapes of `targets`."""
    shapes = {level: target.shape[1:] for level, target in targets.items()}
    parts = tf.split(flat, [shape.num_elements() for shape in shapes.values()], axis=1)
    return {
        level: tf.reshape(part, [-1, *shape])
        for (level, shape), part in zip(shapes.items(), parts, strict=True)
    }
