"""MMDetection's average precision by PASCAL VOC's rules.

`make.py` runs it. A file `voc_SCENE` has these arrays, with a row for each object or detection:

* `object_images`, `object_classes` and `detection_images`, `detection_classes`: numbers from 0;
* `object_boxes` and `detection_boxes`: `[x, y, width, height]`;
* `is_difficult` and `scores`;

and as MMDetection's numbers `areas` and `of_11_points`, AP of each class. `num_images` and
`num_classes` are what they say.
"""

import pathlib
from collections.abc import Mapping

import numpy as np
from mmdet.evaluation.functional import eval_map

from seeds import generator

Arrays = dict[str, np.ndarray]

# By scene: images, classes, objects in an image, and the part of them that is difficult.
SCENES = {"few": (4, 2, 3, 0.0), "difficult": (30, 3, 5, 0.4), "crowded": (12, 2, 25, 0.1)}
NAMES = tuple(f"voc_{scene}" for scene in SCENES)
SIZE = 200


def draw(name: str, _: pathlib.Path) -> Arrays:
    """Draws objects and detections."""
    rng = generator(name)
    num_images, num_classes, per_image, difficult = SCENES[name.removeprefix("voc_")]
    count = num_images * per_image
    images = rng.integers(num_images, size=count)
    classes = rng.integers(num_classes, size=count)
    boxes = np.concatenate([rng.uniform(0, 120, (count, 2)), rng.uniform(8, 60, (count, 2))], 1)
    # Of each object none, one or two detections, and as many elsewhere.
    found = np.repeat(np.arange(count), rng.integers(0, 3, count))
    moved = boxes[found] + rng.normal(0, 4, (len(found), 4))
    moved[:, 2:] = np.maximum(moved[:, 2:], 2)
    elsewhere = np.concatenate([rng.uniform(0, 120, (count, 2)), rng.uniform(8, 60, (count, 2))], 1)
    inputs = {
        "num_images": np.array(num_images),
        "num_classes": np.array(num_classes),
        "object_images": images,
        "object_classes": classes,
        "object_boxes": boxes,
        "is_difficult": rng.random(count) < difficult,
        "detection_images": np.append(images[found], rng.integers(num_images, size=count)),
        "detection_classes": np.append(classes[found], rng.integers(num_classes, size=count)),
        "detection_boxes": np.concatenate([moved, elsewhere]),
        "scores": rng.permutation(len(found) + count) / (len(found) + count),
    }
    return inputs


def compute(_: str, inputs: Mapping[str, np.ndarray], __: pathlib.Path) -> Arrays:
    """Returns AP of each class, as the area below the curve and at 11 recalls."""
    return {
        "areas": _evaluate(inputs, "area"),
        "of_11_points": _evaluate(inputs, "11points"),
    }


def _evaluate(inputs: Mapping[str, np.ndarray], mode: str) -> np.ndarray:
    found = np.concatenate(
        [_corners(inputs["detection_boxes"]), inputs["scores"][:, None]], axis=1
    ).astype(np.float32)
    detections, annotations = [], []
    for image in range(inputs["num_images"]):
        in_image = inputs["detection_images"] == image
        of_class = [inputs["detection_classes"] == c for c in range(inputs["num_classes"])]
        detections.append([found[in_image & of] for of in of_class])
        annotation = {}
        for suffix, is_wanted in (("", False), ("_ignore", True)):
            chosen = (inputs["object_images"] == image) & (inputs["is_difficult"] == is_wanted)
            annotation[f"bboxes{suffix}"] = _corners(inputs["object_boxes"][chosen])
            annotation[f"labels{suffix}"] = inputs["object_classes"][chosen]
        annotations.append(annotation)
    _, by_class = eval_map(
        detections, annotations, iou_thr=0.5, eval_mode=mode, logger="silent", nproc=1
    )
    return np.array([float(entry["ap"]) for entry in by_class])


def _corners(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1).astype(np.float32)
