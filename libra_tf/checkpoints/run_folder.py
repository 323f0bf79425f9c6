"""Writes an imported detector as the folder of a run, or a backbone as a checkpoint."""

import pathlib

import tensorflow as tf
import yaml
from official.vision.configs import common

from libra_tf import atomic
from libra_tf.checkpoints import experiment, structure, torch_file, weights
from libra_tf.checkpoints.importing import Imported
from libra_tf.configs import maskrcnn
from libra_tf.modeling.mmdetection.backbones import build_backbone
from libra_tf.runs.folder import RunFolder

CONFIG_FILE = "mmdet.yaml"


def write(model_dir: str, imported: Imported) -> str:
    """Writes config, checkpoint and class names, all or nothing.

    Beside them, `mmdet.yaml` has what the detector changes in its experiment, to go on from with
    `--config_file` and other data.

    Args:
      model_dir: a folder that `libra_tf.cli.outputs.require_new_folder` accepts.
      imported: the detector.

    Returns:
      What was written and how to go on, for people.
    """
    name = experiment.EXPERIMENTS[imported.detector.kind]
    target = pathlib.Path(model_dir).absolute()
    with atomic.unfinished_folder(target.parent) as folder:
        run = RunFolder(str(folder))
        run.write_config(name, imported.params, imported.class_names)
        text = yaml.safe_dump(imported.overrides, sort_keys=False)
        (folder / CONFIG_FILE).write_text(text)
        checkpoint = tf.train.Checkpoint(model=imported.model, **imported.model.checkpoint_items)
        tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=None).save(0)
        atomic.publish_folder(folder, target)
    return (
        f"model folder: {model_dir}\n"
        f"evaluate:     run.py --mode=eval --experiment={name} --model_dir={model_dir} "
        f"--config_file={model_dir}/{CONFIG_FILE} --dataset=FOLDER\n"
        f"export:       export/saved_model.py --model_dir={model_dir} --export_dir=DIR"
    )


def write_backbone(model_dir: str, file: torch_file.TorchFile) -> str:
    """Writes a checkpoint of a backbone alone, all or nothing.

    Args:
      model_dir: a folder that `libra_tf.cli.outputs.require_new_folder` accepts.
      file: its weights, named as in torchvision.

    Returns:
      What was written and how to go on, for people.

    Raises:
      UsageError: if it is neither a ResNet nor a ResNeXt.
    """
    backbone = structure.infer_backbone(file.path, file.weights)
    config = maskrcnn.LibraMaskRCNN(
        backbone=experiment.backbone_config(backbone),
        norm_activation=common.NormActivation(norm_epsilon=1e-5, use_sync_bn=False),
    )
    model = build_backbone(config)
    weights.load_backbone(file.path, file.weights, model)
    target = pathlib.Path(model_dir).absolute()
    with atomic.unfinished_folder(target.parent) as folder:
        checkpoint = tf.train.Checkpoint(backbone=model)
        tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=None).save(0)
        atomic.publish_folder(folder, target)
    return (
        f"{backbone} in {model_dir}; train with task.init_checkpoint={model_dir},"
        "task.init_checkpoint_modules=backbone,task.model.compatibility=mmdetection"
    )
