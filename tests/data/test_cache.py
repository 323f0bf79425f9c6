import multiprocessing
import os
import pathlib
import shutil
import signal
import time

import pytest

from libra_tf.data import DatasetError, cache

pytestmark = pytest.mark.one_lane

# Forking would copy the locks of TensorFlow's threads without the threads.
_PROCESSES = multiprocessing.get_context("spawn")


def _write_two_files(folder: pathlib.Path) -> None:
    (folder / "one").write_text("1")
    (folder / "two").write_text("22")


def _contents(entry: pathlib.Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in entry.iterdir() if path.name in ("one", "two")}


def _names(folder: pathlib.Path) -> set[str]:
    return {path.name for path in (folder / "entries").iterdir()}


def _create_at_the_same_time(folder, barrier, answers):
    def write(target):
        barrier.wait(60)
        _write_two_files(target)
        barrier.wait(60)

    answers.put(str(cache.DatasetCache(folder).create("key", write)))


def _create_and_die(folder: pathlib.Path) -> None:
    def write(target: pathlib.Path) -> None:
        (target / "one").write_text("1")
        os.kill(os.getpid(), signal.SIGKILL)

    cache.DatasetCache(folder).create("key", write)


def _create_slowly(folder, started, go_on):
    def write(target):
        started.set()
        go_on.wait(60)
        _write_two_files(target)

    cache.DatasetCache(folder).create("slow", write)


def test_create_then_find(tmp_path):
    store = cache.DatasetCache(tmp_path)
    assert store.find("key") is None
    entry = store.create("key", _write_two_files)
    assert store.find("key") == entry
    assert _contents(entry) == {"one": "1", "two": "22"}
    assert _names(tmp_path) == {"key"}


def test_two_processes_at_once(tmp_path):
    barrier, answers = _PROCESSES.Barrier(2), _PROCESSES.Queue()
    processes = [
        _PROCESSES.Process(target=_create_at_the_same_time, args=(tmp_path, barrier, answers))
        for _ in range(2)
    ]
    for process in processes:
        process.start()
    entries = {answers.get(timeout=60) for _ in processes}
    for process in processes:
        process.join(60)
    assert entries == {str(tmp_path / "entries" / "key")}
    assert _contents(cache.DatasetCache(tmp_path).find("key")) == {"one": "1", "two": "22"}
    assert _names(tmp_path) == {"key"}


def test_killed_halfway_leaves_no_entry_and_the_next_one_cleans_up(tmp_path):
    process = _PROCESSES.Process(target=_create_and_die, args=(tmp_path,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    store = cache.DatasetCache(tmp_path)
    assert store.find("key") is None
    assert len(_names(tmp_path)) == 1
    store.create("key", _write_two_files)
    assert _names(tmp_path) == {"key"}


def test_cleaning_up_spares_running_processes(tmp_path):
    started, go_on = _PROCESSES.Event(), _PROCESSES.Event()
    process = _PROCESSES.Process(target=_create_slowly, args=(tmp_path, started, go_on))
    process.start()
    assert started.wait(60)
    store = cache.DatasetCache(tmp_path)
    store.create("quick", _write_two_files)
    go_on.set()
    process.join(60)
    assert process.exitcode == 0
    assert _names(tmp_path) == {"quick", "slow"}


def test_error_while_writing_leaves_nothing(tmp_path):
    def fail(target):
        (target / "one").write_text("1")
        raise RuntimeError("stop")

    store = cache.DatasetCache(tmp_path)
    with pytest.raises(RuntimeError, match="stop"):
        store.create("key", fail)
    assert _names(tmp_path) == set()


@pytest.mark.parametrize("name", ["one", "manifest.json"])
def test_damaged_entry_is_made_again(tmp_path, name):
    store = cache.DatasetCache(tmp_path)
    entry = store.create("key", _write_two_files)
    (entry / name).write_text("")
    assert store.find("key") is None
    assert _contents(store.create("key", _write_two_files)) == {"one": "1", "two": "22"}
    assert _names(tmp_path) == {"key"}


def _wait_until_settled(path: pathlib.Path) -> None:
    """Waits until the file's times are old enough to be trusted."""
    age = time.time_ns() - path.stat().st_ctime_ns
    time.sleep(max(0.0, 2.1 - age / 1e9))


def test_recall_only_while_nothing_changed(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    file = source / "file"
    file.write_text("before")
    store = cache.DatasetCache(tmp_path / "cache")
    entry = store.create("key", _write_two_files)
    store.remember(source, "key", cache.stats_of(source, ["file"]))
    assert store.recall(source) is None, "the file could still change within the clock's tick"
    _wait_until_settled(file)
    store.remember(source, "key", cache.stats_of(source, ["file"]))
    assert store.recall(source) == entry
    modified = file.stat()
    file.write_text("after!")
    os.utime(file, ns=(modified.st_atime_ns, modified.st_mtime_ns))
    assert store.recall(source) is None, "same size and time of modification, other content"
    file.unlink()
    assert store.recall(source) is None


def test_what_another_version_recorded_is_not_trusted(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    _wait_until_settled(source)
    store = cache.DatasetCache(tmp_path / "cache", version=1)
    entry = store.create("key", _write_two_files)
    store.remember(source, "key", cache.stats_of(source, ["."]))
    assert store.recall(source) == entry
    assert cache.DatasetCache(tmp_path / "cache", version=2).recall(source) is None


def test_the_former_entry_of_a_source_is_known_unless_another_source_needs_it(tmp_path):
    sources = [tmp_path / name for name in ("one", "two")]
    for source in sources:
        source.mkdir()
    _wait_until_settled(sources[-1])
    store = cache.DatasetCache(tmp_path / "cache")
    assert store.superseded(sources[0], "old") is None
    old = store.create("old", _write_two_files)
    new = store.create("new", _write_two_files)
    for source in sources:
        store.remember(source, "old", cache.stats_of(source, ["."]))
    assert store.superseded(sources[0], "old") is None, "it is what the folder is now"
    assert store.superseded(sources[0], "new") is None, "the other folder needs it"
    store.remember(sources[0], "new", cache.stats_of(sources[0], ["."]))
    assert store.superseded(sources[1], "new") == old
    assert _contents(new) == _contents(old) == {"one": "1", "two": "22"}
    shutil.rmtree(old)
    assert store.superseded(sources[1], "new") is None, "it is gone"


def test_the_size_counts_all_entries(tmp_path):
    store = cache.DatasetCache(tmp_path)
    assert store.size() == 0
    entry = store.create("key", _write_two_files)
    (tmp_path / "seen" / "note").write_text("not an entry")
    assert store.size() == cache.size_of(entry) == 3 + (entry / "manifest.json").stat().st_size


def test_unwritable_cache_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match=r"cache .*file/cache cannot be written .*cache_dir"):
        cache.DatasetCache(tmp_path / "file" / "cache")


@pytest.mark.parametrize("name", ["a,b", "a*", "a[1]"])
def test_path_that_model_garden_would_misread_is_refused(tmp_path, name):
    with pytest.raises(DatasetError, match="reads as a pattern"):
        cache.DatasetCache(tmp_path / name)


def test_default_folder(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert str(cache.default_cache_dir()) == "/somewhere/libra_tf"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/user")
    assert str(cache.default_cache_dir()) == "/home/user/.cache/libra_tf"
