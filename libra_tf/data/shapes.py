"""The built-in data set: flat shapes on noisy backgrounds, drawn on demand as a COCO folder.

It is there to try things out within minutes: small, deterministic, and honest enough to need
detection (objects of 12 px to half the image, crowding, overlap, distractors, empty images).
It is laid out as a user's own data is, so both go the same way.
"""

import dataclasses
import json
import pathlib

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from libra_tf import atomic
from libra_tf.data.problems import DatasetError

CLASS_NAMES = {1: "circle", 2: "square", 3: "triangle", 4: "star"}

# Part of the parameters kept with the data and of the folder's name: raise it when the same seed
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
    """A shape in its place.

    Attributes:
      category_id: `int`, key of `CLASS_NAMES`.
      vertices: `[V, 2]` float, x and y in pixels.
      alpha: `[size, size]` float in [0, 1], how much of each pixel it covers.
      area: `float`, pixels covered, those outside the image included.
    """

    category_id: int
    vertices: np.ndarray
    alpha: np.ndarray
    area: float

    def window(self):
        """Returns the slices of rows and columns outside of which `alpha` is 0."""
        low = np.maximum(np.floor(self.vertices.min(axis=0)), 0).astype(int)
        high = np.ceil(self.vertices.max(axis=0)).astype(int)
        return slice(low[1], high[1]), slice(low[0], high[0])


def folder_name(num_train, num_val, image_size):
    """Names a folder for a shapes data set, so that one drawn in another way has another name.

    Args:
      num_train: `int`, as for `make_shapes`, like the others.
      num_val: `int`.
      image_size: `int`.

    Returns:
      `str`, without a path.
    """
    return f"shapes-{num_train}-{num_val}-{image_size}px-v{_DRAWING_VERSION}"


def make_shapes(folder, num_train=512, num_val=64, image_size=192, seed=0, report=print):
    """Draws the shapes data set, unless the folder already holds it.

    The same arguments give the same bytes. Train and val come from different random streams, and
    image number k of a split does not depend on how many there are.

    Args:
      folder: path of the COCO-format folder to make; its parents are made too.
      num_train: `int`, training images.
      num_val: `int`, validation images.
      image_size: `int`, height and width in pixels, at least 64.
      seed: `int`, at least 0.
      report: callable that is given lines (`str`) about the progress.

    Returns:
      `str`, the folder.

    Raises:
      ValueError: if an argument is out of range.
      DatasetError: if the folder holds something else, or cannot be written.
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
        report(f"shapes data set is in {folder} already")
        return str(folder)
    report(f"drawing {num_train} + {num_val} images of shapes, {image_size}x{image_size} pixels")
    try:
        _write(folder, parameters)
    except OSError as error:
        raise DatasetError(
            f"the shapes data set cannot be written to {folder} ({error.strerror}): "
            "choose another folder"
        ) from error
    report(f"shapes data set is in {folder}")
    return str(folder)


def _check_arguments(num_train, num_val, image_size, seed):
    for name, value, least in (
        ("num_train", num_train, 1),
        ("num_val", num_val, 1),
        ("image_size", image_size, _MIN_IMAGE_SIZE),
        ("seed", seed, 0),
    ):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")


def _require_same(folder, parameters):
    try:
        coco = json.loads((folder / "annotations" / "instances_train.json").read_bytes())
        found = coco["info"]["shapes"]
    except (OSError, ValueError, KeyError, TypeError):
        found = "something else"
    if found != parameters:
        raise DatasetError(
            f"{folder} holds {found}, not the shapes data set with {parameters}: choose another "
            "folder, or remove this one"
        )


def _write(folder, parameters):
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic.unfinished_folder(folder.parent) as target:
        (target / "annotations").mkdir()
        for split in _STREAMS:
            coco = {
                "info": {"description": "shapes of libra_tf", "shapes": parameters},
                **_draw_split(target / "images" / split, split, parameters),
            }
            (target / "annotations" / f"instances_{split}.json").write_text(json.dumps(coco))
        try:
            atomic.publish_folder(target, folder)
        except OSError:
            # Another process may have drawn the same bytes in the meantime.
            if not atomic.is_occupied(folder):
                raise
    _require_same(folder, parameters)


def _draw_split(folder, split, parameters):
    folder.mkdir(parents=True)
    size = parameters["image_size"]
    images, annotations = [], []
    for image_id in range(1, parameters[f"num_{split}"] + 1):
        rng = np.random.default_rng([parameters["seed"], _STREAMS[split], image_id])
        image, shapes = _draw_image(rng, size)
        path = folder / f"{image_id:05d}.jpg"
        image.save(path, quality=_JPEG_QUALITY)
        file_name = f"{split}/{path.name}"
        images.append({"id": image_id, "file_name": file_name, "width": size, "height": size})
        annotations.extend(
            {"image_id": image_id, **_annotation(shape, size), "iscrowd": 0} for shape in shapes
        )
    return {
        "images": images,
        "annotations": [{"id": index, **a} for index, a in enumerate(annotations, start=1)],
        "categories": [{"id": key, "name": name} for key, name in CLASS_NAMES.items()],
    }


def _annotation(shape, image_size):
    x1, y1 = np.clip(shape.vertices.min(axis=0), 0, image_size)
    x2, y2 = np.clip(shape.vertices.max(axis=0), 0, image_size)
    box = [round(float(value), 2) for value in (x1, y1, x2 - x1, y2 - y1)]
    return {"category_id": shape.category_id, "bbox": box, "area": round(box[2] * box[3], 2)}


def _draw_image(rng, size):
    """Draws one image; returns it with its shapes, the hindmost first."""
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


def _background(rng, size):
    """Draws a `[size, size, 3]` float background with texture, lines and blobs."""
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


def _draw_blob(rng, image):
    """Draws a soft spot: of a shape's size, but without an outline."""
    size = image.width
    radius = rng.uniform(0.05, 0.2) * size
    x, y = rng.uniform(0, size, 2)
    mask = Image.new("L", image.size)
    ImageDraw.Draw(mask).ellipse([x - radius, y - radius, x + radius, y + radius], fill=150)
    mask = mask.filter(ImageFilter.GaussianBlur(radius / 2))
    image.paste(_random_colour(rng), (0, 0, size, size), mask)


def _place_shapes(rng, size):
    """Chooses shapes, from back to front, none of which is hidden too much."""
    wanted = 0 if rng.random() < 0.04 else int(rng.integers(1, 8))
    shapes, visible = [], []
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


def _random_shape(rng, size, near):
    category_id = int(rng.integers(1, len(CLASS_NAMES) + 1))
    extent = rng.uniform(_MIN_SHAPE_SIZE, size / 2)
    outline = _outline(CLASS_NAMES[category_id]) @ _rotation(np.deg2rad(rng.uniform(-15, 15)))
    outline = outline * extent / np.ptp(outline, axis=0).max()
    centre = rng.uniform(0, size, 2)
    if near and rng.random() < 0.3:
        # Crowding: beside a shape that is already there.
        neighbour = near[rng.integers(len(near))].vertices.mean(axis=0)
        centre = neighbour + rng.uniform(-1, 1, 2) * extent
    vertices = outline + centre
    alpha, area = _rasterize(vertices, size)
    return _Shape(category_id, vertices, alpha, area)


def _outline(name):
    """Returns the `[V, 2]` outline of a shape around the origin, of any size."""
    if name == "circle":
        return _regular_polygon(64, np.ones(1))
    if name == "square":
        return _regular_polygon(4, np.ones(1)) @ _rotation(np.pi / 4)
    if name == "triangle":
        return _regular_polygon(3, np.ones(1))
    # The inner radius of a pentagram is 0.38; a fuller star survives at 12 pixels.
    return _regular_polygon(10, np.array([1.0, 0.45]))


def _regular_polygon(num_vertices, radii):
    """Returns `[num_vertices, 2]` points at equal angles, the first on top, radii in turn."""
    angles = np.arange(num_vertices) * 2 * np.pi / num_vertices - np.pi / 2
    radius = np.resize(radii, num_vertices)
    return np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=-1)


def _rotation(angle):
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _rasterize(vertices, size):
    """Returns the antialiased `[size, size]` coverage in [0, 1], and the whole shape's area."""
    # The shape is drawn in a patch of its own, so that parts outside the image count as well.
    low = np.floor(vertices.min(axis=0)).astype(int)
    extent = np.ceil(vertices.max(axis=0)).astype(int) - low
    patch = Image.new("L", tuple(int(side) * _SUPERSAMPLING for side in extent))
    # Pillow's coordinates mean pixel centres.
    points = (vertices - low) * _SUPERSAMPLING - 0.5
    ImageDraw.Draw(patch).polygon([tuple(point) for point in points.tolist()], fill=255)
    coverage = patch.reduce(_SUPERSAMPLING)
    canvas = Image.new("L", (size, size))
    canvas.paste(coverage, tuple(low.tolist()))
    return np.asarray(canvas) / 255.0, float(np.asarray(coverage).sum() / 255.0)


def _smooth_noise(rng, size, cells):
    """Returns `[size, size]` smooth noise, about in [-1, 1], of `cells` bumps a side."""
    coarse = Image.fromarray(rng.uniform(-1, 1, (cells + 1, cells + 1)).astype(np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), np.float64)


def _random_colour(rng):
    return tuple(int(value) for value in rng.integers(0, 256, 3))


def _contrasting_colour(rng, background):
    while True:
        colour = np.array(_random_colour(rng), np.float64)
        if np.linalg.norm(colour - background) >= _MIN_CONTRAST:
            return colour
