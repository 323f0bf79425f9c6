"""The cache of converted data sets: one folder per content, complete or not there at all.

Layout of a cache folder:

    entries/<key>/       a converted data set; `key` is a hash of everything it was made from
    seen/<hash of path>  which key a source folder had when its files had the stats noted there
"""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import time

from libra_tf import atomic
from libra_tf.data.problems import DatasetError

_MANIFEST = "manifest.json"
# Within one tick of the file system's clock a file can change without its times changing (FAT
# counts in 2 s), so stats of files that young prove nothing.
_SETTLING_NS = 2_000_000_000
# Model Garden splits `input_path` at commas and expands the rest as a pattern.
_PATTERN_CHARACTERS = frozenset("*?[]{},\\")


def default_cache_dir():
    """Returns `$XDG_CACHE_HOME/libra_tf`, or `~/.cache/libra_tf`, as `pathlib.Path`."""
    root = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(root) / "libra_tf"


class DatasetCache:
    """Converted data sets on disk, shared by any number of processes at once."""

    def __init__(self, cache_dir=None, version=0):
        """Opens a cache, making its folders.

        Args:
          cache_dir: path; `None` means `default_cache_dir()`.
          version: `int`, of what reads the sources: what another version has noted is not trusted.

        Raises:
          DatasetError: if the folder cannot be made, or its path would be read as a pattern.
        """
        self.folder = pathlib.Path(cache_dir or default_cache_dir()).absolute()
        unusable = sorted(_PATTERN_CHARACTERS.intersection(str(self.folder)))
        if unusable:
            raise DatasetError(
                f"the cache's path {self.folder} contains {' '.join(unusable)}, which Model Garden "
                "reads as a pattern: choose another folder with cache_dir or XDG_CACHE_HOME"
            )
        self._version = version
        self._entries = self.folder / "entries"
        self._seen = self.folder / "seen"
        with self._clear_errors():
            self._entries.mkdir(parents=True, exist_ok=True)
            self._seen.mkdir(exist_ok=True)

    def find(self, key):
        """Finds a complete entry.

        Args:
          key: `str`, hash of the content that the entry was made from.

        Returns:
          `pathlib.Path` of the entry's folder, or `None` if there is none or a file of it is gone.
        """
        entry = self._entries / key
        try:
            manifest = json.loads((entry / _MANIFEST).read_bytes())
            sizes = {name: (entry / name).stat().st_size for name in manifest}
        except (OSError, ValueError):
            return None
        return entry if sizes == manifest else None

    def create(self, key, write):
        """Makes an entry, unless another process is quicker.

        Args:
          key: `str`, hash of the content that the entry is made from.
          write: callable that is given a `pathlib.Path` and writes the entry's files there.

        Returns:
          `pathlib.Path` of the complete entry, by whomever it was made.

        Raises:
          DatasetError: if the cache cannot be written.
        """
        with self._clear_errors(), atomic.unfinished_folder(self._entries) as folder:
            write(folder)
            _write_manifest(folder)
            atomic.make_durable(folder)
            return self._publish(folder, key)

    def recall(self, source):
        """Finds the entry of a source folder none of whose files changed since `remember`.

        Args:
          source: `pathlib.Path`, the data set's folder.

        Returns:
          `pathlib.Path` of the entry, or `None` if there is none or anything changed.
        """
        try:
            note = json.loads(self._note_path(source).read_bytes())
            unchanged = stats_of(source, note["stats"]) == note["stats"]
            is_trusted = note["version"] == self._version
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return self.find(note["key"]) if unchanged and is_trusted else None

    def remember(self, source, key, stats):
        """Notes which entry a source folder belongs to as long as its files stay as they are.

        Nothing is noted if a file is so young that it could still change unnoticed, or if the
        cache is read-only: the next run then reads the files again.

        Args:
          source: `pathlib.Path`, the data set's folder.
          key: `str`, as in `find`.
          stats: what `stats_of` returned before the files were read.
        """
        youngest = max(max(modified, changed) for _, modified, changed in stats.values())
        if youngest > time.time_ns() - _SETTLING_NS:
            return
        note = {"source": str(source), "key": key, "stats": stats, "version": self._version}
        with contextlib.suppress(OSError):
            # A torn note is no JSON, and then `recall` finds nothing.
            self._note_path(source).write_text(json.dumps(note))

    def superseded(self, source, key):
        """Finds the entry that was made of a source folder before it changed.

        It is not removed here: a run that reads it may go on for days, or be continued later.

        Args:
          source: `pathlib.Path`, the data set's folder, before `remember` is told of its new key.
          key: `str`, hash of its content as it is now.

        Returns:
          `pathlib.Path` of the entry; `None` if there is none, or another folder needs it.
        """
        own = self._note_path(source)
        former = _key_in(own)
        others = (_key_in(path) for path in self._seen.iterdir() if path != own)
        if former is None or former == key or former in others:
            return None
        return self.find(former)

    def size(self):
        """Returns the bytes of all converted data sets (`int`)."""
        return size_of(self._entries)

    def _note_path(self, source):
        return self._seen / hashlib.sha256(os.fsencode(source.resolve())).hexdigest()

    @contextlib.contextmanager
    def _clear_errors(self):
        try:
            yield
        except OSError as error:
            raise DatasetError(
                f"the cache {self.folder} cannot be written ({error.strerror}): free some space "
                "or choose another folder with cache_dir or the environment variable "
                "XDG_CACHE_HOME"
            ) from error

    def _publish(self, folder, key):
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

    def _remove_damaged(self, entry):
        # Renamed first, so that no other process sees it half removed.
        with (
            atomic.unfinished_folder(self._entries) as folder,
            contextlib.suppress(FileNotFoundError),
        ):
            os.rename(entry, folder / entry.name)


def size_of(folder):
    """Adds up the sizes of files.

    Args:
      folder: `pathlib.Path`.

    Returns:
      `int`, the bytes of all files below it that do not vanish meanwhile.
    """
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(parent, name)).st_size
    return total


def stats_of(source, names):
    """Looks up what changes when a file changes.

    Args:
      source: `pathlib.Path`, the data set's folder.
      names: iterable of `str`, files relative to it.

    Returns:
      `dict` of name to `[size, mtime_ns, ctime_ns]`.

    Raises:
      OSError: if a file is not there.
    """
    stats = {name: os.stat(source / name) for name in names}
    return {name: [s.st_size, s.st_mtime_ns, s.st_ctime_ns] for name, s in stats.items()}


def _key_in(note_path):
    """The key that a note names, None if it cannot be read."""
    try:
        return json.loads(note_path.read_bytes())["key"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_manifest(folder):
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    (folder / _MANIFEST).write_text(json.dumps(sizes))
