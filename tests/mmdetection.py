"""A folder of images of all kinds, and small experiments that train on it as MMDetection does."""

import json

import numpy as np
from official.core import exp_factory
from PIL import Image

import libra_tf.registry_imports  # noqa: F401, registers the experiments
from libra_tf.data import prepare_coco_folder
from libra_tf.runner.config import use_dataset

# Height and width of every image, all different; the last two are not trained on.
LANDSCAPE, PORTRAIT = [(50, 80), (40, 97), (64, 64)], [(90, 60), (81, 70)]
TINY, EMPTY = (25, 90), (70, 95)
INPUT_SIZE = [64, 96, 3]
SHAPES = {(64, 96), (96, 64)}


def boxes_of(size):
    """The objects of an image, `[x, y, width, height]`, and which of them are crowds."""
    height, width = size
    boxes = [
        [4, 5, width // 2, height // 2],
        [width // 3, height // 3, width // 2, height // 2],
        [2, 2, 20, 20],
        [10, 10, 0.8, 12],  # Thinner than a pixel.
        [0, 0, width, height],
    ]
    return boxes, [False, False, False, False, True]


def prepare(root):
    """Writes the folder and converts it; returns the data set."""
    sizes = [*LANDSCAPE, *PORTRAIT, TINY, EMPTY]
    (root / "folder" / "images").mkdir(parents=True)
    (root / "folder" / "annotations").mkdir()
    images, annotations = [], []
    for index, size in enumerate(sizes, start=1):
        pixels = np.random.default_rng(index).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "folder" / "images" / f"{index}.png")
        image = {"id": index, "file_name": f"{index}.png", "height": size[0], "width": size[1]}
        images.append(image)
        for box, is_crowd in zip(*boxes_of(size), strict=True):
            if size != EMPTY:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": index,
                        "category_id": 1 + len(annotations) % 3,
                        "bbox": box,
                        "area": box[2] * box[3],
                        "iscrowd": int(is_crowd),
                    }
                )
    categories = [{"id": index, "name": f"class {index}"} for index in (1, 2, 3)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    for split in ("train", "val"):
        path = root / "folder" / "annotations" / f"instances_{split}.json"
        path.write_text(json.dumps(content))
    return prepare_coco_folder(str(root / "folder"), root / "cache", report=str)


def configure(kind, dataset, batch_size=2, dtype="float32"):
    """Returns a small experiment, `retinanet` or `fasterrcnn`, with MMDetection's parts."""
    params = exp_factory.get_exp_config(f"libra_{kind}_resnetfpn_coco")
    use_dataset(params, dataset)
    task = params.task
    task.init_checkpoint = None
    task.losses.l2_weight_decay = 0.0
    model = task.model
    model.compatibility = "mmdetection"
    model.input_size = INPUT_SIZE
    model.backbone.resnet.model_id = 18
    model.backbone.resnet.depth_multiplier = 0.25
    model.decoder.libra_fpn.num_filters = 16
    model.norm_activation.use_sync_bn = False
    parser = task.train_data.parser
    parser.aug_rand_hflip, parser.aug_scale_min, parser.aug_scale_max = True, 1.0, 1.0
    parser.max_num_instances = 20
    if kind == "fasterrcnn":
        model.anchor.anchor_size = 4.0
        model.roi_generator.pre_nms_top_k = 40
        model.roi_generator.num_proposals = 30
        model.roi_sampler.num_sampled_rois = 16
        model.detection_head.fc_dims = 32
        # TensorFlow's own suppression has no XLA kernel.
        model.roi_generator.use_batched_nms = False
    task.train_data.global_batch_size, task.train_data.shuffle_buffer_size = batch_size, 4
    task.train_data.dtype = dtype
    task.validation_data.global_batch_size = 1
    return params
