"""Runs with random weights, and a report on them."""

import dataclasses

import tensorflow as tf
from official.modeling.hyperparams import params_dict

from tests.detectors import write_run

SMALL = {
    "model": {
        "input_size": [64, 64, 3],
        "backbone": {"resnet": {"model_id": 10, "depth_multiplier": 0.25}},
        "decoder": {"libra_fpn": {"num_filters": 16}, "fpn": {"num_filters": 16}},
    },
    "train_data": {"global_batch_size": 4},
}
RPN = {"train_data": {"parser": {"rpn_batch_size_per_im": 64}}}
PLAIN = {
    "model": {"decoder": {"type": "fpn"}, "roi_sampler": {"type": "random"}},
    "losses": {"box_loss": "huber"},
}


@dataclasses.dataclass(frozen=True)
class Report:
    """A report on a RetinaNet and on a plain Faster R-CNN.

    Attributes:
      page: path of the page.
      runs: the runs in the JSON file: RetinaNet's, Faster R-CNN's.
      model_dirs: their folders.
    """

    page: str
    runs: list
    model_dirs: list


def make_run(folder, experiment, dataset, *overrides):
    """Writes a run whose attention does something; returns its folder."""

    def randomize(number, variable):
        # Zero at first, where it would hide what is in front of it.
        if "out_kernel" in variable.name:
            variable.assign(tf.random.stateless_normal(variable.shape, [0, number], stddev=0.5))

    write_run(str(folder), experiment, dataset, (SMALL, *overrides), randomize)
    return str(folder)


def check_lines(params, lines):
    """Checks that a config has the keys of the lines, and takes their values."""
    for line in lines:
        node = params
        for key in line.split("=")[0].split("."):
            assert key in node, line
            node = getattr(node, key)
        params_dict.override_params_dict(params, line, is_strict=True)
