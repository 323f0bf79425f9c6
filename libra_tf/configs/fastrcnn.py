"""Libra Fast R-CNN, whose proposals come from files: config and experiment."""

import dataclasses

from official.core import config_definitions as cfg
from official.core import exp_factory
from official.vision.configs import maskrcnn as model_garden

from libra_tf.configs import components, maskrcnn


@dataclasses.dataclass
class DataConfig(model_garden.DataConfig):
    """Model Garden's input config with the proposals of the images.

    Attributes:
      proposals: folder with a file `<source_id>.npy` for each image: float32 `[N, 4]`,
        `[ymin, xmin, ymax, xmax]` in pixels of the original image, best first.
      num_proposals: how many of them are used.
    """

    proposals: str = ""
    num_proposals: int = 2000


@dataclasses.dataclass
class LibraFastRCNNTask(maskrcnn.LibraMaskRCNNTask):
    """The task of Libra Faster R-CNN with given proposals.

    There is no RPN: the keys of `model.rpn_head`, `model.rpn_sampler`, `model.anchor` and
    `model.roi_generator`, and the `rpn_` keys of the losses and of the parsers, have no effect.
    """

    train_data: DataConfig = dataclasses.field(default_factory=lambda: DataConfig(is_training=True))
    validation_data: DataConfig = dataclasses.field(default_factory=DataConfig)

    def validate(self):
        """Raises a ValueError that names the key if a choice is unknown or not possible here."""
        super().validate()
        components.check_choice("task.model.compatibility", self.model.compatibility, (None,))
        if self.model.include_mask:
            raise ValueError(
                "task.model.include_mask is true, but Fast R-CNN has no masks; set it to false"
            )
        for name in ("train_data", "validation_data"):
            data = getattr(self, name)
            components.check_choice(
                f"task.{name}.decoder.type", data.decoder.type, ("simple_decoder",)
            )
            if data.num_proposals < 1:
                raise ValueError(
                    f"task.{name}.num_proposals is {data.num_proposals}; it must be positive"
                )

    def check_samplers(self):
        """See base class."""
        components.check_roi_sampler(
            self.model.roi_sampler,
            self.train_data.num_proposals,
            self.train_data.parser.max_num_instances,
            "task.train_data.num_proposals",
        )


@exp_factory.register_config_factory("libra_fastrcnn_resnetfpn_coco")
def libra_fastrcnn_resnetfpn_coco() -> cfg.ExperimentConfig:
    """Libra Fast R-CNN R-50-FPN on COCO: the recipe of Libra Faster R-CNN, 2000 given proposals.

    Published box AP on val2017: 38.5 (original repository, with the proposals of an RPN
    R-50-FPN). `task.train_data.proposals` and `task.validation_data.proposals` must be set.
    """
    config = maskrcnn.libra_fasterrcnn_resnetfpn_coco()
    config.task = LibraFastRCNNTask(config.task.as_dict())
    return config
