import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from libra_tf.data import images

pytestmark = pytest.mark.one_lane

_READ_AS_THEY_ARE = [
    ("JPEG", "L"),
    ("JPEG", "RGB"),
    ("PNG", "1"),
    ("PNG", "L"),
    ("PNG", "LA"),
    ("PNG", "P"),
    ("PNG", "RGB"),
    ("PNG", "RGBA"),
]
_CONVERTED = [
    ("JPEG", "CMYK"),
    ("BMP", "RGB"),
    ("BMP", "P"),
    ("GIF", "P"),
    ("TIFF", "CMYK"),
    ("TIFF", "RGB"),
    ("WEBP", "RGB"),
    ("WEBP", "RGBA"),
]


def _picture() -> Image.Image:
    rows, columns = np.mgrid[0:30, 0:40]
    pixels = np.stack([rows * 8, columns * 6, 255 - rows * 4 - columns * 3], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def _encode(image_format: str, mode: str) -> bytes:
    buffer = io.BytesIO()
    options = {"lossless": True} if image_format == "WEBP" else {}
    _picture().convert(mode).save(buffer, format=image_format, **options)
    return buffer.getvalue()


def _animation() -> bytes:
    buffer, frames = io.BytesIO(), [Image.new("L", (8, 8), grey) for grey in (0, 200)]
    frames[0].save(buffer, format="GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def _as_rgb(encoded: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB")).astype(int)


def _as_model_garden_decodes(encoded: bytes) -> np.ndarray:
    return tf.io.decode_image(encoded, channels=3).numpy().astype(int)


@pytest.mark.parametrize(("image_format", "mode"), _READ_AS_THEY_ARE)
def test_kept_images_look_the_same_to_model_garden(tmp_path, image_format, mode):
    encoded = _encode(image_format, mode)
    (tmp_path / "image").write_bytes(encoded)
    facts = images.inspect_image(tmp_path / "image")
    assert (facts.width, facts.height) == (40, 30)
    assert facts.encoding == f"{image_format} {mode}"
    assert not facts.needs_conversion
    # JPEG decoders differ by a few grey levels.
    tolerance = 6 if image_format == "JPEG" else 0
    np.testing.assert_allclose(_as_model_garden_decodes(encoded), _as_rgb(encoded), atol=tolerance)


@pytest.mark.parametrize(("image_format", "mode"), _CONVERTED)
def test_converted_images_look_the_same_to_model_garden(tmp_path, image_format, mode):
    encoded = _encode(image_format, mode)
    (tmp_path / "image").write_bytes(encoded)
    assert images.inspect_image(tmp_path / "image").needs_conversion
    decoded = _as_model_garden_decodes(images.encode_as_png(encoded))
    np.testing.assert_array_equal(decoded, _as_rgb(encoded))


def test_jpeg_with_more_pictures_counts_as_a_jpeg(tmp_path):
    path = tmp_path / "phone.jpg"
    _picture().save(path, format="MPO", save_all=True, append_images=[_picture()])
    facts = images.inspect_image(path)
    assert facts.encoding == "MPO RGB"
    assert not facts.needs_conversion
    encoded = path.read_bytes()
    np.testing.assert_allclose(_as_model_garden_decodes(encoded), _as_rgb(encoded), atol=6)


def test_orientation_is_reported_and_not_applied(tmp_path):
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    _picture().save(path, exif=exif)
    facts = images.inspect_image(path)
    assert (facts.width, facts.height, facts.orientation) == (40, 30, 6)
    assert facts.upright_size == (30, 40) and not facts.shown_as_stored
    assert _as_model_garden_decodes(path.read_bytes()).shape == (30, 40, 3)


def _turned(orientation: int, image_format: str = "JPEG") -> bytes:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    _picture().save(buffer, format=image_format, exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_as_viewers_show_them(orientation, image_format):
    encoded = _turned(orientation, image_format)
    shown = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded)))
    turned = images.as_jpeg_or_png(encoded)
    assert not Image.open(io.BytesIO(turned)).getexif().get(0x0112, 1) > 1
    np.testing.assert_allclose(_as_model_garden_decodes(turned), np.asarray(shown), atol=6)
    stored = images.as_jpeg_or_png(encoded, turn_upright=False)
    expected = np.asarray(Image.open(io.BytesIO(encoded)))
    np.testing.assert_allclose(_as_model_garden_decodes(stored), expected, atol=6)


@pytest.mark.parametrize(
    "encoded",
    [_encode("JPEG", "RGB"), _encode("PNG", "P"), _turned(1), _encode("JPEG", "RGB")[:300], b"no"],
    ids=["jpeg", "png", "upright", "truncated", "foreign"],
)
def test_what_needs_no_change_or_is_no_image_is_left_as_it_is(encoded):
    assert images.as_jpeg_or_png(encoded) == encoded


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        (_encode("BMP", "RGB")[:1000], "is truncated or damaged"),
        (_turned(6)[:-50], "is truncated or damaged"),
        (_animation(), "animation or multi-page image"),
    ],
    ids=["bmp", "turned", "animation"],
)
def test_what_cannot_be_changed_is_refused(encoded, message):
    with pytest.raises(images.ImageError, match=message):
        images.as_jpeg_or_png(encoded)


# Type, number of values and their bytes, as an EXIF entry holds them.
_MEANINGLESS_ORIENTATIONS = {
    "unknown": (3, 1, b"\0\0"),
    "too_large": (3, 1, b"\x09\0"),
    "text": (2, 2, b"6\0"),
    "byte": (7, 1, b"\x06"),
    "float": (11, 1, struct.pack("<f", 6)),
}


@pytest.mark.parametrize("name", _MEANINGLESS_ORIENTATIONS)
def test_a_meaningless_orientation_counts_as_upright(tmp_path, name):
    path = tmp_path / "image.jpg"
    # One entry; Pillow would write an integer whatever it is given.
    entry = struct.pack("<HHI4s", 0x0112, *_MEANINGLESS_ORIENTATIONS[name])
    _picture().save(path, exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0" + entry + b"\0\0\0\0")
    assert 0x0112 in Image.open(path).getexif()
    facts = images.inspect_image(path)
    assert facts.orientation == 1
    assert facts.shown_as_stored and facts.upright_size == (facts.width, facts.height)


def test_inspect_images_keeps_the_order(tmp_path):
    paths = []
    for number in range(1, 20):
        paths.append(tmp_path / f"{number}.png")
        Image.new("RGB", (number, 2)).save(paths[-1])
    paths[7].write_bytes(b"no image")
    found = list(images.inspect_images(paths))
    assert isinstance(found.pop(7), images.ImageError)
    assert [facts.width for facts in found] == [n for n in range(1, 20) if n != 8]


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_every_truncation_is_refused(tmp_path, image_format):
    path = tmp_path / "cut"
    encoded = _encode(image_format, "RGB")
    # Without the last 4 bytes, a checksum of nothing, a PNG is still whole.
    for length in range(len(encoded) - 4):
        path.write_bytes(encoded[:length])
        with pytest.raises(images.ImageError):
            images.inspect_image(path)
