"""COCO's error analysis: how much of the precision is lost to which mistakes.

https://cocodataset.org/#detection-eval, "Analysis code", after Hoiem et al., "Diagnosing Error in
Object Detectors" (ECCV 2012). The original is `analyze` of `CocoEval.m` in COCO's MATLAB API. As in
its Python versions, the only way that pycocotools allows, excused objects are treated as crowds:
what counts is the share of a detection that lies in them, and they excuse any number of detections.
"""

from typing import Any

import numpy as np

from libra_tf.cli.progress import Progress
from libra_tf.evaluation import matching
from libra_tf.evaluation.matching import ALL_SIZES, SIZES, Matches

# Each excuses what the one before it does, and more.
NAMES = ("C75", "C50", "Loc", "Sim", "Oth", "BG", "FN")
_LOC = 0.1


def measure(matches: Matches, progress: Progress | None = None) -> dict[str, Any]:
    """Computes the areas under the precision-recall curves as mistakes are excused one by one.

    `C75` and `C50` are the curves at IoU 0.75 and 0.5. `Loc` excuses bad places: the IoU is 0.1.
    `Sim` excuses detections on objects of the same supercategory too, `Oth` on those of any other
    class. `BG` excuses all other false positives, and `FN`, which is 1, the missed objects.

    Args:
      matches: see `matching.match`.
      progress: shows how far it is.

    Returns:
      The seven areas, in 0..1: `all`, means over the classes; `classes`, by category id; `sizes`,
      means over the classes for `small`, `medium` and `large` objects. `curves` has the mean
      precision at each recall of `matching.RECALLS`. Classes without objects have None and are left
      out of means, whereas COCO's program counts them as 0. Without supercategories `Sim` is `Loc`.
    """
    curves = dict(zip(NAMES, _curves(matches, progress), strict=True))
    all_sizes = {name: curve[..., ALL_SIZES] for name, curve in curves.items()}
    return {
        "all": _areas(all_sizes),
        "classes": {
            category_id: _areas({name: curve[:, k] for name, curve in all_sizes.items()})
            for k, category_id in enumerate(matches.category_ids)
        },
        "sizes": {
            size: _areas({name: curve[..., a] for name, curve in curves.items()})
            for a, size in enumerate(SIZES)
            if size != "all"
        },
        "curves": {name: matching.mean_curve(curve) for name, curve in all_sizes.items()},
    }


def _areas(curves: dict[str, np.ndarray]) -> dict[str, float | None]:
    return {name: matching.mean(curve) for name, curve in curves.items()}


def _curves(matches: Matches, progress: Progress | None) -> list[np.ndarray]:
    """Returns the precision for each of `NAMES`, `[101, K, A]` float64, NaN without objects."""
    precision = matches.precision
    c75, c50, loc = (precision[matching.index_of(threshold)] for threshold in (0.75, 0.5, _LOC))
    other = ~np.eye(len(matches.category_ids), dtype=bool)
    names = matches.supercategories
    similar = np.array([[a is not None and a == b for b in names] for a in names], bool) & other
    sim, oth = (
        matches.precision_excusing(excused, progress) if excused.any() else loc
        for excused in (similar, other)
    )
    undefined = np.isnan(loc)
    bg = np.where(undefined, np.nan, oth > 0)
    fn = np.where(undefined, np.nan, 1.0)
    return [c75, c50, loc, sim, oth, bg, fn]
