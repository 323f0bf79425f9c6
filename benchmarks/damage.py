"""Images for requests: good ones, and ones that are damaged in every way a sender could.

All of them follow from a seed.
"""

import functools
import io
import itertools
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

_JPEG_START = b"\xff\xd8\xff"
_PNG_START = b"\x89PNG\r\n\x1a\n"
# Where a PNG keeps its width and height, and the checksum over them.
_PNG_SIZES = (16, 20)
_PNG_HEAD, _PNG_CHECKSUM = slice(12, 29), slice(29, 33)


def encode(height: int, width: int, image_format: str, seed: int) -> bytes:
    """Returns the bytes of a picture of smooth noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((width, height)).save(buffer, format=image_format)
    return buffer.getvalue()


def good_requests() -> list[tuple[str, list[bytes]]]:
    """Returns pairs of a kind and the images of a request: 12 single images and 4 batches."""
    images = [
        encode(30 + 4 * i, 80 - 3 * i, "PNG" if i % 3 == 0 else "JPEG", seed=i) for i in range(12)
    ]
    batches = [images[:2], images[2:5], images[5:8], images[8:12]]
    return [("one image", [image]) for image in images] + [
        ("a batch of images", batch) for batch in batches
    ]


def damaged_requests(count: int, seed: int = 0) -> Iterator[tuple[str, list[bytes]]]:
    """Yields pairs of a kind and the images of a request, one kind after the other.

    Args:
      count: how many requests.
      seed: decides what is damaged and where.
    """
    rng = np.random.default_rng(seed)
    kinds = itertools.cycle([*_ALONE, IN_A_BATCH])
    for kind in itertools.islice(kinds, count):
        yield kind, _batch(rng) if kind == IN_A_BATCH else [_ALONE[kind](rng)]


def _any_file(rng: np.random.Generator, image_format: str) -> bytes:
    height, width = (int(size) for size in rng.integers(8, 100, 2))
    return encode(height, width, image_format, seed=int(rng.integers(1 << 30)))


def _cut_off(image_format: str, rng: np.random.Generator) -> bytes:
    image = _any_file(rng, image_format)
    # Without its last two bytes, a JPEG has no end marker.
    return image[: rng.integers(len(_PNG_START), len(image) - 1)]


def _flip_bits(image_format: str, rng: np.random.Generator) -> bytes:
    image = bytearray(_any_file(rng, image_format))
    for _ in range(rng.integers(1, 20)):
        image[rng.integers(len(image))] ^= 1 << rng.integers(8)
    return bytes(image)


def _start_differently(rng: np.random.Generator) -> bytes:
    start = (b"GIF89a", b"BM", b"RIFF\0\0\0\0WEBP", b"II*\0", b"\0\0\0\0")[rng.integers(5)]
    image = _any_file(rng, ("JPEG", "PNG")[rng.integers(2)])
    return start + image[len(start) :]


def _enlarge_png(rng: np.random.Generator) -> bytes:
    """Declares up to 2**32 pixels a side, with the checksum corrected or not."""
    image = bytearray(_any_file(rng, "PNG"))
    for start in _PNG_SIZES:
        image[start : start + 4] = int(rng.integers(1000, 2**32)).to_bytes(4, "big")
    if rng.integers(2):
        image[_PNG_CHECKSUM] = zlib.crc32(image[_PNG_HEAD]).to_bytes(4, "big")
    return bytes(image)


def _enlarge_jpeg(rng: np.random.Generator) -> bytes:
    image = bytearray(_any_file(rng, "JPEG"))
    start = image.index(b"\xff\xc0") + 5
    sizes = rng.integers(1000, 2**16, 2)
    image[start : start + 4] = b"".join(int(size).to_bytes(2, "big") for size in sizes)
    return bytes(image)


def _random_bytes(start: bytes, rng: np.random.Generator) -> bytes:
    return start + rng.bytes(rng.integers(1, 3000))


def _batch(rng: np.random.Generator) -> list[bytes]:
    """Two to four images, one of them refused in any case."""
    images = [_any_file(rng, "JPEG") for _ in range(rng.integers(2, 5))]
    kinds = [kind for kind in _ALONE if kind not in MAY_BE_HARMLESS]
    images[rng.integers(len(images))] = _ALONE[kinds[rng.integers(len(kinds))]](rng)
    return images


# A JPEG has no checksum, so that flipped bits may only change its pixels; so may those of a PNG in
# a part that decoders ignore.
MAY_BE_HARMLESS = ("JPEG with flipped bits", "PNG with flipped bits")
IN_A_BATCH = "a bad image in a batch"
_ALONE: dict[str, Callable[[np.random.Generator], bytes]] = {
    "JPEG cut off": functools.partial(_cut_off, "JPEG"),
    "PNG cut off": functools.partial(_cut_off, "PNG"),
    "JPEG with flipped bits": functools.partial(_flip_bits, "JPEG"),
    "PNG with flipped bits": functools.partial(_flip_bits, "PNG"),
    "the start of another format": _start_differently,
    "PNG that declares a huge size": _enlarge_png,
    "JPEG that declares a huge size": _enlarge_jpeg,
    "random bytes": functools.partial(_random_bytes, b""),
    "random bytes after a JPEG's start": functools.partial(_random_bytes, _JPEG_START),
    "random bytes after a PNG's start": functools.partial(_random_bytes, _PNG_START),
    "no bytes": lambda rng: b"",
}
