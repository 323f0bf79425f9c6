"""Training data that begin later are the rest of those that begin at the start, to the last bit."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from official.core import config_definitions as cfg
from official.core import exp_factory, task_factory
from official.vision.configs import common
from official.vision.dataloaders import input_reader_factory
from tensorflow.python.framework import config as tf_config

import libra_tf.registry_imports  # noqa: F401, registers the experiments
from libra_tf.cli.errors import UsageError
from libra_tf.compat import keras
from libra_tf.dataloaders import repeatable
from libra_tf.dataloaders.draws import Draws
from libra_tf.runner.config import use_dataset
from tests.dataloaders import streams

pytestmark = pytest.mark.one_lane

STEPS = 6


@pytest.fixture(scope="module", autouse=True)
def determinism():
    """As `--seed` has it."""
    tf.config.experimental.enable_op_determinism()
    yield
    tf_config.disable_op_determinism()


def write_files(folder, num_files, records_per_file):
    """Writes files of records that are numbers, all different; returns a pattern for them."""
    for file in range(num_files):
        with tf.io.TFRecordWriter(str(folder / f"{file}.tfrecord")) as writer:
            for record in range(records_per_file):
                writer.write(b"%d" % (file * records_per_file + record))
    return str(folder / "*.tfrecord")


def read(params, seed, step, num_batches, input_context=None):
    """Returns batches of numbered records, each with two draws."""

    def decode(record):
        return tf.strings.to_number(record, tf.int32)

    def parse(number):
        # The seeds are Model Garden's.
        return number, tf.random.uniform([], seed=1), tf.random.uniform([], seed=1)

    keras.utils.set_random_seed(seed)
    used = repeatable.used_by(step, params.global_batch_size, input_context)
    with repeatable.reading_after(used):
        reader = input_reader_factory.input_reader_generator(
            params, dataset_fn=tf.data.TFRecordDataset, decoder_fn=decode, parser_fn=parse
        )
    batches = reader.read(input_context).take(num_batches)
    return [np.stack(batch, axis=1) for batch in batches.as_numpy_iterator()]


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_the_rest_of_the_stream(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("records")
    params = cfg.DataConfig(
        input_path=write_files(
            folder,
            num_files=data.draw(st.integers(1, 4), label="files"),
            records_per_file=data.draw(st.integers(4, 9), label="records per file"),
        ),
        is_training=True,
        global_batch_size=2 * data.draw(st.integers(1, 4), label="half of the batch"),
        shuffle_buffer_size=data.draw(st.integers(1, 40), label="shuffle buffer"),
        cache=data.draw(st.booleans(), label="cache"),
        cycle_length=data.draw(st.sampled_from([None, 1, 2]), label="cycle length"),
    )
    streams.check_the_rest(data, read, params, STEPS)


def test_other_seeds_pipelines_and_places_draw_other_numbers(tmp_path):
    params = cfg.DataConfig(
        input_path=write_files(tmp_path, 1, 1000),
        is_training=True,
        global_batch_size=500,
        shuffle_buffer_size=1000,
    )
    (batch,), (other_seed,) = (read(params, seed, 0, 1) for seed in (1, 2))
    contexts = [tf.distribute.InputContext(2, pipeline, 2) for pipeline in (0, 1)]
    (pipeline,), (other_pipeline,) = (read(params, 1, 0, 1, context) for context in contexts)
    assert set(pipeline[:, 0]).isdisjoint(other_pipeline[:, 0])
    draws = np.stack(
        [batch[:250, 1], batch[:250, 2], batch[250:, 1], other_seed[:250, 1], other_pipeline[:, 1]]
    )
    assert len(np.unique(draws)) == draws.size
    # Of independent draws, hardly any two rows correlate by four standard deviations.
    correlations = np.corrcoef(draws)[np.triu_indices(len(draws), 1)]
    assert np.abs(correlations).max() < 4 / np.sqrt(250)
    assert np.abs(draws.mean(axis=1) - 0.5).max() < 4 / np.sqrt(12 * 250)


def with_damaged_images(records, count, path):
    """Writes records to a file, the first ones with images that cannot be decoded."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for index, record in enumerate(records):
            example = tf.train.Example.FromString(record)
            if index < count:
                example.features.feature["image/encoded"].bytes_list.value[:] = [b"no image"]
            writer.write(example.SerializeToString())
    return str(path)


def tiny_params(experiment, tiny_shapes, batch_size):
    params = exp_factory.get_exp_config(experiment)
    use_dataset(params, tiny_shapes)
    data = params.task.train_data
    assert data.parser.aug_rand_hflip
    data.parser.aug_scale_min, data.parser.aug_scale_max = 0.5, 1.5
    data.global_batch_size, data.shuffle_buffer_size = batch_size, 1
    if "fasterrcnn" in experiment:
        params.task.model.rpn_sampler.type = "iou_balanced"  # It draws after the parser.
        data.parser.rpn_batch_size_per_im = 64
    return params


def batches_of(params, step, num_batches, seed=7):
    keras.utils.set_random_seed(seed)
    task = task_factory.get_task(params.task)
    task.first_step = step
    dataset = task.build_inputs(params.task.train_data).take(num_batches)
    return [tf.nest.flatten(batch) for batch in dataset.as_numpy_iterator()]


@pytest.mark.slow
@pytest.mark.parametrize(
    "experiment",
    [
        "libra_retinanet_demo",
        "libra_fasterrcnn_demo",
    ],
)
def test_detectors_skip_used_images_undecoded(experiment, tiny_shapes, tmp_path):
    batch_size, first_step = 2, 2
    params = tiny_params(experiment, tiny_shapes, batch_size)
    data = params.task.train_data
    files = tf.io.gfile.glob(data.input_path)
    records = [record.numpy() for record in tf.data.TFRecordDataset(files)]
    data.input_path = with_damaged_images(records, 0, tmp_path / "sound")
    whole = batches_of(params, 0, 4)
    other = batches_of(params, 0, 1, seed=8)
    assert any(not np.array_equal(a, b) for a, b in zip(whole[0], other[0], strict=True))

    data.input_path = with_damaged_images(records, first_step * batch_size, tmp_path / "damaged")
    rest = batches_of(params, first_step, 2)
    for batch, expected in zip(rest, whole[first_step:], strict=True):
        for tensor, same_tensor in zip(batch, expected, strict=True):
            np.testing.assert_array_equal(tensor, same_tensor)
    with pytest.raises(tf.errors.InvalidArgumentError, match="image"):
        batches_of(params, 0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["autoaug", "randaug", "ssd_random_crop"])
def test_every_augmentation_repeats(kind, tiny_shapes):
    params = tiny_params("libra_retinanet_demo", tiny_shapes, 4)
    parser = params.task.train_data.parser
    parser.aug_type = common.Augmentation(type=kind)
    # The policy with loops over the objects.
    parser.aug_type.autoaug.augmentation_name = "detection_v0"
    parser.aug_rand_jpeg = common.RandJpegQuality()
    whole, rest = batches_of(params, 0, 3), batches_of(params, 1, 2)
    for batch, expected in zip(rest, whole[1:], strict=True):
        for tensor, same_tensor in zip(batch, expected, strict=True):
            np.testing.assert_array_equal(tensor, same_tensor)


def traced(function, place=3):
    """Returns what a function that draws returns, traced as a parser is."""
    draws = Draws(seed=5)

    @tf.function
    def parse(place):
        draws.begin(place)
        result = function()
        draws.end()
        return result

    with draws.replacing_tensorflows():
        parse = parse.get_concrete_function(tf.TensorSpec([], tf.int64))
    return parse(tf.constant(place, tf.int64))


def test_every_round_of_a_loop_draws_again():
    def draw_thrice():
        loop_vars = [tf.constant(0), tf.zeros([0])]
        return tf.while_loop(
            lambda i, _: i < 3,
            lambda i, drawn: [i + 1, tf.concat([drawn, tf.random.uniform([1])], 0)],
            loop_vars,
            shape_invariants=[tf.TensorShape([]), tf.TensorShape([None])],
        )[1]

    drawn = traced(draw_thrice).numpy()
    assert drawn.shape == (3,) and len(set(drawn)) == 3
    np.testing.assert_array_equal(traced(draw_thrice), drawn)
    assert set(traced(draw_thrice, place=4).numpy()).isdisjoint(drawn)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: tf.random.gamma([], 1.0),
        lambda: tf.cond(tf.constant(True), lambda: tf.random.gamma([], 1.0), lambda: 0.0),
    ],
)
def test_refuses_draws_that_depend_on_earlier_images(draw):
    with pytest.raises(UsageError, match=r"RandomGamma.*--seed"):
        traced(draw)


def test_tensorflows_own_draws_are_back_afterwards():
    before = tf.random.uniform, tf.random.normal, tf.random.shuffle, tf.while_loop
    traced(lambda: tf.random.normal([]))
    assert (tf.random.uniform, tf.random.normal, tf.random.shuffle, tf.while_loop) == before
