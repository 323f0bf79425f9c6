"""Draws the images of the built-in data set: flat shapes on noisy backgrounds."""

import dataclasses

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

CLASS_NAMES = {1: "circle", 2: "square", 3: "triangle", 4: "star"}

_SUPERSAMPLING = 4
_MIN_SHAPE_SIZE = 12.0
_MIN_VISIBLE = 0.7
_MIN_CONTRAST = 120.0
_PLACEMENT_TRIES = 20


@dataclasses.dataclass(frozen=True)
class Shape:
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


def draw_image(rng: np.random.Generator, size: int) -> tuple[Image.Image, list[Shape]]:
    """Draws one image.

    Args:
      rng: decides everything that is random.
      size: height and width in pixels.

    Returns:
      The image, and its shapes from back to front.
    """
    pixels = _background(rng, size)
    shapes = place_shapes(rng, size)
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


def place_shapes(rng: np.random.Generator, size: int) -> list[Shape]:
    """Chooses shapes so that none is hidden too much.

    Args:
      rng: decides everything that is random.
      size: height and width of the image in pixels.

    Returns:
      The shapes from back to front.
    """
    wanted = 0 if rng.random() < 0.04 else int(rng.integers(1, 8))
    shapes: list[Shape] = []
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


def _random_shape(rng: np.random.Generator, size: int, near: list[Shape]) -> Shape:
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
    return Shape(category_id, vertices, alpha, area)


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
