"""Libra RetinaNet: config and experiments."""

import dataclasses

from official.core import config_definitions as cfg
from official.core import exp_factory
from official.vision.configs import retinanet

from libra_tf.configs import backbones, components, recipes


@dataclasses.dataclass
class LibraRetinaNet(retinanet.RetinaNet):
    """RetinaNet whose decoder may be the balanced feature pyramid.

    Attributes:
      compatibility: None, or `mmdetection` to compute what MMDetection's detector does with the
        same weights; see docs/mmdet.md. `input_size` is then [800, 1333, 3] for images that are
        resized to a shorter side of 800 pixels, but at most 1333 pixels of the longer one.
    """

    backbone: backbones.Backbone = dataclasses.field(default_factory=backbones.Backbone)
    decoder: components.Decoder = dataclasses.field(default_factory=components.Decoder)
    compatibility: str | None = None


@dataclasses.dataclass
class Losses(retinanet.Losses):
    """RetinaNet's losses with a choice of the box loss.

    Either box loss is the mean over the four coordinates, summed over the positive anchors and
    divided by their number plus one (over the batch), times `box_loss_weight`. MMDetection sums
    over the coordinates, so its weight of 1 is 4 here.

    Attributes:
      box_loss: `balanced_l1`, or `huber` for Model Garden's own; that needs another
        `box_loss_weight`: Model Garden's is 50, for a knee (`huber_loss_delta`) at 0.1.
      balanced_l1: its constants.
    """

    box_loss: str = "balanced_l1"
    balanced_l1: components.BalancedL1 = dataclasses.field(default_factory=components.BalancedL1)


@dataclasses.dataclass
class LibraRetinaNetTask(retinanet.RetinaNetTask):
    """Model Garden's RetinaNet task with the Libra components.

    Attributes:
      frozen_stages: how many stages of a ResNet or ResNeXt stay as they are, with the stem: 0 for
        the stem alone, 1 in the published recipe, None for none.
      analysis: what a training writes to TensorBoard about its balance.
    """

    model: LibraRetinaNet = dataclasses.field(default_factory=LibraRetinaNet)
    losses: Losses = dataclasses.field(default_factory=Losses)
    frozen_stages: int | None = None
    analysis: components.Analysis = dataclasses.field(default_factory=components.Analysis)

    def validate(self):
        """Raises a ValueError that names the key if a choice is unknown."""
        components.check_task(self)
        super().validate()
        key, parser = "task.train_data.parser", self.train_data.parser
        components.check_thresholds(
            {
                f"{key}.unmatched_threshold": parser.unmatched_threshold,
                f"{key}.match_threshold": parser.match_threshold,
            }
        )


@exp_factory.register_config_factory("libra_retinanet_resnetfpn_coco")
def libra_retinanet_resnetfpn_coco() -> cfg.ExperimentConfig:
    """Libra RetinaNet R-50-FPN on COCO, the published schedule: 12 epochs, 16 images a step.

    Published box AP on val2017: 37.7 (original), 37.6 (MMDetection). Model Garden's input is one
    static square, so 1024x1024 stands in for the published 1333x800.
    """
    config = exp_factory.get_exp_config("retinanet_resnetfpn_coco")
    task = config.task
    config.task = LibraRetinaNetTask(
        init_checkpoint=task.init_checkpoint,
        init_checkpoint_modules="backbone",
        annotation_file=task.annotation_file,
        per_category_metrics=True,
        model=LibraRetinaNet(
            num_classes=91,
            input_size=[1024, 1024, 3],
            norm_activation=task.model.norm_activation,
        ),
        losses=Losses(
            focal_loss_gamma=2.0,
            box_loss_weight=4,
            balanced_l1=components.BalancedL1(beta=0.11),
            l2_weight_decay=1e-4,
        ),
        train_data=task.train_data,
        validation_data=task.validation_data,
    )
    parser = config.task.train_data.parser
    parser.aug_scale_min = parser.aug_scale_max = 1.0
    # MMDetection's; anchors from here to `match_threshold` are ignored.
    parser.unmatched_threshold = 0.4
    config.task.validation_data.drop_remainder = False
    recipes.use_published_schedule(config, learning_rate=0.01)
    return config


@exp_factory.register_config_factory("libra_retinanet_demo")
def libra_retinanet_demo() -> cfg.ExperimentConfig:
    """Libra RetinaNet that learns the built-in shapes within minutes on two CPU cores."""
    config = _small_retinanet()
    config.task.model.num_classes = 5
    recipes.use_small_scale(config, input_size=128, max_level=4)
    recipes.use_small_schedule(config, train_steps=450, learning_rate=0.003)
    return config


@exp_factory.register_config_factory("libra_retinanet_small")
def libra_retinanet_small() -> cfg.ExperimentConfig:
    """Libra RetinaNet for a folder of one's own: minutes on two CPU cores."""
    config = _small_retinanet()
    recipes.use_small_scale(config, input_size=320, max_level=5)
    recipes.use_small_schedule(config, train_steps=600, learning_rate=0.003)
    return config


def _small_retinanet() -> cfg.ExperimentConfig:
    return cfg.ExperimentConfig(
        task=LibraRetinaNetTask(
            model=LibraRetinaNet(
                anchor=retinanet.Anchor(num_scales=2),
                head=retinanet.RetinaNetHead(num_convs=1, num_filters=64),
            ),
            losses=Losses(box_loss_weight=4),
        ),
    )
