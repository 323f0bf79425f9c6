"""From a run to the detector that the measures look at."""

from official.core import config_definitions as cfg

from libra_tf.analysis.detector import Detector
from libra_tf.analysis.one_stage import OneStage
from libra_tf.analysis.two_stage import TwoStage
from libra_tf.cli.errors import UsageError
from libra_tf.configs import fastrcnn, maskrcnn, retinanet
from libra_tf.runs.trained_run import TrainedRun

# By the config of a task. A new task needs an entry here.
DETECTORS: dict[type[cfg.TaskConfig], type[Detector]] = {
    retinanet.LibraRetinaNetTask: OneStage,
    maskrcnn.LibraMaskRCNNTask: TwoStage,
}
_NOT_COVERED = {fastrcnn.LibraFastRCNNTask: "Fast R-CNN with given proposals"}


def load(run: TrainedRun) -> Detector:
    """Loads the detector of a run.

    Args:
      run: the run.

    Raises:
      UsageError: if it is of a kind that the measures do not cover, or its weights cannot be read.
    """
    config = run.params.task
    detector_class = DETECTORS.get(type(config))
    if detector_class is None:
        other = _NOT_COVERED.get(type(config), type(config).__name__)
        raise UsageError(
            f"{run.folder} holds a {other}, which the analysis does not cover; it reads "
            "RetinaNet, Faster R-CNN, Mask R-CNN and Cascade R-CNN"
        )
    return detector_class(run)
