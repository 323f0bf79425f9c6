"""The cache of converted data sets: one folder per content, complete or not there at all.

Layout of a cache folder:

    entries/<key>/       a converted data set; `key` is a hash of everything it was made from
    seen/<hash of path and version>
                         the key of a source folder, valid while its files match the recorded stats
"""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator

from libra_tf import atomic
from libra_tf.data.problems import DatasetError

# By file name: size in bytes, modification time and change time in ns.
Stats = dict[str, list[int]]

_MANIFEST = "manifest.json"
# Within one tick of the file system's clock a file can change without its times changing (FAT
# has a resolution of 2 s), so the stats of files younger than that prove nothing.
_SETTLING_NS = 2_000_000_000
# Model Garden splits `input_path` at commas and expands the rest as a pattern.
_PATTERN_CHARACTERS = frozenset("*?[]{},\\")


def default_cache_dir() -> pathlib.Path:
    """Returns `$XDG_CACHE_HOME/libra_tf`, or `~/.cache/libra_tf` if the variable is not set."""
    root = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(root) / "libra_tf"


class DatasetCache:
    """Converted data sets on disk, shared by any number of processes at once.

    Attributes:
      folder: the cache's folder.
    """

    folder: pathlib.Path

    def __init__(self, cache_dir: str | os.PathLike[str] | None = None, version: int | str = 0):
        """Opens a cache and makes its folders if needed.

        Args:
          cache_dir: the cache's folder; `None` means `default_cache_dir()`.
          version: version of the code that reads the sources, and of its settings; each version
            has its own records of the sources.

        Raises:
          DatasetError: if the folder cannot be made, or its path would be read as a pattern.
        """
        self.folder = pathlib.Path(cache_dir or default_cache_dir()).absolute()
        unusable = sorted(_PATTERN_CHARACTERS.intersection(str(self.folder)))
        if unusable:
            raise DatasetError(
                f"the cache path {self.folder} contains {' '.join(unusable)}, which Model Garden "
                "reads as a pattern: choose another folder with --cache_dir or XDG_CACHE_HOME"
            )
        self._version = version
        self._entries = self.folder / "entries"
        self._seen = self.folder / "seen"
        with self._clear_errors():
            self._entries.mkdir(parents=True, exist_ok=True)
            self._seen.mkdir(exist_ok=True)

    def find(self, key: str) -> pathlib.Path | None:
        """Finds a complete entry.

        Args:
          key: hash of the content that the entry was made from.

        Returns:
          The entry's folder, or `None` if there is no such entry or one of its files is missing.
        """
        entry = self._entries / key
        try:
            manifest = json.loads((entry / _MANIFEST).read_bytes())
            sizes = {name: (entry / name).stat().st_size for name in manifest}
        except (OSError, ValueError):
            return None
        return entry if sizes == manifest else None

    def create(self, key: str, write: Callable[[pathlib.Path], None]) -> pathlib.Path:
        """Makes an entry, unless another process has made it in the meantime.

        Args:
          key: hash of the content that the entry is made from.
          write: writes the entry's files to the folder that it is given.

        Returns:
          The folder of the complete entry, whichever process made it.

        Raises:
          DatasetError: if the cache cannot be written.
        """
        with self._clear_errors(), atomic.unfinished_folder(self._entries) as folder:
            write(folder)
            _write_manifest(folder)
            atomic.make_durable(folder)
            return self._publish(folder, key)

    def recall(self, source: pathlib.Path) -> pathlib.Path | None:
        """Finds the entry of a source folder if no file has changed since `remember`.

        Args:
          source: the data set's folder.

        Returns:
          The entry's folder, or `None` if there is no entry or a file has changed.
        """
        try:
            note = json.loads(self._note_path(source).read_bytes())
            unchanged = stats_of(source, note["stats"]) == note["stats"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return self.find(note["key"]) if unchanged else None

    def remember(self, source: pathlib.Path, key: str, stats: Stats) -> None:
        """Records which entry a source folder belongs to as long as its files do not change.

        Nothing is recorded if a file is so young that it could still change unnoticed, or if the
        cache is read-only: the next run then reads the files again.

        Args:
          source: the data set's folder.
          key: hash of its content.
          stats: what `stats_of` returned before the files were read.
        """
        youngest = max(max(modified, changed) for _, modified, changed in stats.values())
        if youngest > time.time_ns() - _SETTLING_NS:
            return
        note = {"source": str(source), "key": key, "stats": stats}
        with contextlib.suppress(OSError):
            # A half-written note is not valid JSON, so `recall` ignores it.
            self._note_path(source).write_text(json.dumps(note))

    def superseded(self, source: pathlib.Path, key: str) -> pathlib.Path | None:
        """Finds the entry that was made from a source folder before it changed.

        It is not removed here: a run that reads it may go on for days, or be resumed later.

        Args:
          source: the data set's folder, before `remember` records its new key.
          key: hash of its present content.

        Returns:
          The entry's folder; `None` if there is none, or if another source folder needs it.
        """
        own = self._note_path(source)
        former = _key_in(own)
        others = (_key_in(path) for path in self._seen.iterdir() if path != own)
        if former is None or former == key or former in others:
            return None
        return self.find(former)

    def size(self) -> int:
        """Returns the size of all converted data sets in bytes."""
        return size_of(self._entries)

    def _note_path(self, source: pathlib.Path) -> pathlib.Path:
        # One for each version, since a folder has several entries at once, such as for training on
        # nine tenths of it and for evaluating on all of it.
        noted = os.fsencode(source.resolve()) + f"\0{self._version}".encode()
        return self._seen / hashlib.sha256(noted).hexdigest()

    @contextlib.contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DatasetError(
                f"the cache {self.folder} cannot be written ({error.strerror}): free some space "
                "or choose another folder with --cache_dir or the environment variable "
                "XDG_CACHE_HOME"
            ) from error

    def _publish(self, folder: pathlib.Path, key: str) -> pathlib.Path:
        entry = self._entries / key
        while True:
            try:
                atomic.rename_durably(folder, entry)
                return entry
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            if self.find(key) is not None:
                return entry
            self._remove_damaged(entry)

    def _remove_damaged(self, entry: pathlib.Path) -> None:
        # Renamed first, so that no other process sees it half removed.
        with (
            atomic.unfinished_folder(self._entries) as folder,
            contextlib.suppress(FileNotFoundError),
        ):
            os.rename(entry, folder / entry.name)


def size_of(folder: pathlib.Path) -> int:
    """Returns the total size in bytes of all files below a folder, except any that vanish."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(parent, name)).st_size
    return total


def stats_of(source: pathlib.Path, names: Iterable[str]) -> Stats:
    """Looks up what changes when a file changes.

    Args:
      source: the data set's folder.
      names: files relative to it.

    Returns:
      `[size, mtime_ns, ctime_ns]` of each file.

    Raises:
      OSError: if a file is missing.
    """
    stats = {name: os.stat(source / name) for name in names}
    return {name: [s.st_size, s.st_mtime_ns, s.st_ctime_ns] for name, s in stats.items()}


def _key_in(note_path: pathlib.Path) -> str | None:
    """Returns the key in a note, or `None` if it cannot be read."""
    try:
        return json.loads(note_path.read_bytes())["key"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_manifest(folder: pathlib.Path) -> None:
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    (folder / _MANIFEST).write_text(json.dumps(sizes))
