"""Two runs with random weights, and the report on both."""

import json

import pytest

from libra_tf.analysis import report
from tests.analysis.runs import PLAIN, RPN, Report, make_run


@pytest.fixture(scope="session")
def report_of_both(tmp_path_factory, tiny_shapes):
    root = tmp_path_factory.mktemp("analysis")
    model_dirs = [
        make_run(root / "retinanet", "libra_retinanet_demo", tiny_shapes),
        make_run(root / "plain", "libra_fasterrcnn_demo", tiny_shapes, RPN, PLAIN),
    ]
    page, numbers = report.write(model_dirs, str(root / "report"), num_batches=2, report=str)
    with open(numbers) as file:
        return Report(page, json.load(file)["runs"], model_dirs)
