"""What is measured on an accelerator, the most important first."""

import dataclasses
import itertools

DETECTORS = ("retinanet", "fasterrcnn")
OWNERS = ("ours", "model_garden")
BATCHES = (1, 2, 16)
SIZES = (640, 1024)
DTYPES = ("float32", "bfloat16")
WORKS = ("training", "inference")
# Positions of a map of 64x64, the largest whose affinities are kept as a whole, and of the finest
# level of an 800x1333 image.
MAPS = ((64, 64), (200, 336))
# Anchors of Faster R-CNN's RPN at 640x640 and at 1024x1024.
ANCHORS = (102_300, 261_888)
PROPOSALS = (1000, 2000)


@dataclasses.dataclass(frozen=True)
class Case:
    """A program to lower.

    Attributes:
      what: a detector, or a part of one: "non_local", "roi_sampler" or "rpn_sampler".
      whose: "ours" or "model_garden".
      work: "training" (forward, losses, gradients, update), "inference", or for the non-local block
        "gradients" (forward and backward), for a sampler "sampling".
      size: height and width of the image, or (height, width) of the map, or the number of boxes.
      batch: images per call.
      dtype: "float32", or "bfloat16" with float32 weights.
      scale: the end of the experiment's name, "resnetfpn_coco" or "demo"; empty without one.
      reference_calls: how often TensorFlow calls it here, to compare figures with the device.
    """

    what: str
    whose: str
    work: str
    size: int | tuple[int, int]
    batch: int = 1
    dtype: str = "float32"
    scale: str = ""
    reference_calls: int = 0

    @property
    def name(self) -> str:
        """The name of the case, which says what it measures."""
        size = "x".join(map(str, self.size)) if isinstance(self.size, tuple) else str(self.size)
        model = f"{self.what}_demo" if self.scale == "demo" else self.what
        return f"{model}-{self.whose}-{self.work}-{size}-b{self.batch}-{self.dtype}"


def _detectors(
    work: str,
    size: int,
    batch: int,
    dtype: str,
    scale: str = "resnetfpn_coco",
    reference_calls: int = 0,
) -> list[Case]:
    return [
        Case(
            what,
            whose,
            work,
            size,
            batch,
            dtype,
            scale,
            0 if _draws_anew(what, whose, work) else reference_calls,
        )
        for what, whose in itertools.product(DETECTORS, OWNERS)
    ]


def _draws_anew(what: str, whose: str, work: str) -> bool:
    """Returns whether a case has random numbers of its own: Model Garden's RoI sampler does."""
    return (what, whose, work) == ("fasterrcnn", "model_garden", "training")


def _parts() -> list[Case]:
    kept, huge = MAPS
    return [
        *(Case("non_local", "ours", "gradients", kept, dtype=d, reference_calls=1) for d in DTYPES),
        *(Case("non_local", "ours", "gradients", huge, dtype=d) for d in DTYPES),
        *(
            # Model Garden's draws random numbers of its own on each device.
            Case("roi_sampler", whose, "sampling", boxes, 2, reference_calls=int(whose == "ours"))
            for boxes, whose in itertools.product(PROPOSALS, OWNERS)
        ),
        *(Case("rpn_sampler", "ours", "sampling", n, 2, reference_calls=1) for n in ANCHORS),
    ]


def _in_order() -> list[Case]:
    first = [
        _detectors("training", 640, 2, "float32"),
        _detectors("training", 640, 16, "bfloat16"),
        _parts(),
        _detectors("inference", 640, 1, "float32", reference_calls=1),
        _detectors("inference", 640, 16, "bfloat16"),
        _detectors("training", 1024, 16, "bfloat16"),
        # Larger ones take TensorFlow too long on a CPU.
        _detectors("training", 640, 1, "float32", reference_calls=2),
        _detectors("training", 640, 1, "bfloat16", reference_calls=2),
    ]
    others = (_detectors(*setting) for setting in itertools.product(WORKS, SIZES, BATCHES, DTYPES))
    # Those that came first do not come again.
    by_name = {case.name: case for case in itertools.chain.from_iterable([*others, *first])}
    names = dict.fromkeys(case.name for case in itertools.chain(*first, by_name.values()))
    return [by_name[name] for name in names]


CASES = _in_order()
# Small enough to run on a CPU.
DEMOS = [
    case
    for work, calls in (("training", 5), ("inference", 1))
    for dtype in DTYPES
    for case in _detectors(work, 128, 2, dtype, "demo", calls)
]
