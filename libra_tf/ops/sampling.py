"""Choice of training samples, the sample level of Libra R-CNN (section 3.1 of the paper).

Every function here draws a random subset of a given size from each row: all of it at random
(`sample_random`), or evenly over groups first and the rest at random (by IoU, by instance, by
class). A `Pool` describes what to draw; `libra_tf.ops.pools` draws it.
"""

import dataclasses

import tensorflow as tf

from libra_tf.ops import pools, shares

BIN_RANGES = ("candidates", "all")


@dataclasses.dataclass(frozen=True)
class IoUBins:
    """How IoU-balanced sampling splits the candidates of a row by their IoU.

    Candidates with an IoU below `floor_threshold` form the floor. The others fall into `num_bins`
    bins of equal width, from `floor_threshold` (or 0) up to the end that `bin_range` chooses.

    Attributes:
      num_bins: the number of bins, at least 1.
      floor_threshold: candidates below this IoU form the floor, in [0, 1); with 0, those at exactly
        0 do; -1 for no floor.
      floor_fraction: the share of the samples to take from the floor, in [0, 1].
      bin_range: "candidates" or "all", see `sample_iou_balanced`.
      iou_limit: where the bins of "candidates" end; None for the largest IoU of a candidate.

    Raises:
      ValueError: if an attribute is outside its range, or `iou_limit` is given with `bin_range`
        "all".
    """

    num_bins: int = 3
    floor_threshold: float = -1.0
    floor_fraction: float = 0.0
    bin_range: str = "candidates"
    iou_limit: float | None = None

    def __post_init__(self) -> None:
        if self.num_bins < 1:
            raise ValueError(f"`num_bins` must be at least 1, got {self.num_bins}.")
        if self.floor_threshold != -1 and not 0 <= self.floor_threshold < 1:
            raise ValueError(
                "`floor_threshold` must be an IoU in [0, 1), or -1 for no floor, got "
                f"{self.floor_threshold}."
            )
        if not 0 <= self.floor_fraction <= 1:
            raise ValueError(f"`floor_fraction` must be in [0, 1], got {self.floor_fraction}.")
        if self.bin_range not in BIN_RANGES:
            raise ValueError(f"`bin_range` must be one of {BIN_RANGES}, got {self.bin_range!r}.")
        if self.iou_limit is None:
            return
        if self.bin_range != "candidates":
            raise ValueError(
                "`iou_limit` ends the bins where `bin_range` is 'candidates'; leave it out for "
                f"{self.bin_range!r}."
            )
        if self.iou_limit <= self.bottom:
            raise ValueError(
                f"`iou_limit` must be above {self.bottom}, where the bins begin, got "
                f"{self.iou_limit}."
            )

    @property
    def bottom(self) -> float:
        """The IoU at which the first bin begins."""
        return max(self.floor_threshold, 0.0)


def sample_random(
    candidates: tf.Tensor, num_samples: int | tf.Tensor, seed: pools.Seed | None = None
) -> tf.Tensor:
    """Samples candidates uniformly at random.

    Args:
      candidates: bool `[B, N]`, what may be sampled.
      num_samples: how many to sample per row: an int for all rows, or int `[B]`.
      seed: an int or int `[2]` gives the same draw every time, compiled or not. None gives a new
        draw every time, which `tf.random.set_seed` makes repeatable.

    Returns:
      bool `[B, N]`, True for exactly min(`num_samples`, number of candidates) elements of each row,
      all of them candidates.

    Raises:
      ValueError: if `candidates` is not a bool tensor of rank 2.
    """
    candidates = _validated_candidates(candidates)
    return pools.draw_once(candidates, _per_row(candidates, num_samples), seed)


def sample_iou_balanced(
    max_ious: tf.Tensor,
    candidates: tf.Tensor,
    num_samples: int | tf.Tensor,
    num_bins: int = 3,
    floor_threshold: float = -1.0,
    floor_fraction: float = 0.0,
    bin_range: str = "candidates",
    iou_limit: float | None = None,
    seed: pools.Seed | None = None,
) -> tf.Tensor:
    """Samples candidates (negatives) evenly over the range of their IoUs.

    The range is split into `num_bins` bins of equal width, and every bin gives the same number of
    samples. A bin with too few candidates gives all it has, and the shortfall is drawn at random
    from the other candidates (equation 2 of the paper). Candidates with an IoU below
    `floor_threshold` can be kept out of the bins. About `floor_fraction` of the samples are then
    taken from them at random, and more if the other candidates do not suffice, as in MMDetection.

    Args:
      max_ious: float `[B, N]`, the largest IoU of each box with any instance. NaN counts as 0.
      candidates: bool `[B, N]`, what may be sampled.
      num_samples: how many to sample per row: an int for all rows, or int `[B]`.
      num_bins: the number K of bins, at least 1.
      floor_threshold: an IoU in [0, 1), or -1. Positive: candidates with a lower IoU form the
        floor. 0: candidates with an IoU of exactly 0 do. -1: there is no floor, and all candidates
        are balanced.
      floor_fraction: the share of the samples to take from the floor, in [0, 1].
      bin_range: "candidates" (the paper): the bins end at `iou_limit`. "all" (MMDetection): they
        end at the largest IoU in the row, candidate or not. With ground truth among the boxes that
        is 1, so negatives fill only the lower bins.
      iou_limit: where the bins end, such as the IoU below which a box is negative; must be above
        their lower end, which is `floor_threshold` or 0. The last bin also holds any higher IoU.
        None: the bins end at the largest IoU of a candidate in the row.
      seed: as in `sample_random`.

    Returns:
      bool `[B, N]`, True for exactly min(`num_samples`, number of candidates) elements of each row,
      all of them candidates.

    Raises:
      ValueError: if an argument is outside its range, `candidates` is not a bool tensor of rank 2,
        or `iou_limit` is given with `bin_range` "all".
    """
    bins = IoUBins(num_bins, floor_threshold, floor_fraction, bin_range, iou_limit)
    return draw_iou_balanced(max_ious, candidates, num_samples, bins, seed)


def draw_iou_balanced(
    max_ious: tf.Tensor,
    candidates: tf.Tensor,
    num_samples: int | tf.Tensor,
    bins: IoUBins,
    seed: pools.Seed | None = None,
) -> tf.Tensor:
    """Same as `sample_iou_balanced`, but takes the bins as `IoUBins`.

    Args:
      max_ious: as in `sample_iou_balanced`.
      candidates: as in `sample_iou_balanced`.
      num_samples: as in `sample_iou_balanced`.
      bins: how to bin the candidates.
      seed: as in `sample_random`.

    Returns:
      As `sample_iou_balanced`.

    Raises:
      ValueError: if `candidates` is not a bool tensor of rank 2.
    """
    candidates = _validated_candidates(candidates)
    return pools.draw_mask(iou_pool(max_ious, candidates, num_samples, bins), seed)


def sample_instance_balanced(
    instance_ids: tf.Tensor,
    candidates: tf.Tensor,
    num_samples: int | tf.Tensor,
    max_instances: int | tf.Tensor,
    seed: pools.Seed | None = None,
) -> tf.Tensor:
    """Samples candidates (positives) evenly over the instances they belong to.

    Each of the n instances that have candidates gives round(`num_samples` / n) + 1 of its own at
    random. Samples beyond `num_samples` are dropped at random, and a shortfall is drawn at random
    from the other candidates (section 3.1 of the paper; the rounding is MMDetection's).

    Args:
      instance_ids: int `[B, N]`, the instance of each box, in `[0, max_instances)` for candidates.
        Values outside count as the nearest instance.
      candidates: bool `[B, N]`, what may be sampled.
      num_samples: how many to sample per row: an int for all rows, or int `[B]`.
      max_instances: how many instances a row can have, at least 1; an int or an int scalar.
      seed: as in `sample_random`.

    Returns:
      bool `[B, N]`, True for exactly min(`num_samples`, number of candidates) elements of each row,
      all of them candidates.

    Raises:
      ValueError: if `candidates` is not a bool tensor of rank 2 or `max_instances` is not positive.
    """
    if not tf.is_tensor(max_instances) and max_instances < 1:
        raise ValueError(f"`max_instances` must be positive, got {max_instances}.")
    candidates = _validated_candidates(candidates)
    pool = instance_pool(instance_ids, candidates, num_samples, max_instances)
    return pools.draw_mask(pool, seed)


def sample_class_balanced(
    instance_ids: tf.Tensor,
    instance_classes: tf.Tensor,
    candidates: tf.Tensor,
    num_samples: int | tf.Tensor,
    seed: pools.Seed | None = None,
) -> tf.Tensor:
    """Samples candidates (positives) evenly over classes, and those of a class over its instances.

    Every class that has candidates gives the same number. What a class lacks is shared out evenly
    over the other classes, so of two classes one gives at most one more than the other, unless the
    other gives all it has. The same holds for the instances of a class. Which class or instance
    gives one more, and which candidates an instance gives, is random. This is not part of Libra
    R-CNN, which balances positives over instances only (`sample_instance_balanced`).

    Args:
      instance_ids: int `[B, N]`, the instance of each box, in `[0, M)` for candidates. Values
        outside count as the nearest instance.
      instance_classes: int `[B, M]`, the class of each instance; M at least 1 if there are
        candidates. Instances without candidates, such as padding, may have any class.
      candidates: bool `[B, N]`, what may be sampled.
      num_samples: how many to sample per row: an int for all rows, or int `[B]`.
      seed: as in `sample_random`.

    Returns:
      bool `[B, N]`, True for exactly min(`num_samples`, number of candidates) elements of each row,
      all of them candidates.

    Raises:
      ValueError: if `candidates` is not a bool tensor of rank 2.
    """
    candidates = _validated_candidates(candidates)
    instance_classes = tf.convert_to_tensor(instance_classes)
    priorities = pools.draw_priorities(instance_classes, 2, seed)
    pool = class_pool(instance_ids, instance_classes, candidates, num_samples, priorities)
    return pools.draw_mask(pool, seed)


def random_pool(candidates: tf.Tensor, num_samples: int | tf.Tensor) -> pools.Pool:
    """Returns the pool that `sample_random` draws from.

    Args:
      candidates: as in `sample_random`.
      num_samples: as in `sample_random`.
    """
    num_samples = _per_row(candidates, num_samples)
    return pools.Pool(
        groups=tf.where(candidates, 0, 1),
        num_groups=1,
        share=lambda sizes: num_samples[:, None],
        num_grouped=num_samples,
        floor=tf.zeros_like(candidates),
        num_floor=tf.zeros_like(num_samples),
    )


def iou_pool(
    max_ious: tf.Tensor, candidates: tf.Tensor, num_samples: int | tf.Tensor, bins: IoUBins
) -> pools.Pool:
    """Returns the pool that `sample_iou_balanced` draws from; its groups are the bins.

    Args:
      max_ious: as in `sample_iou_balanced`.
      candidates: as in `sample_iou_balanced`.
      num_samples: as in `sample_iou_balanced`.
      bins: how to bin the candidates.
    """
    max_ious = tf.cast(max_ious, tf.float32)
    max_ious = tf.where(tf.math.is_nan(max_ious), tf.zeros_like(max_ious), max_ious)
    num_samples = _per_row(candidates, num_samples)
    floor = candidates & _is_floor(max_ious, bins.floor_threshold)
    balanced = candidates & ~floor
    # In float64, as Python computes it: 10 * (1 - 0.9) is 0 in float32.
    wanted = tf.cast(tf.cast(num_samples, tf.float64) * (1 - bins.floor_fraction), tf.int32)
    num_balanced = _count(balanced)
    num_floor = tf.minimum(_count(floor), num_samples - tf.minimum(num_balanced, wanted))
    top = _top_of_bins(max_ious, candidates, bins)
    groups, num_groups = _bin_indices(max_ious, top, bins), bins.num_bins
    share = (wanted // bins.num_bins)[:, None]
    if bins.bin_range == "all":
        # MMDetection's last bin leaves out its upper edge. A last group, of which nothing has to be
        # taken, holds what is there.
        groups, num_groups = tf.where(max_ious < top, groups, num_groups), num_groups + 1
        share = share * tf.constant([1] * bins.num_bins + [0])
    return pools.Pool(
        groups=tf.where(balanced, groups, num_groups),
        num_groups=num_groups,
        share=lambda sizes: share,
        num_grouped=tf.minimum(num_balanced, num_samples - num_floor),
        floor=floor,
        num_floor=num_floor,
    )


def instance_pool(
    instance_ids: tf.Tensor,
    candidates: tf.Tensor,
    num_samples: int | tf.Tensor,
    max_instances: int | tf.Tensor,
) -> pools.Pool:
    """Returns the pool that `sample_instance_balanced` draws from; its groups are the instances.

    Args:
      instance_ids: as in `sample_instance_balanced`.
      candidates: as in `sample_instance_balanced`.
      num_samples: as in `sample_instance_balanced`.
      max_instances: as in `sample_instance_balanced`.
    """
    num_samples = _per_row(candidates, num_samples)

    def share(sizes: tf.Tensor) -> tf.Tensor:
        num_instances = tf.maximum(_count(sizes > 0), 1)
        # tf.round rounds halves to even, as Python does.
        return tf.cast(tf.round(num_samples / num_instances), tf.int32)[:, None] + 1

    # A group outside the range would break the quotas.
    instance_ids = tf.clip_by_value(tf.cast(instance_ids, tf.int32), 0, max_instances - 1)
    return pools.Pool(
        groups=tf.where(candidates, instance_ids, max_instances),
        num_groups=max_instances,
        share=share,
        num_grouped=num_samples,
        floor=tf.zeros_like(candidates),
        num_floor=tf.zeros_like(num_samples),
    )


def class_pool(
    instance_ids: tf.Tensor,
    instance_classes: tf.Tensor,
    candidates: tf.Tensor,
    num_samples: int | tf.Tensor,
    priorities: tf.Tensor,
) -> pools.Pool:
    """Returns the pool that `sample_class_balanced` draws from; its groups are the instances.

    Args:
      instance_ids: as in `sample_class_balanced`.
      instance_classes: as in `sample_class_balanced`.
      candidates: as in `sample_class_balanced`.
      num_samples: as in `sample_class_balanced`.
      priorities: as in `libra_tf.ops.shares.share_over_classes`.
    """
    num_samples = _per_row(candidates, num_samples)
    num_instances = tf.shape(instance_classes)[1]
    pool = instance_pool(instance_ids, candidates, num_samples, num_instances)

    def share(sizes: tf.Tensor) -> tf.Tensor:
        return shares.share_over_classes(sizes, instance_classes, num_samples, priorities)

    return dataclasses.replace(pool, share=share)


def _validated_candidates(candidates: tf.Tensor) -> tf.Tensor:
    candidates = tf.convert_to_tensor(candidates)
    if candidates.dtype != tf.bool or candidates.shape.rank != 2:
        raise ValueError(
            "`candidates` must be a bool tensor [B, N], got one of shape "
            f"{candidates.shape} and type {candidates.dtype.name}."
        )
    if (candidates.shape[1] or 0) > pools.MAX_CANDIDATES:
        raise ValueError(
            f"There are {candidates.shape[1]} candidates per row; the samplers take at most "
            f"{pools.MAX_CANDIDATES}."
        )
    return candidates


def _per_row(candidates: tf.Tensor, num_samples: int | tf.Tensor) -> tf.Tensor:
    """Returns `num_samples`, an int or `[B]`, as int32 `[B]`."""
    return tf.broadcast_to(tf.cast(num_samples, tf.int32), tf.shape(candidates)[:1])


def _count(mask: tf.Tensor) -> tf.Tensor:
    """Returns how many elements of each row are True, int32 `[B]`."""
    return tf.reduce_sum(tf.cast(mask, tf.int32), axis=1)


def _is_floor(max_ious: tf.Tensor, floor_threshold: float) -> tf.Tensor:
    if floor_threshold > 0:
        return max_ious < floor_threshold
    # An IoU is never negative: a threshold of -1 leaves the floor empty.
    return tf.maximum(max_ious, 0) <= floor_threshold


def _top_of_bins(max_ious: tf.Tensor, candidates: tf.Tensor, bins: IoUBins) -> tf.Tensor:
    """Returns where the bins of each row end, broadcastable to `[B, 1]`."""
    if bins.bin_range == "all":
        return tf.reduce_max(max_ious, axis=1, keepdims=True)
    if bins.iou_limit is not None:
        return tf.constant(bins.iou_limit, max_ious.dtype, [1, 1])
    of_candidates = tf.where(candidates, max_ious, tf.zeros_like(max_ious))
    return tf.reduce_max(of_candidates, axis=1, keepdims=True)


def _bin_indices(max_ious: tf.Tensor, top: tf.Tensor, bins: IoUBins) -> tf.Tensor:
    """Returns the bin of every IoU, in `[0, num_bins)`; the outer bins are open-ended."""
    width = (tf.maximum(top, bins.bottom) - bins.bottom) / bins.num_bins
    inner_edges = bins.bottom + tf.range(1, bins.num_bins, dtype=max_ious.dtype) * width
    inner_edges = tf.broadcast_to(inner_edges, [tf.shape(max_ious)[0], bins.num_bins - 1])
    return tf.searchsorted(inner_edges, max_ious, side="right")
