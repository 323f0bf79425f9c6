"""The files of a split, as Model Garden reads its `input_path`."""

from collections.abc import Sequence

import tensorflow as tf


def find(input_path: str | Sequence[str] | None) -> dict[str, list[str]]:
    """Looks for the files of a split.

    Args:
      input_path: a pattern, several with commas between them, or a list of either.

    Returns:
      For each pattern its files in order, which may be none.
    """
    texts = [input_path] if isinstance(input_path, str) else input_path or ()
    patterns = [pattern.strip() for text in texts for pattern in text.split(",")]
    return {pattern: _matching(pattern) for pattern in patterns if pattern}


def _matching(pattern: str) -> list[str]:
    # Nothing else is expanded there: brackets belong to the name.
    if "*" in pattern or "?" in pattern:
        return sorted(tf.io.gfile.glob(pattern))
    return [pattern] if tf.io.gfile.exists(pattern) else []
