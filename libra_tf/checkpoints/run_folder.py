"""Writes an imported detector as the folder of a run, or an imported backbone as a checkpoint."""

import pathlib

import tensorflow as tf
import yaml
from official.vision.configs import common

from libra_tf import atomic
from libra_tf.checkpoints import experiment, structure, torch_file, weights
from libra_tf.checkpoints.importing import Imported
from libra_tf.cli import outputs, shell
from libra_tf.configs import maskrcnn
from libra_tf.modeling.mmdetection.backbones import build_backbone
from libra_tf.runs.folder import RunFolder

CONFIG_FILE = "mmdet.yaml"


def write(model_dir: str, imported: Imported) -> str:
    """Writes config, checkpoint and class names, completely or not at all.

    `mmdet.yaml` in the same folder holds the settings that the detector overrides in its
    experiment. Pass it as `--config_file` to train on other data.

    Args:
      model_dir: a folder that `libra_tf.cli.outputs.require_new_folder` accepts.
      imported: the detector.

    Returns:
      A text for display: what was written, and which commands to run next.

    Raises:
      UsageError: if it cannot be written.
    """
    name = experiment.EXPERIMENTS[imported.detector.kind]
    target = pathlib.Path(model_dir).absolute()
    with outputs.writing(model_dir), atomic.unfinished_folder(target.parent) as folder:
        run = RunFolder(str(folder))
        run.write_config(name, imported.params, imported.class_names)
        text = yaml.safe_dump(imported.overrides, sort_keys=False)
        (folder / CONFIG_FILE).write_text(text)
        checkpoint = tf.train.Checkpoint(model=imported.model, **imported.model.checkpoint_items)
        tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=None).save(0)
        atomic.publish_folder(folder, target)
    program = shell.program("libra-tf", "libra_tf")
    return (
        f"model folder: {model_dir}\n"
        f"evaluate:     {program} eval --model_dir={model_dir} --dataset=FOLDER\n"
        f"export:       {program} export --model_dir={model_dir} --export_dir=DIR"
    )


def write_backbone(model_dir: str, file: torch_file.TorchFile) -> str:
    """Writes a checkpoint of a backbone alone, completely or not at all.

    Args:
      model_dir: a folder that `libra_tf.cli.outputs.require_new_folder` accepts.
      file: the backbone's weights, named as in torchvision.

    Returns:
      A text for display: what was written, and how to train with it.

    Raises:
      UsageError: if the backbone is neither a ResNet nor a ResNeXt, or cannot be written.
    """
    backbone = structure.infer_backbone(file.path, file.weights)
    config = maskrcnn.LibraMaskRCNN(
        backbone=experiment.backbone_config(backbone),
        norm_activation=common.NormActivation(norm_epsilon=1e-5, use_sync_bn=False),
    )
    model = build_backbone(config)
    weights.load_backbone(file.path, file.weights, model)
    target = pathlib.Path(model_dir).absolute()
    with outputs.writing(model_dir), atomic.unfinished_folder(target.parent) as folder:
        checkpoint = tf.train.Checkpoint(backbone=model)
        tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=None).save(0)
        atomic.publish_folder(folder, target)
    return (
        f"{backbone} in {model_dir}; train with task.init_checkpoint={model_dir},"
        "task.init_checkpoint_modules=backbone and a recipe of configs/mmdetection"
    )
