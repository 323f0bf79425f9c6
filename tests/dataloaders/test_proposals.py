import io

import numpy as np
import pytest
import tensorflow as tf

from libra_tf.dataloaders import proposals

pytestmark = pytest.mark.one_lane


def encode(array, **kwargs):
    file = io.BytesIO()
    np.save(file, array, **kwargs)
    return file.getvalue()


def decode(encoded):
    """Decodes as a pipeline does."""
    dataset = tf.data.Dataset.from_tensors(encoded)
    return next(iter(dataset.map(lambda x: proposals.decode_npy(x, "some/7.npy")))).numpy()


@pytest.mark.parametrize("num_boxes", [0, 1, 9, 10, 1000, 123456])
def test_decodes_what_numpy_saves(num_boxes):
    rng = np.random.default_rng(num_boxes)
    boxes = rng.normal(0, 1e3, (num_boxes, 4)).astype(np.float32)
    decoded = decode(encode(boxes))
    assert decoded.dtype == np.float32
    np.testing.assert_array_equal(decoded, boxes)


def test_bytes_that_are_line_breaks():
    boxes = np.full((3, 4), np.frombuffer(b"\n\n\n\n", np.float32)[0])
    np.testing.assert_array_equal(decode(encode(boxes)), boxes)


@pytest.mark.parametrize(
    ("encoded", "found"),
    [
        (encode(np.zeros((3, 4))), "descr: <f8"),
        (encode(np.zeros((3, 4), ">f4")), "descr: >f4"),
        (encode(np.zeros((3, 4), np.float16)), "descr: <f2"),
        (encode(np.zeros((3, 4), np.float32, order="F")), "fortran_order: True"),
        (encode(np.zeros((3, 5), np.float32)), r"shape: \(3, 5\)"),
        (encode(np.zeros(4, np.float32)), r"shape: \(4,\)"),
        (encode(np.zeros((1, 3, 4), np.float32)), r"shape: \(1, 3, 4\)"),
        (b"", "no NumPy array"),
        (b"\x93NUM", "no NumPy array"),
        (b"\xff\xd8\xff\xe0 a picture \n of something", "no NumPy array"),
        (b"PK\x03\x04", "no NumPy array"),
    ],
)
def test_refuses_anything_else(encoded, found):
    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        decode(encoded)
    problem = proposals.problem_in(raised.value)
    assert problem.startswith("the proposals in some/7.npy are not float32 of shape (N, 4) in C ")
    with pytest.raises(ValueError, match=found):
        raise ValueError(problem)
    assert "numpy.ascontiguousarray" in problem


@pytest.mark.parametrize("change", [lambda e: e[:-1], lambda e: e[:-16], lambda e: e + b"\0" * 16])
def test_refuses_half_a_file(change):
    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        decode(change(encode(np.ones((3, 4), np.float32))))
    assert "the proposals in some/7.npy are truncated or have extra bytes" in proposals.problem_in(
        raised.value
    )


@pytest.mark.parametrize("in_function", [False, True])
def test_a_missing_file_is_named(tmp_path, in_function):
    folder = str(tmp_path / "no such (folder)")
    dataset = tf.data.Dataset.from_tensors("12")
    iterator = iter(dataset.map(lambda x: proposals.read_proposals(folder, x)))
    step = tf.function(lambda: next(iterator)) if in_function else (lambda: next(iterator))
    with pytest.raises(tf.errors.NotFoundError) as raised:
        step()
    problem = proposals.problem_in(raised.value)
    assert problem.startswith(f"there is no file of proposals {folder}/12.npy:")


def test_other_errors_are_not_explained():
    error = tf.errors.InvalidArgumentError(None, None, "the shapes do not match")
    assert proposals.problem_in(error) is None


def test_reads_by_source_id(tmp_path):
    boxes = np.array([[1, 2, 3, 4]], np.float32)
    np.save(tmp_path / "000012.npy", boxes)
    read = proposals.read_proposals(str(tmp_path), tf.constant("000012"))
    np.testing.assert_array_equal(read, boxes)
