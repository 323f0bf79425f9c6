"""A trained detector, and how to open one."""

import functools
import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import rich.console

from libra_tf.api import errors
from libra_tf.api.photographs import Photograph, Source, is_single, photographs
from libra_tf.cli import quiet
from libra_tf.cli.errors import UsageError
from libra_tf.cli.flags import PRECISIONS

if TYPE_CHECKING:
    from libra_tf.api.detections import Detections
    from libra_tf.inference.local import LocalDetector
    from libra_tf.inference.tflite_detector import TFLiteDetector


def load(
    model: str | os.PathLike[str],
    checkpoint: str | None = None,
    precision: str | None = None,
    max_pixels: int | None = None,
) -> "Detector":
    """Opens a trained detector.

    Args:
      model: folder of a run; folder of a SavedModel, or of its versions, of which the newest is
        used; or a TensorFlow Lite file.
      checkpoint: a checkpoint of the run, such as `ckpt-9000`, or `best` for the one with the best
        result; None for the newest.
      precision: what the network of a run computes in: `auto`, `float32` or `bfloat16`; None for
        that of the run's evaluations.
      max_pixels: images with more pixels are refused; None for 25 million, or for the limit that a
        SavedModel was exported with.

    Returns:
      The detector.

    Raises:
      UsageError: if `model` is none of these or cannot be loaded, or does not take one of the other
        arguments.
    """
    model = os.fspath(model)
    if not os.path.exists(model):
        raise UsageError(
            f"model={model}: there is no such file or folder; name the folder of a run or of a "
            "SavedModel, or a .tflite file"
        )
    if precision not in (None, *PRECISIONS):
        raise UsageError(f"precision={precision} must be one of {', '.join(PRECISIONS)}")
    detector = Detector(model, checkpoint, precision, max_pixels)
    # Opens it, so that what is wrong is said here.
    _ = detector.class_names
    return detector


class Detector:
    """A trained detector, as `libra_tf.load` and `libra_tf.train` return it.

    Its network is loaded when it is first used.

    Args:
      model: see `load`.
      checkpoint: see `load`.
      precision: see `load`.
      max_pixels: see `load`.

    Attributes:
      model: where it is: the argument.
    """

    def __init__(
        self,
        model: str,
        checkpoint: str | None = None,
        precision: str | None = None,
        max_pixels: int | None = None,
    ) -> None:
        self.model = model
        self._checkpoint = checkpoint
        self._precision = precision
        self._max_pixels = max_pixels

    def __repr__(self) -> str:
        return f"<libra_tf detector {self.model}>"

    @property
    def class_names(self) -> dict[int, str]:
        """The names of the classes that it detects, by category id."""
        return dict(self._network.class_names)

    @property
    def results(self) -> dict[str, Any] | None:
        """What the run's `results.json` holds: its newest evaluation, and all `evaluations`.

        None for an export, and for a run that was never evaluated.
        """
        # Imported here because it is slow.
        from libra_tf.runs.folder import RunFolder

        with errors.of_arguments():
            return RunFolder(self.model).read_results()

    def predict(
        self, images: Source | Iterable[Source], batch_size: int = 1
    ) -> "Detections | list[Detections] | Iterator[Detections]":
        """Detects objects in images.

        Photographs with an EXIF orientation are turned upright, and boxes are in pixels of the
        upright image.

        Args:
          images: a file (JPEG, PNG, BMP, GIF, TIFF or WebP), an array (uint8, `[height, width, 3]`,
            RGB) or a Pillow image; or several: a folder with its subfolders, a pattern such as
            `photos/*.jpg`, an array `[number, height, width, 3]`, or any iterable of files,
            folders, patterns, arrays and Pillow images.
          batch_size: how many images the network computes at once.

        Returns:
          `Detections` for one image, and a list of them for several. For an iterator, such as a
          generator, an iterator: only one batch of images is in memory at a time.

        Raises:
          UsageError: if an image cannot be read or is refused; the message names its path or place.
        """
        if not isinstance(batch_size, int) or batch_size < 1:
            raise UsageError(f"batch_size={batch_size} must be a whole number of at least 1")
        found = self._detect(photographs(images), batch_size)
        if is_single(images):
            return next(found)
        return found if isinstance(images, Iterator) else list(found)

    def evaluate(
        self,
        dataset: str | os.PathLike[str],
        batch_size: int = 8,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> dict[str, float]:
        """Measures the average precision on a folder's validation images.

        Args:
          dataset: the folder, in any layout that training takes. It is checked and converted unless
            that is done already. Of a folder with one split only all images count, unless the run
            was trained on it: then those that were set aside.
          batch_size: how many images the network computes at once.
          cache_dir: folder for converted data sets; None for the default.

        Returns:
          `AP`, `AP50`, `AP75`, and by size `APs`, `APm` and `APl`, in 0..1, as pycocotools measures
          them; -1 where there is no object. The same with `mask_` before it, if the detector and
          the folder have masks.

        Raises:
          DatasetError: if the folder cannot be used.
          UsageError: if the detector does not know one of its classes.
        """
        network = self._network
        # Imported here because it is slow.
        from libra_tf.api import evaluation
        from libra_tf.runs.folder import RunFolder

        with errors.of_arguments(), quiet.libraries_silenced():
            val_share = RunFolder(self.model).evaluated_share(os.fspath(dataset))
            return evaluation.evaluate(
                network, dataset, batch_size, cache_dir, console(), val_share
            )

    def export(
        self,
        export_dir: str | os.PathLike[str],
        score_thresholds: Mapping[str | int, float] | None = None,
    ) -> str:
        """Exports the detector of a run as a SavedModel, for TensorFlow Serving and `load`.

        The network computes in the precision that was given to `load`, in float32 if none was.

        Args:
          export_dir: folder of the model's versions; a new one is added.
          score_thresholds: class, by its name or category id -> the score below which its
            detections are dropped; None, like a class that is not there, for the run's threshold.

        Returns:
          The path of the version's folder, such as `served/cells/1`.

        Raises:
          UsageError: if the detector is not that of a run, it cannot be exported, it has no such
            class, a threshold is not in 0..1, or the folder cannot be written.
        """
        with errors.of_arguments(), quiet.libraries_silenced():
            # Imported here because it is slow.
            from libra_tf.runs.folder import PARAMS
            from libra_tf.serving import saved_model

            if not os.path.exists(os.path.join(self.model, PARAMS)):
                raise UsageError(
                    f"{self.model} is an export already; load the run that it was made from"
                )
            return saved_model.export(
                self.model,
                os.fspath(export_dir),
                checkpoint=self._checkpoint,
                max_pixels=self._max_pixels or saved_model.images.MAX_PIXELS,
                asked_precision=self._precision or saved_model.precision.FLOAT32,
                report=functools.partial(console().print, highlight=False, soft_wrap=True),
                score_thresholds=score_thresholds,
            )

    @functools.cached_property
    def _network(self) -> "LocalDetector | TFLiteDetector":
        with errors.of_arguments(), quiet.libraries_silenced():
            # Imported here because it is slow: wrong arguments are answered at once.
            from libra_tf.inference import local

            return local.open_detector(
                self.model, self._checkpoint, self._max_pixels, self._precision
            )

    def _detect(self, images: Iterator[Photograph], batch_size: int) -> "Iterator[Detections]":
        from libra_tf.api.detections import of_answer
        from libra_tf.inference import answers
        from libra_tf.inference.errors import RefusedError

        while batch := list(itertools.islice(images, batch_size)):
            encoded = [image.encoded() for image in batch]
            try:
                # The first call builds the network's graph, and Keras has warnings about it.
                with quiet.libraries_silenced():
                    outputs = self._network.predict(encoded)
            except RefusedError as error:
                problems = [f"{batch[i].name} {what}" for i, what in sorted(error.problems.items())]
                raise UsageError("; ".join(problems)) from error
            found = answers.from_outputs(outputs, self._network.normalized_boxes)
            yield from map(of_answer, found, batch)


def console() -> rich.console.Console:
    """Returns where progress is shown: a terminal, a notebook or a file."""
    # Kept, because libraries' output is redirected while they work.
    return rich.console.Console(file=sys.stdout)
