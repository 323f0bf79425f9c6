"""Configs of the Libra components (balanced pyramid, sampling and loss) and of class balance.

Each component can be switched off, and Model Garden's own part is then used unchanged:

* the pyramid with `decoder.type` `fpn`;
* RoI sampling with `roi_sampler.type` `random`;
* RPN sampling with `rpn_sampler.type` `random` and `rpn_sampler.max_negatives_per_positive` 0;
* the loss with `losses.box_loss` `huber`. RetinaNet's two box losses have different scales: Model
  Garden's own has a `losses.box_loss_weight` of 50, the balanced one a weight of 4.

What balances classes is switched on by `roi_sampler.class_balanced`, `losses.class_weighting` and
`train_data.repeat_threshold`.
"""

import dataclasses

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
    """Model Garden's decoders, and `libra_fpn`."""

    type: str | None = "libra_fpn"
    libra_fpn: LibraFPN = dataclasses.field(default_factory=LibraFPN)


@dataclasses.dataclass
class BalancedL1(hyperparams.Config):
    """Balanced L1 loss (paper section 3.3); see `libra_tf.losses.BalancedL1Loss`."""

    alpha: float = 0.5
    gamma: float = 1.5
    beta: float = 1.0
    form: str = "paper"


EFFECTIVE_NUMBER, INVERSE_FREQUENCY = "effective_number", "inverse_frequency"
# The values of `ClassWeights.class_weighting`.
CLASS_WEIGHTINGS = ("none", EFFECTIVE_NUMBER, INVERSE_FREQUENCY)


@dataclasses.dataclass
class ClassWeights(hyperparams.Config):
    """Weights of the classes in the class loss; see `libra_tf.modeling.class_weights`.

    Attributes:
      class_weights: one weight for the background and one for each class, by class id. None: all
        are 1, or what `class_weighting` makes of the training images.
      class_weighting: `none`, or what fills `class_weights` if they are None when a run begins:
        `effective_number` or `inverse_frequency`.
      effective_number_beta: the constant of `effective_number`, at least 0 and below 1. 0 is the
        same weight for all classes; towards 1, `inverse_frequency` is approached.
    """

    class_weights: list[float] | None = None
    class_weighting: str = "none"
    effective_number_beta: float = 0.999


@dataclasses.dataclass
class RepeatedImages(hyperparams.Config):
    """Images with rare classes, repeated; see `libra_tf.dataloaders.repeat_factors`.

    Attributes:
      repeat_threshold: images are repeated if they show a class that less than this share of the
        images shows, at least 0 and at most 1. 0 repeats nothing.
      class_frequencies: by class id, the share of the training images that show the class. None:
        they are counted when a run begins.
    """

    repeat_threshold: float = 0.0
    class_frequencies: list[float] | None = None


@dataclasses.dataclass
class IoUBalancing(hyperparams.Config):
    """Options of IoU-balanced sampling (paper section 3.1).

    Attributes:
      num_bins: number of IoU bins from which the negatives are drawn evenly (K in the paper).
      floor_threshold: negatives below this IoU form the floor set; -1 for no floor set.
      floor_fraction: share of the negatives to draw from the floor set.
      bin_range: `candidates` for the paper's bins, which cover the range of the negatives, or
        `all` for MMDetection's, which reach up to the largest IoU of all boxes.
      instance_balanced: whether to draw positives evenly over the objects if there are too many.
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


@dataclasses.dataclass
class ROISampler(IoUBalancing, maskrcnn.ROISampler):
    """Model Garden's RoI sampler with the options of IoU-balanced sampling.

    Attributes:
      type: `iou_balanced`, or `random` for Model Garden's own sampler.
      class_balanced: whether to draw positives evenly over the classes first, and then over the
        objects of each class; `instance_balanced` has no effect then. Not part of Libra R-CNN.
    """

    type: str = "iou_balanced"
    class_balanced: bool = False


@dataclasses.dataclass
class RPNSampler(IoUBalancing):
    """Sampling of anchors for the RPN's scores; see `libra_tf.dataloaders.rpn_sampling`.

    Model Garden's `train_data.parser.rpn_batch_size_per_im` and `rpn_fg_fraction` set how many
    anchors are sampled, and the largest share of positives. With `bin_range: candidates`, the bins
    end at `train_data.parser.rpn_unmatched_threshold`.

    Attributes:
      type: `random`, or `iou_balanced` ("Libra RPN" in the paper).
      max_negatives_per_positive: maximum number of negatives per positive in an image; an image
        without positives counts as having one. 0 for no limit, which with `random` means Model
        Garden's own sampler. The published configs have 5, and `random`.
    """

    type: str = "random"
    max_negatives_per_positive: int = 0


@dataclasses.dataclass
class Analysis(hyperparams.Config):
    """Histograms of samples and box errors for TensorBoard; see `libra_tf.tasks.histograms`.

    Attributes:
      enabled: whether training writes them.
      interval: number of steps after which one image of each replica is counted.
    """

    enabled: bool = False
    interval: int = 100
