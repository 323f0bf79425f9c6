"""What the numbers of an evaluation cost, on random detections.

    python benchmarks/evaluation.py --repeats=3
    python benchmarks/evaluation.py --repeats=1 --num_classes=1
    python benchmarks/evaluation.py --repeats=1 --masks --num_images=1000
    python benchmarks/evaluation.py --repeats=1 --pycocotools

Each repeat is a fresh process. For each part it prints the median seconds by the clock, the median
seconds of computing, which depend less on what else the machine does, and the greatest resident
memory of the process meanwhile.
"""

import contextlib
import functools
import io
import json
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import app, flags
from pycocotools import cocoeval, mask

import memory
from libra_tf.data.annotations import AnnotationFile
from libra_tf.evaluation import (
    average_precision,
    coco_errors,
    curves,
    matching,
    subject,
    tide,
)

_REPEATS = flags.DEFINE_integer("repeats", 3, "How often to measure.", lower_bound=1)
_NUM_IMAGES = flags.DEFINE_integer("num_images", 5000, "Images.", lower_bound=1)
_NUM_CLASSES = flags.DEFINE_integer("num_classes", 80, "Classes.", lower_bound=1)
_OBJECTS = flags.DEFINE_float("objects", 7.2, "Objects in an image, on average.")
_DETECTIONS = flags.DEFINE_integer("detections", 100, "Detections in an image.", lower_bound=1)
_MASKS = flags.DEFINE_bool("masks", False, "Whether to compare masks, of ellipses, and not boxes.")
_PYCOCOTOOLS = flags.DEFINE_bool(
    "pycocotools", False, "Whether to measure COCOeval alone as well, which needs much memory."
)
_ONCE = flags.DEFINE_bool("once", False, "For internal use: measure in this process.")
_WIDTH, _HEIGHT = 640, 480
_CLASSES_IN_A_SUPERCATEGORY = 7
# What part of the detections is near an object, and what part of those has its class.
_NEAR, _OF_ITS_CLASS = 0.3, 0.8


def main(_: list[str]) -> None:
    """Measures and prints."""
    if _ONCE.value:
        print(json.dumps(_measure()))
        return
    command = [sys.executable, *sys.argv, "--once"]
    runs = [
        json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        for _ in range(_REPEATS.value)
    ]
    print(f"{'':18} {'s':>7} {'CPU s':>7} {'peak MB':>8}")
    for part in runs[0]:
        clock, computing, peak = zip(*(run[part] for run in runs), strict=True)
        print(
            f"{part:18} {statistics.median(clock):7.1f} {statistics.median(computing):7.1f} "
            f"{max(peak):8.0f}"
        )


def _measure() -> dict[str, tuple[float, float, float]]:
    """Returns for each part seconds by the clock, seconds of computing, and megabytes."""
    kind = subject.MASKS if _MASKS.value else subject.BOXES
    measured = {}

    def time_part(name: str, part: Callable[[], Any]) -> Any:
        memory.reset_peak()
        start = time.perf_counter(), time.process_time()
        result = part()
        seconds = time.perf_counter() - start[0], time.process_time() - start[1]
        measured[name] = (*seconds, memory.peak_megabytes())
        return result

    evaluated = time_part("subject", functools.partial(subject.make, *time_part("random", _random)))
    matches = time_part("matching", lambda: matching.match(evaluated, kind))
    for module in (average_precision, curves, coco_errors, tide):
        name = module.__name__.rpartition(".")[2]
        time_part(name, lambda module=module: module.measure(matches))
    numbers = [values for name, values in measured.items() if name != "random"]
    clock, computing, peak = zip(*numbers, strict=True)
    measured["all numbers"] = sum(clock), sum(computing), max(peak)
    if _PYCOCOTOOLS.value:
        del matches
        time_part("pycocotools alone", lambda: _pycocotools(evaluated, kind))
    return measured


def _random() -> tuple[AnnotationFile, list[dict[str, Any]]]:
    """Makes objects anywhere, and detections anywhere or near an object."""
    random = np.random.default_rng(0)
    images = [
        {"id": id_, "file_name": f"{id_}.jpg", "width": _WIDTH, "height": _HEIGHT}
        for id_ in range(1, _NUM_IMAGES.value + 1)
    ]
    objects, found = [], []
    for image in images:
        boxes, classes = _anywhere(random, random.poisson(_OBJECTS.value))
        objects += _entries(image["id"], boxes, classes)
        seen, seen_classes = _anywhere(random, _DETECTIONS.value)
        if len(boxes):
            near = np.flatnonzero(random.random(len(seen)) < _NEAR)
            of = random.integers(len(boxes), size=len(near))
            sides = np.tile(boxes[of, 2:], 2)
            seen[near] = boxes[of] + random.normal(0, 0.1, [len(near), 4]) * sides
            seen[:, 2:] = np.maximum(seen[:, 2:], 2)
            same = random.random(len(near)) < _OF_ITS_CLASS
            seen_classes[near[same]] = classes[of[same]]
        scores = random.random(len(seen)).tolist()
        found += [
            {**entry, "score": score}
            for entry, score in zip(_entries(image["id"], seen, seen_classes), scores, strict=True)
        ]
    objects = [{**entry, "id": number} for number, entry in enumerate(objects, start=1)]
    names = {id_: str(id_) for id_ in range(1, _NUM_CLASSES.value + 1)}
    supercategories = {id_: str(id_ // _CLASSES_IN_A_SUPERCATEGORY) for id_ in names}
    path = pathlib.Path("random.json")
    truth = AnnotationFile(path, "", images, objects, names, supercategories=supercategories)
    return truth, found


def _anywhere(random: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns `[count, 4]` boxes as x, y, width and height, and `[count]` category ids."""
    sides = np.exp(random.uniform(np.log(10), np.log(350), [count, 2]))
    corners = random.random([count, 2]) * ([_WIDTH, _HEIGHT] - sides)
    classes = random.integers(1, _NUM_CLASSES.value + 1, size=count)
    return np.concatenate([corners, sides], axis=1), classes


def _entries(image_id: int, boxes: np.ndarray, classes: np.ndarray) -> list[dict[str, Any]]:
    entries = [
        {"image_id": image_id, "category_id": class_, "bbox": box}
        for class_, box in zip(classes.tolist(), boxes.tolist(), strict=True)
    ]
    if _MASKS.value:
        for entry in entries:
            entry["segmentation"] = _ellipse(*entry["bbox"])
    return entries


def _ellipse(x: float, y: float, width: float, height: float) -> dict[str, Any]:
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    xs = x + width * (1 + np.cos(angles)) / 2
    ys = y + height * (1 + np.sin(angles)) / 2
    return mask.frPyObjects([np.stack([xs, ys], axis=-1).ravel().tolist()], _HEIGHT, _WIDTH)[0]


def _pycocotools(evaluated: subject.Subject, kind: str) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = cocoeval.COCOeval(evaluated.truth, evaluated.detections, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()


if __name__ == "__main__":
    app.run(main)
