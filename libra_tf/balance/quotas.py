"""How many candidates of an image each detector samples."""

import dataclasses

import tensorflow as tf
from official.vision.configs import maskrcnn, retinanet

from libra_tf.configs import components
from libra_tf.ops.sampling import IoUBins

# RetinaNet learns from all anchors. It is measured as if it sampled as many as an RPN does.
_RETINANET_ANCHORS = 256
_RETINANET_POSITIVE_FRACTION = 0.5


@dataclasses.dataclass(frozen=True)
class Quota:
    """How many candidates of an image are sampled, and how IoU-balanced sampling bins them.

    Attributes:
      num_samples: positives and negatives together.
      positive_fraction: the largest share of positives, from 0 to 1.
      negative_iou: the IoU below which a candidate is negative; the paper's bins end there.
      balancing: how they are binned. Its `bin_range` has no effect: each measure names its own.
      max_negatives_per_positive: see `libra_tf.configs.components.RPNSampler`.
    """

    num_samples: int
    positive_fraction: float
    negative_iou: float
    balancing: components.IoUBalancing = dataclasses.field(default_factory=components.IoUBalancing)
    max_negatives_per_positive: int = 0

    @property
    def max_positives(self) -> int:
        """The most positives that are sampled."""
        return int(self.num_samples * self.positive_fraction)

    def num_negatives(self, is_positive: tf.Tensor) -> tf.Tensor:
        """Returns how many negatives are sampled from an image that has enough.

        Args:
          is_positive: bool `[N]`.

        Returns:
          A scalar, int32.
        """
        present = tf.math.count_nonzero(is_positive, dtype=tf.int32)
        return self.num_negatives_beside(tf.minimum(present, self.max_positives))

    def num_negatives_beside(self, num_positives: tf.Tensor) -> tf.Tensor:
        """Returns how many negatives are sampled beside so many positives, if there are enough.

        Args:
          num_positives: a scalar, int32, at most `max_positives`.

        Returns:
          A scalar, int32.
        """
        number = self.num_samples - num_positives
        if not self.max_negatives_per_positive:
            return number
        limit = self.max_negatives_per_positive * tf.maximum(num_positives, 1)
        return tf.minimum(number, limit)

    def bins(self, bin_range: str) -> IoUBins:
        """Returns the bins of IoU-balanced sampling.

        Args:
          bin_range: `candidates` for the paper's bins, `all` for MMDetection's.
        """
        return self.balancing.replace(bin_range=bin_range).bins(self.negative_iou)


def of_proposals(sampler: components.ROISampler) -> Quota:
    """Returns the quota of the proposals that a detection head learns from.

    Args:
      sampler: config of the RoI sampler.
    """
    return Quota(
        sampler.num_sampled_rois,
        sampler.foreground_fraction,
        sampler.background_iou_high_threshold,
        sampler,
    )


def of_rpn_anchors(sampler: components.RPNSampler, parser: maskrcnn.Parser) -> Quota:
    """Returns the quota of the anchors that an RPN learns from.

    Args:
      sampler: config of the RPN's sampler.
      parser: Model Garden's config of how many anchors to sample and which are negative.
    """
    return Quota(
        parser.rpn_batch_size_per_im,
        parser.rpn_fg_fraction,
        parser.rpn_unmatched_threshold,
        sampler,
        sampler.max_negatives_per_positive,
    )


def of_retinanet_anchors(parser: retinanet.Parser) -> Quota:
    """Returns the quota that RetinaNet's anchors are measured with.

    Args:
      parser: Model Garden's config of which anchors are negative.
    """
    return Quota(_RETINANET_ANCHORS, _RETINANET_POSITIVE_FRACTION, parser.unmatched_threshold)
