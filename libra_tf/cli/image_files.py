"""Images named on a command line: files, folders and patterns."""

import dataclasses
import glob
import os
import pathlib
from collections.abc import Sequence

from libra_tf.cli.errors import UsageError

# The formats that training takes.
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
VIDEO_SUFFIXES = (".mp4", ".m4v", ".avi", ".mov", ".mkv", ".webm")
# Those in which a picture with detections is written; GIF would lose colours.
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclasses.dataclass(frozen=True)
class ImageFile:
    """An image file.

    Attributes:
      path: where it is.
      name: its name, relative to the folder that the command line names, if it names one.
    """

    path: pathlib.Path
    name: pathlib.PurePath


def find(arguments: Sequence[str]) -> list[ImageFile]:
    """Lists the images that the arguments name, each once.

    Args:
      arguments: files, whatever their names; folders, in which all files with one of `SUFFIXES`
        count, including those in subfolders; patterns such as `images/**/*.jpg`.

    Returns:
      The images, in the order of the arguments; those of one argument are sorted by name.

    Raises:
      UsageError: if there are no images, or an argument names none.
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
    """Chooses a file in a folder for the picture of each image, with the image's name if possible.

    Args:
      images: the images.
      folder: where the pictures will be.

    Returns:
      A path for each image, all different.

    Raises:
      UsageError: if a picture would replace an image.
    """
    sources = {os.path.realpath(image.path) for image in images}
    taken, targets = set(), []
    for image in images:
        # Pillow chooses the format by the suffix, and the image may have any.
        suffix = image.name.suffix
        suffix = suffix if suffix.lower() in PICTURE_SUFFIXES else ".png"
        stem, number = image.name.with_suffix(""), 1
        target = pathlib.Path(folder, f"{stem}{suffix}")
        while target in taken:
            number += 1
            target = pathlib.Path(folder, f"{stem}_{number}{suffix}")
        taken.add(target)
        if os.path.realpath(target) in sources:
            raise UsageError(
                f"{folder}: a picture there would replace the image {target}; name another folder"
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
