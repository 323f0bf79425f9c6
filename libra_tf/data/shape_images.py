"""Draws the images of the built-in data set: flat shapes on noisy backgrounds."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from libra_tf.data.dials import Dials

CLASS_NAMES = {1: "circle", 2: "square", 3: "triangle", 4: "star"}

_SUPERSAMPLING = 4
_MIN_SHAPE_SIZE = 12.0
_MIN_VISIBLE = 0.7
_MIN_VISIBLE_BEHIND_BARS = 0.5
# A look-alike of which more is hidden could be an object.
_MIN_VISIBLE_OF_OTHERS = 0.95
# As shares of an object's size; the depth is how far a bar reaches into the object.
_MAX_BLUR = 0.06
_BAR_LENGTH, _BAR_WIDTH, _BAR_DEPTH = 1.4, 0.33, 0.27
# As a share of the way to the end of the range of sizes.
_MAX_PUSH = 0.8
_MIN_CONTRAST = 120.0
_PLACEMENT_TRIES = 20


@dataclasses.dataclass(frozen=True)
class Shape:
    """A shape at its place in the image.

    Attributes:
      category_id: key of `CLASS_NAMES`; None if it is not an object.
      vertices: float `[V, 2]`, x and y in pixels.
      alpha: float `[size, size]` in [0, 1], how much of each pixel it covers.
      area: pixels covered, including those outside the image.
    """

    category_id: int | None
    vertices: np.ndarray
    alpha: np.ndarray
    area: float

    @property
    def is_object(self) -> bool:
        """Whether it gets an annotation."""
        return self.category_id is not None

    def window(self, margin: int = 0) -> tuple[slice, slice]:
        """Returns slices of rows and columns that contain all of `alpha` above 0.

        Args:
          margin: how many pixels more on each side, within the image.
        """
        low = np.maximum(np.floor(self.vertices.min(axis=0)) - margin, 0).astype(int)
        high = np.ceil(self.vertices.max(axis=0)).astype(int) + margin
        return slice(low[1], high[1]), slice(low[0], high[0])

    def extent(self) -> float:
        """Returns the longer side of its box in pixels."""
        return float(np.ptp(self.vertices, axis=0).max())


class Pile:
    """Shapes on top of each other.

    Attributes:
      shapes: from back to front.
      visible: for each shape, what the ones in front leave of its `alpha`.
    """

    def __init__(self) -> None:
        self.shapes: list[Shape] = []
        self.visible: list[np.ndarray] = []

    @property
    def objects(self) -> list[Shape]:
        """The shapes of a class, from back to front."""
        return [shape for shape in self.shapes if shape.is_object]

    @property
    def masks(self) -> list[np.ndarray]:
        """Of each object, the pixels that are at least half covered and not hidden, as bool."""
        return [
            visible >= 0.5
            for shape, visible in zip(self.shapes, self.visible, strict=True)
            if shape.is_object
        ]

    def put_one(self, candidate: Callable[[], Shape], min_visible: float = _MIN_VISIBLE) -> None:
        """Puts a shape in front, unless every candidate hides too much.

        Args:
          candidate: returns another shape each time.
          min_visible: the share of its area that each object has to show within the image.
        """
        for _ in range(_PLACEMENT_TRIES):
            shape = candidate()
            visible = [alpha * (1 - shape.alpha) for alpha in self.visible] + [shape.alpha]
            shapes = [*self.shapes, shape]
            if all(
                alpha.sum()
                >= other.area * (min_visible if other.is_object else _MIN_VISIBLE_OF_OTHERS)
                for alpha, other in zip(visible, shapes, strict=True)
            ):
                self.shapes, self.visible = shapes, visible
                break


def draw_image(seed: Sequence[int], size: int, dials: Dials) -> tuple[Image.Image, Pile]:
    """Draws one image.

    Args:
      seed: at least 0 each; they decide everything that is random.
      size: height and width in pixels.
      dials: what makes the image harder.

    Returns:
      The image and what is in it.
    """
    # What the dials add has random streams of its own. So the rest of the image stays the same.
    rng, look_alike_rng, bar_rng = (
        np.random.default_rng(numbers) for numbers in (seed, [*seed, 1], [*seed, 2])
    )
    pixels = _background(rng, size)
    pile = place_shapes(rng, size, dials)
    shading = _smooth_noise(rng, size, cells=6)[..., None]
    _paint(rng, pixels, pile.shapes, shading, dials.unclear_borders)
    for added_rng, add in ((look_alike_rng, add_look_alikes), (bar_rng, add_bars)):
        num_painted = len(pile.shapes)
        add(added_rng, pile, size, dials)
        _paint(added_rng, pixels, pile.shapes[num_painted:], shading, dials.unclear_borders)
    pixels += rng.uniform(1, 8) * rng.standard_normal(pixels.shape, np.float32)
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8)), pile


def _paint(
    rng: np.random.Generator,
    pixels: np.ndarray,
    shapes: Sequence[Shape],
    shading: np.ndarray,
    softness: float,
) -> None:
    """Paints shapes over the `[size, size, 3]` pixels, which it changes."""
    for shape in shapes:
        blur = _MAX_BLUR * softness * shape.extent()
        window = shape.window(margin=int(np.ceil(3 * blur)))
        alpha, beneath = _blurred(shape.alpha, blur)[window][..., None], pixels[window]
        colour = _contrasting_colour(rng, (beneath * alpha).sum(axis=(0, 1)) / alpha.sum())
        surface = colour + shading[window] * rng.uniform(0, 25)
        pixels[window] = beneath + (surface - beneath) * alpha


def _blurred(alpha: np.ndarray, blur: float) -> np.ndarray:
    """Blurs a coverage in [0, 1] with a standard deviation in pixels."""
    image = Image.fromarray(np.rint(alpha * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(blur))) / 255.0


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


def place_shapes(rng: np.random.Generator, size: int, dials: Dials) -> Pile:
    """Chooses objects so that none is hidden too much.

    Args:
      rng: decides everything that is random.
      size: height and width of the image in pixels.
      dials: this uses `size_spread` and `class_ratio`.

    Returns:
      The objects.
    """
    wanted = 0 if rng.random() < 0.04 else int(rng.integers(1, 8))
    draw_class = None
    if dials.class_ratio > 1:
        # A stream of its own, so that `rng` draws the same without it.
        class_rng, shares = rng.spawn(1)[0], dials.class_shares(len(CLASS_NAMES))
        draw_class = functools.partial(class_rng.choice, list(CLASS_NAMES), p=shares)
    pile = Pile()
    for _ in range(wanted):
        # One for all tries: a class that hides less would otherwise become more frequent.
        wanted_class = int(draw_class()) if draw_class else None
        pile.put_one(
            lambda wanted_class=wanted_class: _random_shape(
                rng, size, pile.shapes, dials.size_spread, wanted_class
            )
        )
    return pile


def _random_shape(
    rng: np.random.Generator,
    size: int,
    near: Sequence[Shape],
    size_spread: float,
    wanted_class: int | None,
) -> Shape:
    category_id = int(rng.integers(1, len(CLASS_NAMES) + 1))
    if wanted_class is not None:
        category_id = wanted_class
    extent = spread(rng.uniform(_MIN_SHAPE_SIZE, size / 2), size, size_spread)
    outline = _turned_and_scaled(rng, _outline(CLASS_NAMES[category_id]), extent)
    centre = rng.uniform(0, size, 2)
    if near and rng.random() < 0.3:
        # Crowding: next to a shape that is already there.
        neighbour = near[rng.integers(len(near))].vertices.mean(axis=0)
        centre = neighbour + rng.uniform(-1, 1, 2) * extent
    vertices = outline + centre
    return Shape(category_id, vertices, *_rasterize(vertices, size))


def spread(extent: float, size: int, size_spread: float) -> float:
    """Moves a size from the middle of the range of sizes towards the nearer end.

    Args:
      extent: longer side of an object in pixels.
      size: height and width of the image in pixels.
      size_spread: the dial.

    Returns:
      The new size in pixels.
    """
    smallest, largest = _MIN_SHAPE_SIZE, size / 2
    end = smallest if extent < (smallest + largest) / 2 else largest
    return extent + _MAX_PUSH * size_spread * (end - extent)


def add_look_alikes(rng: np.random.Generator, pile: Pile, size: int, dials: Dials) -> None:
    """Puts look-alikes beside objects, each wholly in the image and in front.

    What is behind, or cut off by the border, could be an object.

    Args:
      rng: decides everything that is random.
      pile: what is in the image; look-alikes are added.
      size: height and width of the image in pixels.
      dials: this uses `look_alikes`.
    """
    for shape in pile.objects:
        if rng.random() < dials.look_alikes:
            pile.put_one(lambda shape=shape: _look_alike(rng, shape, size))


def _look_alike(rng: np.random.Generator, beside: Shape, size: int) -> Shape:
    # Of a similar size, so that the boxes can overlap much.
    extent = np.clip(beside.extent() * rng.uniform(0.7, 1.3), _MIN_SHAPE_SIZE, size / 2)
    name = CLASS_NAMES[int(rng.integers(1, len(CLASS_NAMES) + 1))]
    outline = _turned_and_scaled(rng, _look_alike_outline(name), extent)
    reach = (extent + beside.extent()) / 2
    centre = beside.vertices.mean(axis=0) + rng.uniform(-1, 1, 2) * reach
    inside = np.clip(centre, -outline.min(axis=0), size - outline.max(axis=0))
    vertices = outline + inside
    return Shape(None, vertices, *_rasterize(vertices, size))


def add_bars(rng: np.random.Generator, pile: Pile, size: int, dials: Dials) -> None:
    """Hides one side of some objects with a bar.

    Args:
      rng: decides everything that is random.
      pile: what is in the image; bars are added in front.
      size: height and width of the image in pixels.
      dials: this uses `unclear_borders`.
    """
    for shape in pile.objects:
        if rng.random() < dials.unclear_borders:
            pile.put_one(lambda shape=shape: _bar(rng, shape, size), _MIN_VISIBLE_BEHIND_BARS)


def _bar(rng: np.random.Generator, across: Shape, size: int) -> Shape:
    """Returns a bar along the left, upper, right or lower side of a shape's box in the image."""
    low, high = (
        np.clip(corner, 0, size)
        for corner in (across.vertices.min(axis=0), across.vertices.max(axis=0))
    )
    half = np.array([_BAR_LENGTH, _BAR_WIDTH]) * across.extent() / 2
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    tilt = np.deg2rad(rng.uniform(-10, 10))
    axis, direction = int(rng.integers(2)), int(rng.choice([-1, 1]))
    quarter_turn = np.pi / 2 if axis == 0 else 0.0
    centre = (low + high) / 2
    inwards = _BAR_DEPTH * across.extent() - half[1]
    centre[axis] += direction * ((high - low)[axis] / 2 - inwards)
    vertices = corners @ _rotation(tilt + quarter_turn) + centre
    alpha, _ = _rasterize(vertices, size)
    # Nothing is lost with what lies outside the image.
    return Shape(None, vertices, alpha, area=float(alpha.sum()))


def _turned_and_scaled(rng: np.random.Generator, outline: np.ndarray, extent: float) -> np.ndarray:
    """Returns an outline, turned a bit, whose box has the longer side `extent`."""
    outline = outline @ _rotation(np.deg2rad(rng.uniform(-15, 15)))
    return outline * extent / np.ptp(outline, axis=0).max()


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


def _look_alike_outline(name: str) -> np.ndarray:
    """Returns the `[V, 2]` outline of what is almost a shape, around the origin, not yet scaled."""
    if name == "circle":
        # Without the right upper quarter.
        return np.concatenate([np.zeros([1, 2]), _outline(name)[16:], _outline(name)[:1]])
    if name == "square":
        # Without the left upper quarter.
        return np.array([[0, 0], [0, -1], [1, -1], [1, 1], [-1, 1], [-1, 0]], np.float64)
    if name == "triangle":
        # Notched from below, as an arrowhead is.
        return np.insert(_outline(name), 2, [0, -0.1], axis=0)
    return _regular_polygon(8, np.array([1.0, 0.4]))


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
