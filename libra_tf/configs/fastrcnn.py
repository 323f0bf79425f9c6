"""Configs of Libra Fast R-CNN, which reads its proposals from files."""

import dataclasses
from typing import ClassVar

from official.vision.configs import maskrcnn as model_garden

from libra_tf.configs import checks, components, maskrcnn


@dataclasses.dataclass
class DataConfig(model_garden.DataConfig):
    """Model Garden's input config, and where to find proposals.

    Attributes:
      proposals: folder with a file `<source_id>.npy` for each image: float32 `[N, 4]`,
        `[ymin, xmin, ymax, xmax]` in pixels of the original image, best first.
      num_proposals: number of proposals to use per image.
    """

    proposals: str = ""
    num_proposals: int = 2000


@dataclasses.dataclass
class TrainData(components.RepeatedImages, DataConfig):
    """The config of the training data, with repeated images."""

    is_training: bool = True


@dataclasses.dataclass
class LibraFastRCNNTask(maskrcnn.LibraMaskRCNNTask):
    """The task of Libra Faster R-CNN with given proposals.

    There is no RPN, so the keys under `model.rpn_head`, `model.rpn_sampler`, `model.anchor` and
    `model.roi_generator`, and the `rpn_` keys of the losses and parsers, have no effect.
    """

    train_data: TrainData = dataclasses.field(default_factory=TrainData)
    validation_data: DataConfig = dataclasses.field(default_factory=DataConfig)

    has_rpn: ClassVar[bool] = False
    takes_proposals: ClassVar[bool] = True

    def validate(self) -> None:
        """Checks the values.

        Raises:
          ValueError: if a value is invalid, or does not work without an RPN; the message names
            the key.
        """
        super().validate()
        checks.check_choice("task.model.compatibility", self.model.compatibility, (None,))
        if self.model.include_mask:
            raise ValueError(
                "task.model.include_mask is true, but Fast R-CNN predicts no masks; set it to false"
            )
        for name in ("train_data", "validation_data"):
            data = getattr(self, name)
            checks.check_choice(f"task.{name}.decoder.type", data.decoder.type, ("simple_decoder",))

    def check_samplers(self) -> None:
        """See base class."""
        checks.check_roi_sampler(
            self.model.roi_sampler,
            self.train_data.num_proposals,
            self.train_data.parser.max_num_instances,
            "task.train_data.num_proposals",
        )
