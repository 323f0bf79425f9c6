"""Made-up ground truth and detections."""

import pathlib

import numpy as np
from pycocotools import mask

from libra_tf.data.annotations import AnnotationFile
from libra_tf.evaluation import matching, outcomes, subject

SIDE = 100


def make(objects, detections, num_classes=2, num_images=1):
    """A subject of images of 100x100 pixels.

    Args:
      objects: `(image id, category id, [x, y, width, height])` each, and optionally whether it is a
        crowd; ids count from 1.
      detections: `(image id, category id, [x, y, width, height], score)` each.
      num_classes: the categories are 1 to this number, called `class 1` and so on.
      num_images: the images are 1 to this number.
    """
    return subject.make(annotation_file(objects, num_classes, num_images), results(detections))


def find_outcomes(made, kind, score_threshold):
    """What becomes of the objects and detections of a subject."""
    return outcomes.find(made, matching.match(made, kind), score_threshold)


def annotation_file(objects, num_classes=2, num_images=1):
    images = [
        {"id": id_, "file_name": f"{id_}.jpg", "width": SIDE, "height": SIDE}
        for id_ in range(1, num_images + 1)
    ]
    annotations = [
        {"id": id_, "image_id": image, "category_id": category, "bbox": box, "iscrowd": sum(crowd)}
        for id_, (image, category, box, *crowd) in enumerate(objects, start=1)
    ]
    names = {id_: f"class {id_}" for id_ in range(1, num_classes + 1)}
    return AnnotationFile(pathlib.Path("val.json"), "", images, annotations, names)


def results(detections):
    return [
        {"image_id": image, "category_id": category, "bbox": box, "score": score}
        for image, category, box, score in detections
    ]


def random(seed, num_classes=3, num_images=4, with_crowds=False):
    """Objects, and detections near them or anywhere; see `make`."""
    rng = np.random.default_rng(seed)
    objects, detections = [], []
    for image in range(1, num_images + 1):
        for _ in range(rng.integers(0, 6)):
            box = _random_box(rng)
            is_crowd = with_crowds and rng.random() < 0.2
            objects.append((image, _random_class(rng, num_classes), box, is_crowd))
            for _ in range(rng.integers(0, 3)):
                near = np.clip(box + rng.normal(0, 6, 4), [0, 0, 4, 4], SIDE)
                category = objects[-1][1]
                if rng.random() < 0.4:
                    category = _random_class(rng, num_classes)
                detections.append((image, category, near.tolist(), rng.random()))
        for _ in range(rng.integers(0, 3)):
            box = _random_box(rng)
            detections.append((image, _random_class(rng, num_classes), box, rng.random()))
    return objects, detections


def with_masks(file, found):
    """Gives objects and detections the ellipse in their box as a mask."""
    for entry in [*file.annotations, *found]:
        entry["segmentation"] = ellipse(entry["bbox"])
    return file, found


def ellipse(box):
    x, y, width, height = box
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    inside = ((columns - x) / width * 2 - 1) ** 2 + ((rows - y) / height * 2 - 1) ** 2 <= 1
    encoded = mask.encode(np.asfortranarray(inside.astype(np.uint8)))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def _random_box(rng):
    x, y = rng.uniform(0, 70, 2)
    return [x, y, *rng.uniform(8, 30, 2)]


def _random_class(rng, num_classes):
    return int(rng.integers(1, num_classes + 1))
