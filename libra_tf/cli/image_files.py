"""Images that are named on a command line: files, folders and patterns."""

import dataclasses
import glob
import os
import pathlib
from collections.abc import Sequence

from libra_tf.cli.errors import UsageError

SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclasses.dataclass(frozen=True)
class ImageFile:
    """A file to send.

    Attributes:
      path: where it is.
      name: relative to the folder that was named, or the name alone.
    """

    path: pathlib.Path
    name: pathlib.PurePath


def find(arguments: Sequence[str]) -> list[ImageFile]:
    """Lists the images that are meant, each once.

    Args:
      arguments: files, which are taken whatever their name; folders, of which all JPEG and PNG
        files are taken, with subfolders; patterns such as `images/**/*.jpg`.

    Returns:
      The images, those of an argument in the order of their names.

    Raises:
      UsageError: if there are none, or an argument stands for none.
    """
    if not arguments:
        raise UsageError("no images: name files, folders or patterns such as 'images/*.jpg'")
    found = {}
    for argument in arguments:
        paths = (
            [argument] if os.path.exists(argument) else sorted(glob.glob(argument, recursive=True))
        )
        images = [image for path in paths for image in _images(pathlib.Path(path))]
        if not paths:
            raise UsageError(f"{argument} does not exist: name files, folders or patterns")
        if not images:
            raise UsageError(f"{argument} holds no file that ends in {', '.join(SUFFIXES)}")
        for image in images:
            found.setdefault(os.path.realpath(image.path), image)
    return list(found.values())


def name_pictures(images: Sequence[ImageFile], folder: str) -> list[pathlib.Path]:
    """Gives each image a file of its own in a folder, under its name as far as that is free.

    Raises:
      UsageError: if a picture would replace an image.
    """
    sources = {os.path.realpath(image.path) for image in images}
    taken, targets = set(), []
    for image in images:
        # A name that Pillow cannot write stands for a JPEG or PNG all the same.
        suffix = image.name.suffix if image.name.suffix.lower() in SUFFIXES else ".png"
        stem, number = image.name.with_suffix(""), 1
        target = pathlib.Path(folder, f"{stem}{suffix}")
        while target in taken:
            number += 1
            target = pathlib.Path(folder, f"{stem}_{number}{suffix}")
        taken.add(target)
        if os.path.realpath(target) in sources:
            raise UsageError(
                f"--pictures={folder} would replace the image {target}; name another folder"
            )
        targets.append(target)
    return targets


def _images(path: pathlib.Path) -> list[ImageFile]:
    if path.is_dir():
        inside = (pathlib.Path(root, name) for root, _, names in os.walk(path) for name in names)
        return [
            ImageFile(file, file.relative_to(path))
            for file in sorted(inside)
            if file.suffix.lower() in SUFFIXES
        ]
    if not path.is_file():
        raise UsageError(f"{path} is neither a file nor a folder")
    return [ImageFile(path, pathlib.PurePath(path.name))]
