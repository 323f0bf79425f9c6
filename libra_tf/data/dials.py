"""The dials of the built-in data set: one for each imbalance that the paper describes."""

import dataclasses
import numbers


@dataclasses.dataclass(frozen=True)
class Dials:
    """How much of each imbalance the images have: from 0, which adds nothing, to 1.

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

    Raises:
      ValueError: if a dial is not a number in [0, 1].
    """

    look_alikes: float = 0.0
    size_spread: float = 0.0
    unclear_borders: float = 0.0

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not isinstance(value, numbers.Real) or not 0 <= value <= 1:
                raise ValueError(f"{name} must be a number from 0 to 1, got {value!r}")

    def turned(self) -> dict[str, float]:
        """Returns the dials that are not at 0, by name."""
        return {name: float(value) for name, value in dataclasses.asdict(self).items() if value}


AT_ZERO = Dials()
