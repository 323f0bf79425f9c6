"""Detection in videos: reads one, or a folder of frames, and writes one with the detections drawn.

PyAV reads and writes them; it is an optional extra: `pip install '.[video]'`.
"""

import contextlib
import fractions
import itertools
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from libra_tf import atomic
from libra_tf.cli.errors import UsageError, first_line
from libra_tf.data.images import png_of
from libra_tf.inference import answers
from libra_tf.inference.answers import Answer
from libra_tf.inference.detecting import Detector
from libra_tf.inference.drawing import to_8_bits
from libra_tf.inference.errors import RefusedError

if TYPE_CHECKING:
    import av

_CODEC = "libx264"
# In the metadata of a video, to tell it from others.
_MADE_BY = "libra-tf predict"


class Video:
    """The frames of a video file, or of image files in their order.

    Args:
      frames: yields each frame, RGB.
      frames_per_second: how fast they are shown.
      length: number of frames; None if the file does not say it.
    """

    def __init__(
        self,
        frames: Iterable[Image.Image],
        frames_per_second: fractions.Fraction,
        length: int | None,
    ) -> None:
        self.frames = frames
        self.frames_per_second = frames_per_second
        self.length = length


@contextlib.contextmanager
def opened(path: pathlib.Path) -> Iterator[Video]:
    """Opens a video file.

    Args:
      path: the file.

    Yields:
      Its frames, as a player shows them.

    Raises:
      UsageError: if PyAV is not installed, or the file is no video; while it is read, if it is
        damaged.
    """
    av = import_av()
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError) as error:
        raise UsageError(f"{path} cannot be read as a video: {first_line(error)}") from error
    with container:
        if not container.streams.video:
            raise UsageError(f"{path} has no pictures: name a video")
        stream = container.streams.video[0]
        frames = _decoded(container, stream, path)
        yield Video(frames, stream.average_rate or fractions.Fraction(25), stream.frames or None)


def _decoded(
    container: "av.container.InputContainer", stream: "av.VideoStream", path: pathlib.Path
) -> Iterator[Image.Image]:
    av = import_av()
    done = 0
    try:
        for frame in container.decode(stream):
            image = frame.to_image()
            done += 1
            # Phones store portrait videos lying on their side.
            yield image.rotate(frame.rotation, expand=True) if frame.rotation else image
    except av.FFmpegError as error:
        raise UsageError(
            f"{path} is damaged after frame {done} ({first_line(error)}): repair or cut it"
        ) from error


def of_images(paths: Sequence[pathlib.Path], frames_per_second: int) -> Video:
    """Makes a video of image files, turned upright by their EXIF orientation.

    Args:
      paths: the files, in their order. All frames get the size of the first.
      frames_per_second: how fast they are shown.
    """
    rate = fractions.Fraction(frames_per_second)
    return Video((_read(path) for path in paths), rate, len(paths))


def detect(
    video: Video, detector: Detector, batch_size: int, is_normalized: bool
) -> Iterator[tuple[Image.Image, Answer]]:
    """Yields each frame of a video with the detections in it.

    Args:
      video: the video.
      detector: see `local.open_detector`.
      batch_size: frames in one batch.
      is_normalized: whether the detector gives boxes as fractions of the frame's size.

    Raises:
      UsageError: if the detector refuses a frame.
    """
    frames, done = iter(video.frames), 0
    while batch := list(itertools.islice(frames, batch_size)):
        try:
            outputs = detector.predict([png_of(frame) for frame in batch])
        except RefusedError as refusal:
            position, problem = next(iter(refusal.problems.items()))
            raise UsageError(f"frame {done + position + 1} {problem}") from refusal
        done += len(batch)
        yield from zip(batch, answers.from_outputs(outputs, is_normalized), strict=True)


class _WithoutFrameError(Exception):
    """The block that writes a video has failed before the first frame."""


@contextlib.contextmanager
def writer(path: pathlib.Path, frames_per_second: fractions.Fraction) -> Iterator["Writer"]:
    """Writes a video (H.264) that appears under its name when the block ends.

    If the block fails or is interrupted, the video has the frames until then; without any frame,
    there is none.

    Args:
      path: the file, MP4.
      frames_per_second: how fast the frames are shown.

    Raises:
      UsageError: if PyAV is not installed or lacks the codec, or the file cannot be written.
    """
    av = import_av()
    failure = None
    with (
        contextlib.suppress(_WithoutFrameError),
        _explaining(path),
        atomic.unfinished_file(str(path)) as unfinished,
        av.open(unfinished, "w", format="mp4") as container,
    ):
        container.metadata["comment"] = _MADE_BY
        video = Writer(path, container, frames_per_second)
        try:
            yield video
        except BaseException as error:
            failure = error
            if not video.is_begun:
                # Leaves no file, and no error about one.
                raise _WithoutFrameError from error
        video.finish()
    if failure:
        raise failure


def check_may_replace(path: pathlib.Path) -> None:
    """Refuses to replace a file unless `writer` has made it.

    Args:
      path: where a video is to be written.

    Raises:
      UsageError: if there is another file; the message names it.
    """
    av = import_av()
    if not path.exists():
        return
    try:
        with av.open(str(path)) as container:
            is_own = container.metadata.get("comment") == _MADE_BY
    except (av.FFmpegError, OSError):
        is_own = False
    if not is_own:
        raise UsageError(
            f"the video would replace {path}, which is not marked as a result of this command "
            "(earlier versions did not mark theirs); move it, or name another folder with "
            "--output_dir"
        )


@contextlib.contextmanager
def _explaining(path: pathlib.Path) -> Iterator[None]:
    """Turns what keeps a video from being written into one clear error."""
    av = import_av()
    try:
        yield
    except (OSError, av.FFmpegError, av.codec.codec.UnknownCodecError) as error:
        raise UsageError(
            f"{path} cannot be written as a video ({first_line(error)}); it needs room on the "
            f"disk, and PyAV with the codec {_CODEC}: pip install av"
        ) from error


class Writer:
    """Adds frames to a video; see `writer`.

    Attributes:
      is_begun: whether there is a frame.
    """

    def __init__(
        self,
        path: pathlib.Path,
        container: "av.container.OutputContainer",
        frames_per_second: fractions.Fraction,
    ) -> None:
        self._path = path
        self._container = container
        self._stream = container.add_stream(_CODEC, rate=frames_per_second)
        self._stream.pix_fmt = "yuv420p"
        self.is_begun = False

    def add(self, picture: Image.Image) -> None:
        """Adds a frame; the first one sets the size of all.

        Raises:
          UsageError: if it cannot be written.
        """
        av = import_av()
        if not self.is_begun:
            # H.264 halves the resolution of colours, so it needs even sizes.
            self._stream.width = picture.width + picture.width % 2
            self._stream.height = picture.height + picture.height % 2
            self.is_begun = True
        size = (self._stream.width, self._stream.height)
        frame = av.VideoFrame.from_image(picture if picture.size == size else picture.resize(size))
        with _explaining(self._path):
            self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        """Writes what the codec has kept."""
        if self.is_begun:
            self._container.mux(self._stream.encode())


def import_av() -> "av":
    """Imports PyAV, which is an optional extra.

    Raises:
      UsageError: if it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise UsageError(
            "videos need PyAV, which is not installed: pip install 'libra-tf[video]', or "
            "pip install av"
        ) from error
    return av


def _read(path: pathlib.Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(to_8_bits(image)).convert("RGB")
    # Pillow's readers raise all sorts of errors for damaged files.
    except Exception as error:
        raise UsageError(f"{path} cannot be read as an image: {first_line(error)}") from error
