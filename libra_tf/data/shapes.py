"""The built-in data set: flat shapes on noisy backgrounds, drawn on demand as a COCO folder.

It is for trying things out within minutes: small, deterministic, and hard enough to need a
detector (objects from 12 px to half the image, crowding, overlap, distractors, empty images).
`Dials` make it harder. It has the layout of a user's own data and takes the same path through the
code.
"""

import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from libra_tf import atomic
from libra_tf.data import annotations, segmentations
from libra_tf.data.dials import AT_ZERO, Dials
from libra_tf.data.folders import new_folder
from libra_tf.data.problems import DatasetError
from libra_tf.data.shape_images import CLASS_NAMES, Shape, draw_image

# Small enough for a ResNet-18 to learn the shapes within minutes on two CPU cores.
DEMO_SHAPES = {"num_train": 1024, "num_val": 128, "image_size": 128}
# Part of the folder's name and of the parameters stored with the data: raise it when the same seed
# gives other images.
_DRAWING_VERSION = 3
_MIN_IMAGE_SIZE = 64
_JPEG_QUALITY = 92
_STREAMS = {"train": 0, "val": 1}


def folder_name(
    num_train: int, num_val: int, image_size: int, dials: Dials = AT_ZERO, with_masks: bool = False
) -> str:
    """Returns a name for the folder that differs between shapes data sets drawn differently.

    Args:
      num_train: number of training images.
      num_val: number of validation images.
      image_size: height and width in pixels.
      dials: what makes the images harder.
      with_masks: whether the annotations have masks.
    """
    name = f"shapes-{num_train}-{num_val}-{image_size}px-v{_DRAWING_VERSION}"
    turned = [f"{dial}-{value}" for dial, value in dials.turned().items()]
    return "-".join([name, *turned, *["masks"] * with_masks])


def make_shapes(
    folder: str | os.PathLike[str],
    num_train: int = 512,
    num_val: int = 64,
    image_size: int = 192,
    seed: int = 0,
    report: Callable[[str], None] = print,
    dials: Dials = AT_ZERO,
    with_masks: bool = False,
) -> str:
    """Draws the shapes data set, unless the folder already contains it.

    The same arguments give the same bytes. Train and val come from different random streams, and
    image number k of a split does not depend on how many images there are.

    Args:
      folder: the COCO-format folder to make; its parents are made too.
      num_train: number of training images.
      num_val: number of validation images.
      image_size: height and width in pixels, at least 64.
      seed: at least 0.
      report: receives each line about the progress.
      dials: what makes the images harder. Objects stay where they are, unless their sizes or
        classes change.
      with_masks: whether to give every annotation the mask of what is visible of the object. The
        images and boxes are the same.

    Returns:
      The folder.

    Raises:
      ValueError: if an argument is out of range.
      DatasetError: if the folder contains something else, or cannot be written.
    """
    _check_arguments(num_train, num_val, image_size, seed)
    folder = pathlib.Path(folder).absolute()
    parameters = {
        "num_train": num_train,
        "num_val": num_val,
        "image_size": image_size,
        "seed": seed,
        "drawing_version": _DRAWING_VERSION,
        **dials.turned(),
        # Absent rather than false, so that the file without masks is the same as ever.
        **({"with_masks": True} if with_masks else {}),
    }
    if atomic.is_occupied(folder):
        _require_same(folder, parameters)
        report(f"the shapes data set is already in {folder}")
        return str(folder)
    report(f"drawing {num_train} + {num_val} images of shapes, {image_size}x{image_size} pixels")
    _write(folder, parameters, dials)
    report(f"the shapes data set is in {folder}")
    return str(folder)


def _check_arguments(num_train: int, num_val: int, image_size: int, seed: int) -> None:
    for name, value, least in (
        ("num_train", num_train, 1),
        ("num_val", num_val, 1),
        ("image_size", image_size, _MIN_IMAGE_SIZE),
        ("seed", seed, 0),
    ):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")


def _require_same(folder: pathlib.Path, parameters: dict[str, float]) -> None:
    try:
        coco = json.loads(_annotation_path(folder, "train").read_bytes())
        found = coco["info"]["shapes"]
    except (OSError, ValueError, KeyError, TypeError):
        found = "something else"
    if found != parameters:
        raise DatasetError(
            f"{folder} contains {found}, not the shapes data set with {parameters}: choose another "
            "folder, or remove this one"
        )


def _annotation_path(folder: pathlib.Path, split: str) -> pathlib.Path:
    return folder / "annotations" / annotations.split_file_name(split)


def _write(folder: pathlib.Path, parameters: dict[str, float], dials: Dials) -> None:
    try:
        with new_folder(folder, "the shapes data set") as unfinished:
            (unfinished / "annotations").mkdir()
            for split in _STREAMS:
                coco = {
                    "info": {"description": "shapes of libra_tf", "shapes": parameters},
                    **_draw_split(
                        unfinished / "images" / split, split, parameters, dials.of_split(split)
                    ),
                }
                _annotation_path(unfinished, split).write_text(json.dumps(coco))
    except DatasetError:
        # Another process may have drawn the same bytes in the meantime.
        if not atomic.is_occupied(folder):
            raise
    _require_same(folder, parameters)


def _draw_split(
    folder: pathlib.Path, split: str, parameters: dict[str, float], dials: Dials
) -> dict[str, Any]:
    """Draws the images of a split into a folder; returns their annotations as COCO JSON."""
    folder.mkdir(parents=True)
    size = parameters["image_size"]
    images: list[annotations.ImageEntry] = []
    objects: list[dict[str, Any]] = []
    for image_id in range(1, parameters[f"num_{split}"] + 1):
        seed = [parameters["seed"], _STREAMS[split], image_id]
        image, pile = draw_image(seed, size, dials)
        path = folder / f"{image_id:05d}.jpg"
        image.save(path, quality=_JPEG_QUALITY)
        file_name = f"{split}/{path.name}"
        images.append({"id": image_id, "file_name": file_name, "width": size, "height": size})
        entries = [_annotation(shape, size) for shape in pile.objects]
        if "with_masks" in parameters:
            for entry, mask in zip(entries, pile.masks, strict=True):
                entry.update(segmentation=segmentations.compress(mask), area=int(mask.sum()))
        objects.extend({"image_id": image_id, **entry, "iscrowd": 0} for entry in entries)
    return {
        "images": images,
        "annotations": [{"id": index, **entry} for index, entry in enumerate(objects, start=1)],
        "categories": [{"id": key, "name": name} for key, name in CLASS_NAMES.items()],
    }


def _annotation(shape: Shape, image_size: int) -> annotations.Annotation:
    x1, y1 = np.clip(shape.vertices.min(axis=0), 0, image_size)
    x2, y2 = np.clip(shape.vertices.max(axis=0), 0, image_size)
    box = [round(float(value), 2) for value in (x1, y1, x2 - x1, y2 - y1)]
    return {"category_id": shape.category_id, "bbox": box, "area": round(box[2] * box[3], 2)}
