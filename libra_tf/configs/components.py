"""Config of each Libra component: the balanced pyramid, sampling and loss.

Every component is a switch. With `decoder.type` `fpn`, `roi_sampler.type` `random`,
`rpn_sampler.type` `random` and `rpn_sampler.max_negatives_per_positive` 0, or `losses.box_loss`
`huber`, Model Garden's own part takes its place, unchanged. RetinaNet's two box losses differ in
size: Model Garden gives its own a `losses.box_loss_weight` of 50, the balanced one has 4.
"""

import dataclasses
from typing import Any

from official.modeling import hyperparams
from official.vision.configs import decoders, maskrcnn

from libra_tf.ops.sampling import IoUBins


@dataclasses.dataclass
class LibraFPN(decoders.FPN):
    """FPN followed by the balanced feature pyramid (paper section 3.2).

    Attributes:
      refine_level: level at which the maps are gathered and refined. The published models use
        stride 16, which is level 4.
      refine_type: `non_local` (published), `conv`, or None for plain averaging.
    """

    refine_level: int = 4
    refine_type: str | None = "non_local"


@dataclasses.dataclass
class Decoder(decoders.Decoder):
    """Model Garden's decoders and one more: `libra_fpn`."""

    type: str | None = "libra_fpn"
    libra_fpn: LibraFPN = dataclasses.field(default_factory=LibraFPN)


@dataclasses.dataclass
class BalancedL1(hyperparams.Config):
    """Balanced L1 loss (paper section 3.3); see `libra_tf.losses.BalancedL1Loss`."""

    alpha: float = 0.5
    gamma: float = 1.5
    beta: float = 1.0
    form: str = "paper"


@dataclasses.dataclass
class IoUBalancing(hyperparams.Config):
    """The choices of IoU-balanced sampling (paper section 3.1).

    Attributes:
      num_bins: number of IoU bins that share the negatives evenly (K in the paper).
      floor_threshold: negatives below this IoU form the floor set; -1 for no floor set.
      floor_fraction: share of the negatives that is drawn from the floor set.
      bin_range: `candidates` for the paper's bins over the negatives' own range, `all` for
        MMDetection's bins, which reach up to the largest IoU of all candidates.
      instance_balanced: whether an excess of positives is thinned evenly over the objects.
    """

    num_bins: int = 3
    floor_threshold: float = -1.0
    floor_fraction: float = 0.0
    bin_range: str = "candidates"
    instance_balanced: bool = True

    def bins(self, negative_iou: float) -> IoUBins:
        """Returns the IoU bins that the config describes.

        Args:
          negative_iou: the IoU below which a box is negative.

        Raises:
          ValueError: if a choice is outside its range.
        """
        return IoUBins(
            self.num_bins,
            self.floor_threshold,
            self.floor_fraction,
            self.bin_range,
            iou_limit=negative_iou if self.bin_range == "candidates" else None,
        )

    def binning(self, negative_iou: float) -> dict[str, Any]:
        """Returns `bins` as arguments of `libra_tf.ops.sample_iou_balanced`.

        Args:
          negative_iou: the IoU below which a box is negative.
        """
        return dataclasses.asdict(self.bins(negative_iou))


@dataclasses.dataclass
class ROISampler(IoUBalancing, maskrcnn.ROISampler):
    """Model Garden's RoI sampler and the choices of IoU-balanced sampling.

    Attributes:
      type: `iou_balanced`, or `random` for Model Garden's own sampler.
    """

    type: str = "iou_balanced"


@dataclasses.dataclass
class RPNSampler(IoUBalancing):
    """Sampling of the anchors that the RPN learns to score; see
    `libra_tf.dataloaders.rpn_sampling`.

    How many anchors, and which share of them may be positive, are Model Garden's
    `train_data.parser.rpn_batch_size_per_im` and `rpn_fg_fraction`; the bins of
    `bin_range: candidates` end at `train_data.parser.rpn_unmatched_threshold`.

    Attributes:
      type: `random`, or `iou_balanced` ("Libra RPN" in the paper).
      max_negatives_per_positive: most negatives that are sampled for every positive of an image,
        which counts as having one where it has none. 5 in the published configs, whose `type` is
        `random`; 0 for no limit, which with `random` is Model Garden's own sampler.
    """

    type: str = "random"
    max_negatives_per_positive: int = 0


@dataclasses.dataclass
class Analysis(hyperparams.Config):
    """Histograms of samples and box errors in TensorBoard; see `libra_tf.tasks.histograms`.

    Attributes:
      enabled: whether a training writes them.
      interval: every how many steps one image of each replica is counted.
    """

    enabled: bool = False
    interval: int = 100
