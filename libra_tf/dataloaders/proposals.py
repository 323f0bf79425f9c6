"""Reads proposals from the files of `libra_tf.data.proposals` in a tf.data pipeline.

This uses TensorFlow operations only, so it works wherever TensorFlow can read files: on remote file
systems, and on the hosts of TPUs, where pipelines cannot run Python functions.

File format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

import re

import tensorflow as tf

from libra_tf.data.proposals import SUFFIX

_MAGIC = b"\x93NUMPY\x01\x00"
# The magic string and two bytes for the header's length come first. The header ends with the first
# line break.
_HEADER_START = 10
_HEADER = r"\{'descr': '<f4', 'fortran_order': False, 'shape': \((\d+), 4\), \} *"
_BYTES_PER_BOX = 16

# In these messages, the names of the failed operations come before the path.
_MISSING = re.compile(rf"(?:.*(?:: |\}}\}} ))?(.*{re.escape(SUFFIX)}); No such file")
_REFUSED = re.compile(r"assertion failed: \[(the proposals in .*)\]")


def read_proposals(folder: str, source_id: tf.Tensor) -> tf.Tensor:
    """Reads the proposals of an image from `<folder>/<source_id>.npy`.

    Args:
      folder: the folder of proposals.
      source_id: string scalar, id of the image.

    Returns:
      `[N, 4]` float32, `[ymin, xmin, ymax, xmax]` in pixels of the original image.

    Raises:
      tf.errors.NotFoundError: when executed, if there is no such file; see `problem_in`.
      tf.errors.InvalidArgumentError: when executed, if the file has other content; see
        `problem_in`.
    """
    path = tf.strings.join([folder, "/", source_id, SUFFIX])
    return decode_npy(tf.io.read_file(path), path)


def decode_npy(encoded: tf.Tensor, path: str | tf.Tensor) -> tf.Tensor:
    """Decodes boxes written with `numpy.save`.

    Args:
      encoded: string scalar, content of the file.
      path: string scalar, name of the file for error messages.

    Returns:
      `[N, 4]` float32, the boxes.

    Raises:
      tf.errors.InvalidArgumentError: when executed, if the content is not a complete float32 array
        of shape `[N, 4]` in C order; the message names the file.
    """
    start, data = _split_at_line_break(encoded)
    header = _from(start, _HEADER_START)
    is_array = tf.equal(tf.strings.substr(start, 0, len(_MAGIC)), _MAGIC)
    is_boxes = is_array & tf.strings.regex_full_match(header, _HEADER)
    found = tf.where(is_array, tf.strings.regex_replace(header, "'", ""), "no NumPy array")
    problem = [
        *("the proposals in ", path, " are not float32 of shape (N, 4) in C order: found ", found),
        "; write them with numpy.save(path, numpy.ascontiguousarray(boxes, numpy.float32))",
    ]
    with tf.control_dependencies([tf.debugging.Assert(is_boxes, [tf.strings.join(problem)])]):
        num_boxes = tf.strings.to_number(tf.strings.regex_replace(header, _HEADER, r"\1"), tf.int32)
    is_whole = tf.equal(tf.strings.length(data), _BYTES_PER_BOX * num_boxes)
    problem = [
        "the proposals in ",
        path,
        " are truncated or have extra bytes; write the file again",
    ]
    with tf.control_dependencies([tf.debugging.Assert(is_whole, [tf.strings.join(problem)])]):
        return tf.reshape(tf.io.decode_raw(data, tf.float32), [-1, 4])


def problem_in(error: tf.errors.OpError) -> str | None:
    """Explains a pipeline error that is about a file of proposals.

    Args:
      error: the error raised by the pipeline.

    Returns:
      A message that names the file and says what to do; None if the error is about something else.
    """
    if missing := _MISSING.search(error.message):
        return (
            f"there is no file of proposals {missing[1]}: every image needs one; for an image "
            "without proposals, write an array of shape (0, 4)"
        )
    if refused := _REFUSED.search(error.message):
        return refused[1]
    return None


def _split_at_line_break(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    parts = tf.strings.split(encoded, "\n", maxsplit=1)
    # A file of another kind may have no line break.
    parts = tf.concat([parts, [""]], axis=0)
    return parts[0], parts[1]


def _from(text: tf.Tensor, start: int) -> tf.Tensor:
    length = tf.strings.length(text)
    return tf.strings.substr(text, tf.minimum(start, length), length)
