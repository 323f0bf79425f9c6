"""Training recipes shared by the experiments: the published one and a small one."""

from official.core import config_definitions as cfg
from official.modeling import optimization

COCO_TRAIN_EXAMPLES = 118287
COCO_VAL_EXAMPLES = 5000
PUBLISHED_BATCH_SIZE = 16
PUBLISHED_EPOCHS = 12


def use_published_schedule(config: cfg.ExperimentConfig, learning_rate: float) -> None:
    """Sets the schedule of the published models (the "1x schedule") on a COCO experiment.

    SGD with momentum 0.9 and 16 images a step for 12 epochs; linear warm-up over 500 steps from a
    third of the learning rate, which drops tenfold after epochs 8 and 11; gradients clipped to a
    global norm of 35; the backbone's batch-norm statistics and scales frozen.

    Args:
      config: the experiment, changed in place.
      learning_rate: 0.02 for the two-stage models, 0.01 for RetinaNet.
    """
    eval_batch_size = 8
    steps_per_epoch = COCO_TRAIN_EXAMPLES // PUBLISHED_BATCH_SIZE
    config.task.train_data.global_batch_size = PUBLISHED_BATCH_SIZE
    config.task.validation_data.global_batch_size = eval_batch_size
    config.task.model.backbone.resnet.bn_trainable = False
    config.trainer = cfg.TrainerConfig(
        train_steps=PUBLISHED_EPOCHS * steps_per_epoch,
        validation_steps=-(-COCO_VAL_EXAMPLES // eval_batch_size),
        validation_interval=steps_per_epoch,
        steps_per_loop=100,
        summary_interval=100,
        checkpoint_interval=steps_per_epoch,
        best_checkpoint_export_subdir="best",
        best_checkpoint_eval_metric="AP",
        optimizer_config=optimization.OptimizationConfig(
            {
                "optimizer": {
                    "type": "sgd",
                    "sgd": {"momentum": 0.9, "global_clipnorm": 35.0},
                },
                "learning_rate": {
                    "type": "stepwise",
                    "stepwise": {
                        "boundaries": [8 * steps_per_epoch, 11 * steps_per_epoch],
                        "values": [learning_rate, learning_rate / 10, learning_rate / 100],
                    },
                },
                "warmup": {
                    "type": "linear",
                    "linear": {"warmup_steps": 500, "warmup_learning_rate": learning_rate / 3},
                },
            }
        ),
    )


def use_small_scale(config: cfg.ExperimentConfig, min_level: int, max_level: int) -> None:
    """Sets what makes a detector train in minutes on a CPU: ResNet-18 and float32 throughout.

    Args:
      config: the experiment, changed in place.
      min_level: finest pyramid level.
      max_level: coarsest pyramid level.
    """
    config.runtime.mixed_precision_dtype = "float32"
    model = config.task.model
    model.input_size = [192, 192, 3]
    model.num_classes = 5
    model.min_level = min_level
    model.max_level = max_level
    model.backbone.resnet.model_id = 18
    # Statistics that follow 0.997 of the past are not ready within a few hundred steps.
    model.norm_activation.norm_momentum = 0.9
    model.norm_activation.norm_epsilon = 1e-3
    model.norm_activation.use_sync_bn = False
    for data in (config.task.train_data, config.task.validation_data):
        data.dtype = "float32"
        data.shuffle_buffer_size = 256
        data.global_batch_size = 8


def use_small_schedule(config: cfg.ExperimentConfig, learning_rate: float) -> None:
    """Sets a schedule of a few hundred steps: short warm-up, then cosine decay to zero."""
    train_steps = 300
    config.trainer = cfg.TrainerConfig(
        train_steps=train_steps,
        validation_steps=-1,
        validation_interval=train_steps,
        steps_per_loop=10,
        summary_interval=10,
        checkpoint_interval=train_steps,
        optimizer_config=optimization.OptimizationConfig(
            {
                "optimizer": {
                    "type": "sgd",
                    "sgd": {"momentum": 0.9, "global_clipnorm": 10.0},
                },
                "learning_rate": {
                    "type": "cosine",
                    "cosine": {
                        "initial_learning_rate": learning_rate,
                        "decay_steps": train_steps,
                    },
                },
                "warmup": {
                    "type": "linear",
                    "linear": {"warmup_steps": 30, "warmup_learning_rate": learning_rate / 20},
                },
            }
        ),
    )
