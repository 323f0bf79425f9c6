"""The detections in one image, as NumPy arrays."""

import dataclasses
import os
from typing import Any

import numpy as np
from PIL import Image

from libra_tf.api.photographs import Photograph
from libra_tf.cli.errors import UsageError
from libra_tf.inference.answers import Answer


@dataclasses.dataclass(frozen=True, eq=False)
class Detections:
    """The detections in an image, best first.

    Pixels are those of the original image as people see it: a photograph with an EXIF orientation
    is turned upright.

    Attributes:
      boxes: float32 `[N, 4]`, `[ymin, xmin, ymax, xmax]` in pixels.
      scores: float32 `[N]`, in 0..1.
      class_ids: int32 `[N]`, the category ids of the data that the detector was trained on.
      names: `[N]`, the names of these classes.
      masks: float32 `[N, h, w]`, the probability in each cell of a regular grid over the box; None
        if the detector predicts no masks. `to_coco` gives them in pixels of the image.
      height: of the image, in pixels.
      width: of the image, in pixels.
      image: the image. Only a reference is kept: the path of a file, or the caller's own array.
    """

    boxes: np.ndarray
    scores: np.ndarray
    class_ids: np.ndarray
    names: np.ndarray
    masks: np.ndarray | None
    height: int
    width: int
    image: Photograph = dataclasses.field(repr=False)

    def __len__(self) -> int:
        return len(self.scores)

    def draw(
        self, path: str | os.PathLike[str] | None = None, threshold: float = 0.4
    ) -> Image.Image:
        """Draws the detections on their image.

        Args:
          path: where to write the picture too; its suffix is the format. None to write nothing.
          threshold: detections with a lower score are not drawn.

        Returns:
          The picture.

        Raises:
          UsageError: if the image cannot be read any more, or the picture cannot be written.
        """
        picture = self._answer().draw_on(self.image.open(), threshold)
        if path is not None:
            try:
                picture.save(path)
            except (OSError, ValueError) as error:
                raise UsageError(f"path={path} cannot be written ({error})") from error
        return picture

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Converts the detections to COCO's results format.

        Args:
          image_id: the image's id in the annotations.

        Returns:
          For each detection `image_id`, `category_id`, `bbox` (`[x, y, width, height]` in pixels),
          `score`, and `segmentation` (run-length encoded, in pixels of the image) if there are
          masks.
        """
        # Imported here because it imports Model Garden.
        from libra_tf.inference import coco_results

        results = coco_results.to_results(self._answer(), image_id, file_name="")
        # The format has no file names.
        return [{k: v for k, v in result.items() if k != "file_name"} for result in results]

    def _answer(self) -> Answer:
        return Answer(
            self.height,
            self.width,
            self.boxes,
            self.scores,
            self.class_ids,
            self.names,
            self.masks,
        )


def of_answer(answer: Answer, image: Photograph) -> Detections:
    """Returns what a detector answered about an image."""
    return Detections(
        answer.boxes,
        answer.scores,
        answer.category_ids,
        answer.names,
        answer.masks,
        answer.height,
        answer.width,
        image,
    )
