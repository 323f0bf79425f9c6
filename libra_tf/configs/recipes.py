"""Training recipes that experiments share: the published one, and a small one."""

from official.core import config_definitions as cfg

from libra_tf import precision
from libra_tf.configs import optimization

COCO_TRAIN_EXAMPLES = 118287
COCO_VAL_EXAMPLES = 5000
PUBLISHED_BATCH_SIZE = 16
PUBLISHED_EPOCHS = 12


def use_published_schedule(config: cfg.ExperimentConfig, learning_rate: float) -> None:
    """Applies the schedule of the published models (the "1x schedule") to a COCO experiment.

    SGD with momentum 0.9, 16 images per step, 12 epochs. The learning rate warms up linearly over
    500 steps, starting at a third, and drops tenfold after epochs 8 and 11. Gradients are clipped
    to a global norm of 35. In the backbone, all batch norms are frozen, and so are the stem and the
    first stage. The precision is what the device computes natively.

    The schedule scales linearly with the batch size: for k times as many images per step, multiply
    the learning rates by k and divide the steps by k.

    Args:
      config: the experiment, changed in place.
      learning_rate: 0.02 for the two-stage models, 0.01 for RetinaNet.
    """
    eval_batch_size = 8
    steps_per_epoch = COCO_TRAIN_EXAMPLES // PUBLISHED_BATCH_SIZE
    config.task.train_data.global_batch_size = PUBLISHED_BATCH_SIZE
    config.task.validation_data.global_batch_size = eval_batch_size
    config.task.model.backbone.get().bn_trainable = False
    config.task.frozen_stages = 1
    config.runtime.mixed_precision_dtype = precision.AUTO
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


def use_small_scale(config: cfg.ExperimentConfig, input_size: int, max_level: int) -> None:
    """Makes a detector small enough to train on a CPU.

    It uses ResNet-18 with half the channels, the precision that the device computes natively, and 8
    images per step. The pyramid starts at level 2, because objects are small in a small input.

    Args:
      config: the experiment, changed in place.
      input_size: height and width of the input, in pixels.
      max_level: coarsest pyramid level; its smallest square anchor has sides of 4 * 2**max_level
        pixels.
    """
    config.runtime.mixed_precision_dtype = precision.AUTO
    model = config.task.model
    model.input_size = [input_size, input_size, 3]
    model.min_level = 2
    model.max_level = max_level
    model.anchor.anchor_size = 4.0
    model.backbone.resnet.model_id = 18
    model.backbone.resnet.depth_multiplier = 0.5
    # The same for both, so that `decoder.type` switches the balanced pyramid and nothing else.
    model.decoder.libra_fpn.num_filters = model.decoder.fpn.num_filters = 64
    # With Model Garden's momentum of 0.997, statistics do not settle within a few hundred steps.
    model.norm_activation.norm_momentum = 0.9
    model.norm_activation.norm_epsilon = 1e-3
    model.norm_activation.use_sync_bn = False
    # On a CPU, Model Garden's own suppression takes ten times as long as TensorFlow's.
    model.detection_generator.nms_version = "batched"
    model.detection_generator.pre_nms_top_k = 500
    config.task.losses.l2_weight_decay = 1e-4
    config.task.per_category_metrics = True
    config.task.train_data.parser.aug_rand_hflip = True
    config.task.validation_data.drop_remainder = False
    for data, batch_size in ((config.task.train_data, 8), (config.task.validation_data, 16)):
        data.dtype = "float32"
        data.shuffle_buffer_size = 256
        data.global_batch_size = batch_size


def use_lite0(config: cfg.ExperimentConfig) -> None:
    """Gives a small detector an EfficientNet-Lite0 that starts from its ImageNet weights.

    What the backbone computes up to a stride of 4 stays as it is, which saves time.

    Args:
      config: the experiment, changed in place.
    """
    task = config.task
    task.init_checkpoint = "imagenet"
    task.init_checkpoint_modules = "backbone"
    task.frozen_stages = 1
    task.model.backbone.type = "efficientnet"
    task.model.backbone.efficientnet.model_id = "b0"
    task.model.backbone.efficientnet.se_ratio = 0.0
    task.model.norm_activation.activation = "relu6"


def use_small_schedule(
    config: cfg.ExperimentConfig, train_steps: int, learning_rate: float
) -> None:
    """Applies Adam with a short warm-up and cosine decay to zero, and an evaluation halfway.

    Args:
      config: the experiment, changed in place.
      train_steps: number of steps.
      learning_rate: learning rate at the end of the warm-up.
    """
    config.trainer = cfg.TrainerConfig(
        train_steps=train_steps,
        validation_steps=-1,
        validation_interval=train_steps // 2,
        steps_per_loop=10,
        summary_interval=10,
        checkpoint_interval=train_steps // 2,
        best_checkpoint_export_subdir="best",
        best_checkpoint_eval_metric="AP",
        optimizer_config=optimization.OptimizationConfig(
            {
                "optimizer": {"type": "adam", "adam": {"global_clipnorm": 1.0}},
                "learning_rate": {
                    "type": "cosine",
                    "cosine": {
                        "initial_learning_rate": learning_rate,
                        "decay_steps": train_steps,
                    },
                },
                "warmup": {
                    "type": "linear",
                    "linear": {"warmup_steps": 100, "warmup_learning_rate": learning_rate / 100},
                },
            }
        ),
    )
