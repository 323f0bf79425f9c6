"""Reading an image's file of a proposals folder (`libra_tf.data.proposals`) in a tf.data pipeline.

Written with TensorFlow operations only, so that it works wherever TensorFlow reads files: on remote
file systems and on the hosts of TPUs, where Python functions of a pipeline cannot run.

The file format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

import re

import tensorflow as tf

from libra_tf.data.proposals import SUFFIX

_MAGIC = b"\x93NUMPY\x01\x00"
# The header follows the magic and two bytes with its length, and ends at the first line break.
_HEADER_START = 10
_HEADER = r"\{'descr': '<f4', 'fortran_order': False, 'shape': \((\d+), 4\), \} *"
_BYTES_PER_BOX = 16

# The path follows the names of the operations that failed.
_MISSING = re.compile(rf"(?:.*(?:: |\}}\}} ))?(.*{re.escape(SUFFIX)}); No such file")
_REFUSED = re.compile(r"assertion failed: \[(the proposals in .*)\]")


def read_proposals(folder: str, source_id: tf.Tensor) -> tf.Tensor:
    """Reads the proposals of an image from `<folder>/<source_id>.npy`.

    Args:
      folder: where the files are.
      source_id: string scalar, the image's id.

    Returns:
      `[N, 4]` float32, `[ymin, xmin, ymax, xmax]` in pixels of the original image.

    Raises:
      tf.errors.NotFoundError: when run, if there is no such file; see `problem_in`.
      tf.errors.InvalidArgumentError: when run, as `decode_npy`; see `problem_in`.
    """
    path = tf.strings.join([folder, "/", source_id, SUFFIX])
    return decode_npy(tf.io.read_file(path), path)


def decode_npy(encoded: tf.Tensor, path: str | tf.Tensor) -> tf.Tensor:
    """Decodes boxes that `numpy.save` has written.

    Args:
      encoded: string scalar, the bytes of the file.
      path: string scalar, the file's name for the error.

    Returns:
      `[N, 4]` float32, the boxes.

    Raises:
      tf.errors.InvalidArgumentError: when run, if it is not a whole array of float32 and shape
        `[N, 4]` in C order; it names the file.
    """
    start, data = _split_at_line_break(encoded)
    header = _from(start, _HEADER_START)
    is_array = tf.equal(tf.strings.substr(start, 0, len(_MAGIC)), _MAGIC)
    is_boxes = is_array & tf.strings.regex_full_match(header, _HEADER)
    found = tf.where(is_array, tf.strings.regex_replace(header, "'", ""), "no NumPy array")
    problem = [
        *("the proposals in ", path, " are not float32 of shape (N, 4) in C order but ", found),
        "; write them with numpy.save(path, numpy.ascontiguousarray(boxes, numpy.float32))",
    ]
    with tf.control_dependencies([tf.debugging.Assert(is_boxes, [tf.strings.join(problem)])]):
        num_boxes = tf.strings.to_number(tf.strings.regex_replace(header, _HEADER, r"\1"), tf.int32)
    is_whole = tf.equal(tf.strings.length(data), _BYTES_PER_BOX * num_boxes)
    problem = ["the proposals in ", path, " end too early or too late; write the file again"]
    with tf.control_dependencies([tf.debugging.Assert(is_whole, [tf.strings.join(problem)])]):
        return tf.reshape(tf.io.decode_raw(data, tf.float32), [-1, 4])


def problem_in(error: tf.errors.OpError) -> str | None:
    """Returns what an error of a pipeline says about a file of proposals.

    Args:
      error: what running the pipeline raised.

    Returns:
      A text that names the file and says what to do, or None if it is about something else.
    """
    if missing := _MISSING.search(error.message):
        return (
            f"there are no proposals in {missing[1]}: every image needs a file, if only an empty "
            "one of shape (0, 4)"
        )
    if refused := _REFUSED.search(error.message):
        return refused[1]
    return None


def _split_at_line_break(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    parts = tf.strings.split(encoded, "\n", maxsplit=1)
    # There may be no line break in a file of something else.
    parts = tf.concat([parts, [""]], axis=0)
    return parts[0], parts[1]


def _from(text: tf.Tensor, start: int) -> tf.Tensor:
    length = tf.strings.length(text)
    return tf.strings.substr(text, tf.minimum(start, length), length)
