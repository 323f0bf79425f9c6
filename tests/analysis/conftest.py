"""Two runs with random weights, and the report on both."""

import dataclasses
import json

import pytest
import tensorflow as tf
from official.core import exp_factory, task_factory

from libra_tf.analysis import report
from libra_tf.runs.folder import RunFolder

SMALL = {
    "model": {
        "input_size": [64, 64, 3],
        "backbone": {"resnet": {"depth_multiplier": 0.25}},
        "decoder": {"libra_fpn": {"num_filters": 16}, "fpn": {"num_filters": 16}},
    },
    "train_data": {"global_batch_size": 4},
}
RPN = {"train_data": {"parser": {"rpn_batch_size_per_im": 64}}}


def make_run(folder, experiment, dataset, *overrides):
    """Writes the folder of a run whose weights are random, and whose attention does something."""
    params = exp_factory.get_exp_config(experiment)
    for override in (SMALL, *overrides):
        params.task.override(override)
    for data, split in (
        (params.task.train_data, dataset.train),
        (params.task.validation_data, dataset.val),
    ):
        data.input_path = split.input_path
    RunFolder(str(folder)).write_config(experiment, params, dataset.class_names)
    model = task_factory.get_task(params.task).build_model()
    for i, variable in enumerate(model.trainable_variables):
        # Zero at first, where it would hide what is in front of it.
        if "out_kernel" in variable.name:
            variable.assign(tf.random.stateless_normal(variable.shape, [0, i], stddev=0.5))
    tf.train.CheckpointManager(tf.train.Checkpoint(model=model), str(folder), 1).save()
    return str(folder)


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


@pytest.fixture(scope="session")
def report_of_both(tmp_path_factory, tiny_shapes):
    root = tmp_path_factory.mktemp("analysis")
    plain = {
        "model": {"decoder": {"type": "fpn"}, "roi_sampler": {"type": "random"}},
        "losses": {"box_loss": "huber"},
    }
    model_dirs = [
        make_run(root / "retinanet", "libra_retinanet_demo", tiny_shapes),
        make_run(root / "plain", "libra_fasterrcnn_demo", tiny_shapes, RPN, plain),
    ]
    page, numbers = report.write(model_dirs, str(root / "report"), num_batches=2, report=str)
    with open(numbers) as file:
        return Report(page, json.load(file)["runs"], model_dirs)
