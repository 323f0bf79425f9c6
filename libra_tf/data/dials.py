"""The dials of the built-in data set: one for each imbalance of the paper, and one for classes."""

import dataclasses
import math
import numbers


@dataclasses.dataclass(frozen=True)
class Dials:
    """How much of each imbalance the images have: from 0, which adds nothing, to 1.

    `class_ratio` is a number from 1 on instead, and 1 adds nothing.

    Attributes:
      look_alikes: of the samples (paper section 3.1). The probability that an object gets a
        look-alike: a thing like an object, but with a piece missing or a point too few, and without
        an annotation. Their boxes overlap, because IoU-balanced sampling finds hard negatives by
        their overlap with an object.
      size_spread: of the features (section 3.2). How far sizes move from the middle of their range
        to its ends: at 1, by four fifths of the way. The range stays.
      unclear_borders: of the objective (section 3.3). How soft the edges are, up to a standard
        deviation of 6% of the object's size, and the probability that a bar hides one side of an
        object. The annotated box is still the whole object's. At least half of it stays visible.
      class_ratio: of the classes, which the paper does not treat. How many objects of the first
        class there are for one of the last, on average; from class to class, the numbers fall by
        the same factor. Only training images have it: so the validation images are the same for all
        ratios, and have as many objects of each class, as the balanced test sets of Liu et al.,
        "Large-Scale Long-Tailed Recognition in an Open World", CVPR 2019. With few objects of a
        rare class, its average precision would be little more than chance.

    Raises:
      ValueError: if a dial is out of its range.
    """

    look_alikes: float = 0.0
    size_spread: float = 0.0
    unclear_borders: float = 0.0
    class_ratio: float = 1.0

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if name == "class_ratio":
                if not isinstance(value, numbers.Real) or not 1 <= value < math.inf:
                    raise ValueError(f"{name} must be a number from 1 on, got {value!r}")
            elif not isinstance(value, numbers.Real) or not 0 <= value <= 1:
                raise ValueError(f"{name} must be a number from 0 to 1, got {value!r}")

    def turned(self) -> dict[str, float]:
        """Returns the dials that add something, by name."""
        added = dataclasses.asdict(self)
        if self.class_ratio == 1:
            del added["class_ratio"]
        return {name: float(value) for name, value in added.items() if value}

    def of_split(self, split: str) -> "Dials":
        """Returns the dials that a split is drawn with.

        Args:
          split: `train` or `val`.
        """
        return self if split == "train" else dataclasses.replace(self, class_ratio=1.0)

    def class_shares(self, num_classes: int) -> list[float]:
        """Returns the share of each class among the objects of the training images, on average.

        Args:
          num_classes: how many classes there are, at least 2.
        """
        parts = [self.class_ratio ** (-k / (num_classes - 1)) for k in range(num_classes)]
        return [part / sum(parts) for part in parts]


AT_ZERO = Dials()
