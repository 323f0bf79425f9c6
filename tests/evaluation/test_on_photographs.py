"""Every number of an evaluation is the other libraries' on annotations of photographs, too.

There, classes are unequally frequent, objects are crowded, and some are difficult. The detections
are drawn from the objects.
"""

import os
import pathlib

import numpy as np
import pytest

from libra_tf.evaluation import matching, outcomes, subject
from libra_tf.inference import ground_truth
from tests.evaluation import (
    test_average_precision,
    test_calibration,
    test_coco_errors,
    test_curves,
    test_tide,
)

pytestmark = [pytest.mark.one_lane, pytest.mark.slow]

# Folders in any layout that training takes, or a clone of BCCD's repository.
VARIABLES = ("LIBRA_TF_BCCD", "LIBRA_TF_VOC07")


@pytest.fixture(scope="module", params=VARIABLES)
def evaluated(request):
    """The validation images, with detections of most objects and of others."""
    folder = os.environ.get(request.param)
    if not folder:
        pytest.skip(f"needs real photographs: set {request.param} to the folder of the data set")
    inner = pathlib.Path(folder, "BCCD")
    truth = ground_truth.read(str(inner if inner.is_dir() else folder), model="", report=str).file
    return subject.make(truth, detect(truth, np.random.default_rng(0)))


def detect(truth, rng):
    """Detections near the objects, some of them twice and some of a wrong class; and false ones."""
    sizes = {image["id"]: np.array([image["width"], image["height"]]) for image in truth.images}
    classes = list(truth.class_names)
    found = []
    for entry in truth.annotations:
        for _ in range(rng.choice([0, 1, 1, 1, 1, 2])):
            noise = rng.choice([0.03, 0.1, 0.3])
            box = entry["bbox"] + rng.normal(0, noise, 4) * np.tile(entry["bbox"][2:], 2)
            category = rng.choice(classes) if rng.random() < 0.15 else entry["category_id"]
            found.append((entry["image_id"], category, box, rng.beta(4, 2)))
    for image_id, size in sizes.items():
        for _ in range(rng.poisson(2)):
            box = np.concatenate([rng.uniform(0, 0.8, 2), rng.uniform(0.05, 0.5, 2)])
            found.append((image_id, rng.choice(classes), box * np.tile(size, 2), rng.beta(2, 4)))
    return [
        {
            "image_id": image_id,
            "category_id": int(category),
            "bbox": [*box[:2].tolist(), *np.maximum(box[2:], 1).tolist()],
            "score": float(score),
        }
        for image_id, category, box, score in found
    ]


@pytest.mark.parametrize(
    "check",
    [
        test_average_precision.check,
        test_coco_errors.check,
        test_curves.check_precision,
        test_curves.check_all_scores,
        test_tide.check,
    ],
    ids=["average precision", "COCO's errors", "precision and recall", "scores", "TIDE"],
)
def test_the_numbers_are_those_of_the_other_libraries(evaluated, check):
    check(evaluated, subject.BOXES)


def test_calibration_is_that_of_scikit_learn(evaluated):
    matches = matching.match(evaluated, subject.BOXES)
    counting = matching.counting(matches.classes, outcomes.IOU_THRESHOLD)
    test_calibration.check(*counting, num_bins=10)
