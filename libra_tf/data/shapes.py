"""The built-in data set: flat shapes on noisy backgrounds, drawn on demand as a COCO folder.

It is for trying things out within minutes: small, deterministic, and hard enough to need a
detector (objects from 12 px to half the image, crowding, overlap, distractors, empty images).
It has the layout of a user's own data and takes the same path through the code.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from libra_tf import atomic
from libra_tf.data import annotations
from libra_tf.data.folders import new_folder
from libra_tf.data.problems import DatasetError

CLASS_NAMES = {1: "circle", 2: "square", 3: "triangle", 4: "star"}

# Part of the folder's name and of the parameters stored with the data: raise it when the same seed
# gives other images.
_DRAWING_VERSION = 3
_SUPERSAMPLING = 4
_MIN_IMAGE_SIZE = 64
_MIN_SHAPE_SIZE = 12.0
_MIN_VISIBLE = 0.7
_MIN_CONTRAST = 120.0
_PLACEMENT_TRIES = 20
_JPEG_QUALITY = 92
_STREAMS = {"train": 0, "val": 1}


@dataclasses.dataclass(frozen=True)
class _Shape:
    """A shape at its place in the image.

    Attributes:
      category_id: key of `CLASS_NAMES`.
      vertices: float `[V, 2]`, x and y in pixels.
      alpha: float `[size, size]` in [0, 1], how much of each pixel it covers.
      area: pixels covered, including those outside the image.
    """

    category_id: int
    vertices: np.ndarray
    alpha: np.ndarray
    area: float

    def window(self) -> tuple[slice, slice]:
        """Returns slices of rows and columns that contain all of `alpha` above 0."""
        low = np.maximum(np.floor(self.vertices.min(axis=0)), 0).astype(int)
        high = np.ceil(self.vertices.max(axis=0)).astype(int)
        return slice(low[1], high[1]), slice(low[0], high[0])


def folder_name(num_train: int, num_val: int, image_size: int) -> str:
    """Returns a name for the folder that differs between shapes data sets drawn differently.

    Args:
      num_train: number of training images.
      num_val: number of validation images.
      image_size: height and width in pixels.
    """
    return f"shapes-{num_train}-{num_val}-{image_size}px-v{_DRAWING_VERSION}"


def make_shapes(
    folder: str | os.PathLike[str],
    num_train: int = 512,
    num_val: int = 64,
    image_size: int = 192,
    seed: int = 0,
    report: Callable[[str], None] = print,
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
    }
    if atomic.is_occupied(folder):
        _require_same(folder, parameters)
        report(f"the shapes data set is already in {folder}")
        return str(folder)
    report(f"drawing {num_train} + {num_val} images of shapes, {image_size}x{image_size} pixels")
    _write(folder, parameters)
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


def _require_same(folder: pathlib.Path, parameters: dict[str, int]) -> None:
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


def _write(folder: pathlib.Path, parameters: dict[str, int]) -> None:
    try:
        with new_folder(folder, "the shapes data set") as unfinished:
            (unfinished / "annotations").mkdir()
            for split in _STREAMS:
                coco = {
                    "info": {"description": "shapes of libra_tf", "shapes": parameters},
                    **_draw_split(unfinished / "images" / split, split, parameters),
                }
                _annotation_path(unfinished, split).write_text(json.dumps(coco))
    except DatasetError:
        # Another process may have drawn the same bytes in the meantime.
        if not atomic.is_occupied(folder):
            raise
    _require_same(folder, parameters)


def _draw_split(folder: pathlib.Path, split: str, parameters: dict[str, int]) -> dict[str, Any]:
    """Draws the images of a split into a folder; returns their annotations as COCO JSON."""
    folder.mkdir(parents=True)
    size = parameters["image_size"]
    images: list[annotations.ImageEntry] = []
    objects: list[dict[str, Any]] = []
    for image_id in range(1, parameters[f"num_{split}"] + 1):
        rng = np.random.default_rng([parameters["seed"], _STREAMS[split], image_id])
        image, shapes = _draw_image(rng, size)
        path = folder / f"{image_id:05d}.jpg"
        image.save(path, quality=_JPEG_QUALITY)
        file_name = f"{split}/{path.name}"
        images.append({"id": image_id, "file_name": file_name, "width": size, "height": size})
        objects.extend(
            {"image_id": image_id, **_annotation(shape, size), "iscrowd": 0} for shape in shapes
        )
    return {
        "images": images,
        "annotations": [{"id": index, **entry} for index, entry in enumerate(objects, start=1)],
        "categories": [{"id": key, "name": name} for key, name in CLASS_NAMES.items()],
    }


def _annotation(shape: _Shape, image_size: int) -> annotations.Annotation:
    x1, y1 = np.clip(shape.vertices.min(axis=0), 0, image_size)
    x2, y2 = np.clip(shape.vertices.max(axis=0), 0, image_size)
    box = [round(float(value), 2) for value in (x1, y1, x2 - x1, y2 - y1)]
    return {"category_id": shape.category_id, "bbox": box, "area": round(box[2] * box[3], 2)}


def _draw_image(rng: np.random.Generator, size: int) -> tuple[Image.Image, list[_Shape]]:
    """Draws one image; returns it with its shapes, from back to front."""
    pixels = _background(rng, size)
    shapes = _place_shapes(rng, size)
    shading = _smooth_noise(rng, size, cells=6)[..., None]
    for shape in shapes:
        window = shape.window()
        alpha, beneath = shape.alpha[window][..., None], pixels[window]
        colour = _contrasting_colour(rng, (beneath * alpha).sum(axis=(0, 1)) / alpha.sum())
        surface = colour + shading[window] * rng.uniform(0, 25)
        pixels[window] = beneath + (surface - beneath) * alpha
    pixels += rng.uniform(1, 8) * rng.standard_normal(pixels.shape, np.float32)
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8)), shapes


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draws a float `[size, size, 3]` background with texture, lines and blobs."""
    colour = rng.uniform(20, 110, 3)
    texture = _smooth_noise(rng, size, cells=int(rng.integers(2, 9)))[..., None]
    pixels = colour + texture * rng.uniform(-25, 25, 3)
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(0, 4)):
        ends = [float(value) for value in rng.uniform(0, size, 4)]
        draw.line(ends, fill=_random_colour(rng), width=int(rng.integers(1, 4)))
    for _ in range(rng.integers(0, 3)):
        _draw_blob(rng, image)
    return np.array(image, np.float64)


def _draw_blob(rng: np.random.Generator, image: Image.Image) -> None:
    """Draws a soft spot, as large as a shape but without an outline."""
    size = image.width
    radius = rng.uniform(0.05, 0.2) * size
    x, y = rng.uniform(0, size, 2)
    mask = Image.new("L", image.size)
    ImageDraw.Draw(mask).ellipse([x - radius, y - radius, x + radius, y + radius], fill=150)
    mask = mask.filter(ImageFilter.GaussianBlur(radius / 2))
    image.paste(_random_colour(rng), (0, 0, size, size), mask)


def _place_shapes(rng: np.random.Generator, size: int) -> list[_Shape]:
    """Chooses shapes, from back to front, so that none is hidden too much."""
    wanted = 0 if rng.random() < 0.04 else int(rng.integers(1, 8))
    shapes: list[_Shape] = []
    visible: list[np.ndarray] = []
    for _ in range(wanted):
        for _ in range(_PLACEMENT_TRIES):
            shape = _random_shape(rng, size, near=shapes)
            covered = [alpha * (1 - shape.alpha) for alpha in visible] + [shape.alpha]
            placed = [*shapes, shape]
            if all(
                alpha.sum() >= _MIN_VISIBLE * other.area
                for alpha, other in zip(covered, placed, strict=True)
            ):
                shapes, visible = placed, covered
                break
    return shapes


def _random_shape(rng: np.random.Generator, size: int, near: list[_Shape]) -> _Shape:
    category_id = int(rng.integers(1, len(CLASS_NAMES) + 1))
    extent = rng.uniform(_MIN_SHAPE_SIZE, size / 2)
    outline = _outline(CLASS_NAMES[category_id]) @ _rotation(np.deg2rad(rng.uniform(-15, 15)))
    outline = outline * extent / np.ptp(outline, axis=0).max()
    centre = rng.uniform(0, size, 2)
    if near and rng.random() < 0.3:
        # Crowding: next to a shape that is already there.
        neighbour = near[rng.integers(len(near))].vertices.mean(axis=0)
        centre = neighbour + rng.uniform(-1, 1, 2) * extent
    vertices = outline + centre
    alpha, area = _rasterize(vertices, size)
    return _Shape(category_id, vertices, alpha, area)


def _outline(name: str) -> np.ndarray:
    """Returns the `[V, 2]` outline of a shape around the origin, not yet scaled."""
    if name == "circle":
        return _regular_polygon(64, np.ones(1))
    if name == "square":
        return _regular_polygon(4, np.ones(1)) @ _rotation(np.pi / 4)
    if name == "triangle":
        return _regular_polygon(3, np.ones(1))
    # A pentagram's inner radius is 0.38; a fuller star is still recognizable at 12 pixels.
    return _regular_polygon(10, np.array([1.0, 0.45]))


def _regular_polygon(num_vertices: int, radii: np.ndarray) -> np.ndarray:
    """Returns `[num_vertices, 2]` points at equal angles, the first on top, cycling the radii."""
    angles = np.arange(num_vertices) * 2 * np.pi / num_vertices - np.pi / 2
    radius = np.resize(radii, num_vertices)
    return np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=-1)


def _rotation(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _rasterize(vertices: np.ndarray, size: int) -> tuple[np.ndarray, float]:
    """Returns the antialiased `[size, size]` coverage in [0, 1], and the whole shape's area."""
    # The shape is drawn in a patch of its own, so that parts outside the image count as well.
    low = np.floor(vertices.min(axis=0)).astype(int)
    extent = np.ceil(vertices.max(axis=0)).astype(int) - low
    patch = Image.new("L", tuple(int(side) * _SUPERSAMPLING for side in extent))
    # Pillow's coordinates refer to pixel centres.
    points = (vertices - low) * _SUPERSAMPLING - 0.5
    ImageDraw.Draw(patch).polygon([tuple(point) for point in points.tolist()], fill=255)
    coverage = patch.reduce(_SUPERSAMPLING)
    canvas = Image.new("L", (size, size))
    canvas.paste(coverage, tuple(low.tolist()))
    return np.asarray(canvas) / 255.0, float(np.asarray(coverage).sum() / 255.0)


def _smooth_noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Returns `[size, size]` smooth noise, roughly in [-1, 1], with `cells` bumps per side."""
    coarse = Image.fromarray(rng.uniform(-1, 1, (cells + 1, cells + 1)).astype(np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), np.float64)


def _random_colour(rng: np.random.Generator) -> tuple[int, ...]:
    return tuple(int(value) for value in rng.integers(0, 256, 3))


def _contrasting_colour(rng: np.random.Generator, background: np.ndarray) -> np.ndarray:
    while True:
        colour = np.array(_random_colour(rng), np.float64)
        if np.linalg.norm(colour - background) >= _MIN_CONTRAST:
            return colour
