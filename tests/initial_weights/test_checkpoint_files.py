import pytest
import tensorflow as tf

from libra_tf.initial_weights import checkpoint_files
from libra_tf.initial_weights.checkpoint_files import CheckpointError


@pytest.fixture
def run_folder(tmp_path):
    """A folder with the checkpoints of two steps, and a best one beside them."""
    checkpoint = tf.train.Checkpoint(weight=tf.Variable(tf.random.normal([1000])))
    manager = tf.train.CheckpointManager(checkpoint, str(tmp_path), max_to_keep=None)
    for step in (1, 2):
        manager.save(checkpoint_number=step)
    best = tf.train.CheckpointManager(
        checkpoint, str(tmp_path / "best"), max_to_keep=1, checkpoint_name="best_ckpt"
    )
    best.save(checkpoint_number=1)
    return tmp_path


def test_the_newest_of_a_folder_or_the_one_that_is_named(run_folder):
    newest = str(run_folder / "ckpt-2")
    assert checkpoint_files.find(str(run_folder)) == newest
    assert checkpoint_files.find(f"{run_folder}/") == newest
    assert checkpoint_files.find(str(run_folder / "ckpt-1")) == str(run_folder / "ckpt-1")
    best = run_folder / "best"
    assert checkpoint_files.find(str(best)) == str(best / "best_ckpt-1")
    checkpoint_files.check(str(run_folder))


def assert_refused(path, reason):
    with pytest.raises(CheckpointError) as error:
        checkpoint_files.check(str(path))
    message = str(error.value)
    assert message.startswith(f"{path}{reason}") and "name" in message and "\n" not in message


def test_what_is_no_checkpoint(run_folder, tmp_path):
    assert_refused(run_folder / "ckpt-3", " does not exist")
    assert_refused(run_folder / "ckpt-1.index", " is not a checkpoint")
    (tmp_path / "weights.h5").write_bytes(b"HDF")
    assert_refused(tmp_path / "weights.h5", " is not a checkpoint")
    (tmp_path / "empty").mkdir()
    assert_refused(tmp_path / "empty", " is a folder in which no checkpoint is listed")


@pytest.mark.parametrize("suffix", [".data-00000-of-00001", ".index"])
@pytest.mark.parametrize("is_missing", [False, True])
def test_files_that_are_cut_off_or_missing(run_folder, suffix, is_missing):
    file = run_folder / f"ckpt-1{suffix}"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    if is_missing:
        file.unlink()
    path = str(run_folder / "ckpt-1")
    reason = " does not exist" if is_missing and suffix == ".index" else " is damaged ("
    assert_refused(path, reason)
    assert checkpoint_files.damage(path)
    assert not checkpoint_files.damage(str(run_folder / "ckpt-2"))
