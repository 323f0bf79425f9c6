"""Images with rare classes are repeated as often as LVIS' formula says, on average."""

import collections
import contextlib
import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from official.core import config_definitions as cfg
from official.core import exp_factory, task_factory
from official.vision.configs import retinanet as model_garden
from official.vision.dataloaders import input_reader_factory
from tensorflow.python.framework import config as tf_config

import libra_tf.registry_imports  # noqa: F401, registers the experiments
from libra_tf.compat import keras
from libra_tf.configs import retinanet
from libra_tf.dataloaders import (
    class_statistics,
    orientation,
    repeat_factors,
    repeatable,
    unaugmented,
)
from libra_tf.runner.config import use_dataset
from tests.dataloaders import streams

pytestmark = pytest.mark.one_lane

NUM_CLASSES = 6
IMAGES = st.lists(
    st.lists(st.integers(1, NUM_CLASSES - 1), max_size=4), min_size=1, max_size=12
).filter(any)


@pytest.fixture(scope="module", autouse=True)
def determinism():
    """As `--seed` has it."""
    tf.config.experimental.enable_op_determinism()
    yield
    tf_config.disable_op_determinism()


def detectron2(images, threshold):
    """The factors of images as `RepeatFactorTrainingSampler` of detectron2 computes them.

    Written anew after the docstring of `repeat_factors_from_category_frequency`.
    """
    shown_by = collections.Counter(label for labels in images for label in set(labels))
    of_category = {
        label: max(1.0, math.sqrt(threshold / (number / len(images))))
        for label, number in shown_by.items()
    }
    return [max((of_category[label] for label in labels), default=1.0) for labels in images]


@given(IMAGES, st.floats(0, 1))
def test_the_factors_are_those_of_detectron2(images, threshold):
    statistics = class_statistics.of_images(images, NUM_CLASSES)
    factors = repeat_factors.of_classes(statistics.frequencies, threshold)
    expected = detectron2(images, threshold)
    actual = [repeat_factors.of_image(labels, factors) for labels in images]
    np.testing.assert_allclose(actual, expected, rtol=1e-12)
    assert repeat_factors.images_per_epoch(statistics, factors) == pytest.approx(sum(expected))


@given(IMAGES, st.floats(0, 1))
def test_frequent_classes_are_not_repeated(images, threshold):
    frequencies = class_statistics.of_images(images, NUM_CLASSES).frequencies
    factors = repeat_factors.of_classes(frequencies, threshold)
    assert (factors[frequencies >= threshold] == 1).all()
    assert (factors[(frequencies < threshold) & (frequencies > 0)] > 1).all()
    assert (factors[frequencies == 0] == 1).all()
    assert (repeat_factors.of_classes(frequencies, 0) == 1).all()


def example(number, labels, crowds=(), size=(64, 64)):
    """A record of an image whose `image/encoded` is a number."""
    features = {
        "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"%d" % number])),
        "image/object/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=labels)),
        "image/object/bbox/xmin": tf.train.Feature(
            float_list=tf.train.FloatList(value=[0.0] * len(labels))
        ),
    }
    for key, side in zip(("image/height", "image/width"), size, strict=True):
        features[key] = tf.train.Feature(int64_list=tf.train.Int64List(value=[side]))
    if crowds:
        features["image/object/is_crowd"] = tf.train.Feature(
            int64_list=tf.train.Int64List(value=crowds)
        )
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def test_crowds_are_not_counted(tmp_path):
    path = str(tmp_path / "records")
    with tf.io.TFRecordWriter(path) as writer:
        for labels, crowds in (([1, 2, 2], [0, 1, 0]), ([3, 1], [1, 0]), ([4, 4], ()), ([], ())):
            writer.write(example(0, labels, crowds))
    statistics = class_statistics.of_records([path], "tfrecord", NUM_CLASSES, print)
    np.testing.assert_array_equal(statistics.num_objects, [0, 2, 1, 0, 2, 0])
    np.testing.assert_array_equal(statistics.frequencies, [0, 0.5, 0.25, 0, 0.25, 0])
    assert statistics.num_images == 4


def test_the_images_of_the_frequencies_are_counted_once():
    """LVIS has nearly as many combinations of classes as images."""

    class Mapping(dict):
        passes = 0

        def values(self):
            Mapping.passes += 1
            return super().values()

    images = Mapping({frozenset([1, 2]): 3, frozenset([2]): 2, frozenset(): 3})
    statistics = class_statistics.ClassStatistics(np.array([0, 3, 5]), images)
    np.testing.assert_allclose(statistics.frequencies, [0, 3 / 8, 5 / 8], rtol=1e-12)
    assert Mapping.passes == 1


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        (-1, "; ids begin at 1, and 0 is the background"),
        (0, "; ids begin at 1, and 0 is the background"),
        (NUM_CLASSES, ", but task.model.num_classes is 6, which counts the background"),
    ],
)
def test_classes_outside_of_the_detectors(label, reason):
    with pytest.raises(ValueError, match=f"the class {label}{reason}"):
        class_statistics.of_images([[1], [label]], NUM_CLASSES)


@pytest.mark.parametrize("label", [-1, 3, 10**9])
def test_a_class_without_a_frequency(label):
    records = tf.data.Dataset.from_tensors(example(0, [1, label]))
    message = "class_frequencies has 3 shares, but an image shows a class outside of them"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        list(repeat_factors.repeat(records, [1.0, 1.0, 2.0], (5, 0)))


def test_the_expected_number_of_copies():
    """Over many epochs, every image comes as often as its factor, and at least once in each."""
    images = [[1], [2, 1], [3, 3], [], [4, 1, 2]]
    factors = np.array([1, 1, 1.25, 2.5, 3.0, 1])
    num_epochs = 2000
    records = tf.data.Dataset.from_tensor_slices(
        [example(number, labels) for number, labels in enumerate(images)]
    )
    repeated = repeat_factors.repeat(records.repeat(num_epochs), factors, (5, 0))
    stream = [number_of(record) for record in repeated.as_numpy_iterator()]
    copies = np.array(split_into_epochs(stream, num_epochs))
    expected = np.array([1, 1.25, 2.5, 1, 3])
    assert (copies >= np.floor(expected)).all() and (copies <= np.ceil(expected)).all()
    deviation = np.sqrt((expected % 1) * (1 - expected % 1) / num_epochs)
    assert (np.abs(copies.mean(0) - expected) <= 4 * deviation).all()
    # Images and epochs draw independently.
    assert abs(np.corrcoef(copies[:, 1], copies[:, 2])[0, 1]) < 4 / np.sqrt(num_epochs)
    assert abs(np.corrcoef(copies[1:, 2], copies[:-1, 2])[0, 1]) < 4 / np.sqrt(num_epochs)


def number_of(record):
    example = tf.train.Example.FromString(record)
    return int(example.features.feature["image/encoded"].bytes_list.value[0])


def split_into_epochs(stream, num_epochs):
    """How often each of five images comes in every epoch of records that are in order."""
    epochs, last = [], 5
    for number in stream:
        if number < last:
            epochs.append([0] * 5)
        epochs[-1][number] += 1
        last = number
    assert len(epochs) == num_epochs
    return epochs


def write_files(folder, images, num_files):
    for file in range(num_files):
        with tf.io.TFRecordWriter(str(folder / f"{file}.tfrecord")) as writer:
            for number in range(file, len(images), num_files):
                writer.write(example(number, images[number]))
    return str(folder / "*.tfrecord")


def read(params, seed, step, num_batches, input_context=None, by_orientation=False):
    """Returns batches of numbered images, each with a draw."""

    def decode(record):
        features = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
        return tf.strings.to_number(
            tf.io.parse_single_example(record, features)["image/encoded"], tf.int32
        )

    keras.utils.set_random_seed(seed)
    used = repeatable.used_by(step, params.global_batch_size, input_context)
    with contextlib.ExitStack() as stack:
        stack.enter_context(repeat_factors.repeating(params))
        stack.enter_context(repeatable.reading_after(used))
        if by_orientation:
            stack.enter_context(orientation.batching(params, input_context))
        reader = input_reader_factory.input_reader_generator(
            params,
            dataset_fn=tf.data.TFRecordDataset,
            decoder_fn=decode,
            parser_fn=lambda number: (number, tf.random.uniform([], seed=1)),
        )
    batches = reader.read(input_context).take(num_batches)
    return [np.stack(batch, axis=1) for batch in batches.as_numpy_iterator()]


def config(images, input_path, threshold, **kwargs):
    frequencies = class_statistics.of_images(images, NUM_CLASSES).frequencies
    return retinanet.TrainData(
        input_path=input_path,
        repeat_threshold=threshold,
        class_frequencies=[float(share) for share in frequencies],
        **kwargs,
    )


STEPS = 6


@settings(max_examples=20, deadline=None)
@given(data=st.data(), images=IMAGES)
@pytest.mark.slow
def test_the_rest_of_the_stream(tmp_path_factory, data, images):
    folder = tmp_path_factory.mktemp("records")
    num_files = data.draw(st.integers(1, 3), label="files")
    images = images * 3  # No file is empty, nor is the part of a pipeline.
    params = config(
        images,
        write_files(folder, images, num_files),
        threshold=data.draw(st.sampled_from([0.3, 1.0]), label="threshold"),
        global_batch_size=2 * data.draw(st.integers(1, 3), label="half of the batch"),
        shuffle_buffer_size=data.draw(st.integers(1, 30), label="shuffle buffer"),
    )
    streams.check_the_rest(data, read, params, STEPS)


@pytest.mark.parametrize("step", [1, 4])
def test_the_rest_of_the_stream_in_batches_of_one_orientation(tmp_path, step):
    """As with `compatibility: mmdetection`; every third image is portrait."""
    images = [[1]] * 16 + [[2, 1]] * 2
    path = str(tmp_path / "records")
    with tf.io.TFRecordWriter(path) as writer:
        for number, labels in enumerate(images):
            size = (96, 64) if number % 3 == 0 else (64, 96)
            writer.write(example(number, labels, size=size))
    # Two images of 18 are shown sqrt(1 / (1 / 9)) = 3 times each.
    params = config(images, path, 1.0, global_batch_size=2, shuffle_buffer_size=5)
    whole = read(params, 7, 0, 22, by_orientation=True)
    for batch in whole:
        assert len(set(batch[:, 0] % 3 == 0)) == 1
    shown = np.bincount(np.concatenate(whole)[:, 0].astype(int), minlength=len(images))
    assert shown[16:].min() > shown[:16].max()
    rest = read(params, 7, step, 22 - step, by_orientation=True)
    np.testing.assert_array_equal(rest, whole[step:])


def test_a_measurement_on_the_training_images_needs_no_frequencies():
    data = unaugmented.without_augmentation(retinanet.TrainData(repeat_threshold=0.5))
    with repeat_factors.repeating(data):
        pass
    theirs = model_garden.DataConfig(is_training=True)
    assert "repeat_threshold" not in unaugmented.without_augmentation(theirs)


@pytest.mark.parametrize("num_files", [1, 4])
def test_several_pipelines_show_every_image_as_often_as_it_should_be(tmp_path, num_files):
    images = [[1]] * 30 + [[2, 1]] * 2
    threshold = 0.25  # Two images of 32 are shown sqrt(0.25 / 0.0625) = 2 times each.
    params = config(
        images,
        write_files(tmp_path, images, num_files),
        threshold,
        global_batch_size=2,
        shuffle_buffer_size=1,
    )
    num_epochs, counts = 40, np.zeros(32)
    for pipeline in (0, 1):
        context = tf.distribute.InputContext(2, pipeline, 2)
        numbers = np.concatenate(read(params, 1, 0, 17 * num_epochs, context))[:, 0]
        counts_here = np.bincount(numbers.astype(int), minlength=32)
        if num_files == 1:
            # Each has every second image. Of several files, it has other ones in every epoch.
            assert (counts_here > 0).sum() == 16
        counts += counts_here
    # Where files differ in their numbers of repeated images, the pipelines drift apart a little.
    drift = 0 if num_files == 1 else 3
    assert np.abs(counts[:30] - num_epochs).max() <= drift
    assert np.abs(counts[30:] - 2 * num_epochs).max() <= 2 * drift


def test_copies_are_spread_and_augmented_anew(tmp_path):
    images = [[1]] * 60 + [[2]]
    params = config(
        images,
        write_files(tmp_path, images, 1),
        1.0,
        global_batch_size=67,
        shuffle_buffer_size=1000,
    )
    factor = np.sqrt(61)
    (batch,) = read(params, 3, 0, 1)
    places = np.flatnonzero(batch[:, 0] == 60)
    draws = batch[places, 1]
    # The buffer holds 15 epochs, of which a batch is a sample.
    assert 1 <= len(places) <= 3 * factor
    assert len(set(draws)) == len(draws)
    assert (np.diff(places) > 1).any() or len(places) == 1


def test_a_threshold_of_zero_changes_nothing(tmp_path):
    images = [[1]] * 20 + [[2]]
    params = config(
        images, write_files(tmp_path, images, 2), 0.0, global_batch_size=4, shuffle_buffer_size=8
    )
    keras.utils.set_random_seed(3)
    theirs = cfg.DataConfig(
        input_path=params.input_path,
        is_training=True,
        global_batch_size=4,
        shuffle_buffer_size=8,
    )
    np.testing.assert_array_equal(read(params, 3, 0, 9), read(theirs, 3, 0, 9))


def test_frequencies_are_needed():
    data = retinanet.TrainData(repeat_threshold=0.5)
    with (
        pytest.raises(ValueError, match="class_frequencies is not set"),
        repeat_factors.repeating(data),
    ):
        pass


@pytest.mark.parametrize(
    "experiment",
    ["libra_retinanet_demo", pytest.param("libra_fasterrcnn_demo", marks=pytest.mark.slow)],
)
def test_detectors_train_on_repeated_images(experiment, tiny_shapes):
    """A class that one image in eight shows; with all else frequent, that image comes twice."""
    params = exp_factory.get_exp_config(experiment)
    use_dataset(params, tiny_shapes)
    data = params.task.train_data
    data.global_batch_size, data.shuffle_buffer_size = 1, 1
    records = list(tf.data.TFRecordDataset(tf.io.gfile.glob(data.input_path)).as_numpy_iterator())
    expected = []
    for record in records:
        classes = class_statistics.trained_classes(record).numpy()
        # Whatever is not a circle is frequent.
        expected += [source_id(record)] * (2 if 1 in classes else 1)
    data.repeat_threshold, data.class_frequencies = 1.0, [1.0, 0.25, 1.0, 1.0, 1.0]
    assert len(records) < len(expected)

    def ids(params, num_images):
        keras.utils.set_random_seed(1)
        task = task_factory.get_task(params.task)
        task.first_step = 0
        batches = task.build_inputs(data).take(num_images)
        return [np.asarray(images).tobytes() for images, _ in batches]

    data.parser.aug_rand_hflip = False
    shown = ids(params, len(expected))
    order = {image: number for number, image in enumerate(dict.fromkeys(shown))}
    numbers = {name: number for number, name in enumerate(dict.fromkeys(expected))}
    assert [order[image] for image in shown] == [numbers[name] for name in expected]

    # A measurement on the training images sees each of them once.
    unaugmented = task_factory.get_task(params.task).build_unaugmented_inputs(data)
    assert len(list(unaugmented)) == len(records)


def source_id(record):
    example = tf.train.Example.FromString(record)
    return example.features.feature["image/source_id"].bytes_list.value[0]
