"""Where the programs write what they make."""

from libra_tf.cli.errors import UsageError


def require_local(flag: str, path: str) -> None:
    """Refuses the address of a store elsewhere, of which a folder `gs:` would be made here.

    Args:
      flag: the flag that names it, such as `--output_dir`.
      path: of a file or a folder.

    Raises:
      UsageError: if it is one.
    """
    if "://" in path:
        raise UsageError(
            f"{flag}={path} is not on this machine; name a local path, and copy from there"
        )
