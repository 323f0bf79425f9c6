"""Configs of runs, built as a session builds them, without data on the disk."""

from libra_tf.data import DetectionDataset, Split
from libra_tf.runner import config


def dataset(num_train=100, num_val=21, max_boxes=7):
    """Two classes, of ids 1 and 7."""
    return DetectionDataset(
        folder="cells",
        class_names={1: "a", 7: "b"},
        num_classes=8,
        train=Split("t/train*", "t.json", num_train, 300, max_boxes),
        val=Split("t/val*", "v.json", num_val, 60, 150),
        issues=(),
    )


def build(experiment, flag_values, folder):
    """The config of a run, as a session builds it."""
    if folder is not None:
        flag_values.dataset = folder.folder
    return config.settle(config.build(experiment, flag_values), folder)
