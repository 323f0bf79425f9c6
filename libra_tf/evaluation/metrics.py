"""What a command measures beside COCO's average precision: that of PASCAL VOC, and that of LVIS."""

from collections.abc import Collection, Mapping

from libra_tf.evaluation import lvis_ap, voc_ap
from libra_tf.evaluation.subject import BOXES, Subject

VOC, LVIS = "voc", "lvis"
_OF_MASKS = "mask_"


def measure(
    subject: Subject,
    names: Collection[str],
    training_images: Mapping[int, int] | None,
    limits: tuple[int, int],
) -> dict[str, float]:
    """Measures what is asked for.

    Args:
      subject: objects and detections.
      names: `VOC`, `LVIS`, both or neither; others are left to others.
      training_images: see `lvis_ap.evaluate`.
      limits: see `lvis_ap.evaluate`.

    Returns:
      The values of `voc_ap.evaluate` with `voc_` before their names, and those of `lvis_ap` with
      `lvis_` for boxes, and with `lvis_mask_` for masks, if there are any.
    """
    metrics = {}
    if VOC in names:
        metrics |= {f"{VOC}_{key}": value for key, value in voc_ap.evaluate(subject).items()}
    for kind in subject.kinds if LVIS in names else ():
        prefix = f"{LVIS}_" if kind == BOXES else f"{LVIS}_{_OF_MASKS}"
        values = lvis_ap.evaluate(subject, kind, training_images, limits)
        metrics |= {prefix + key: value for key, value in values.items()}
    return metrics


def lines(metrics: Mapping[str, float]) -> list[str]:
    """Returns what `measure` has found as text, a line for each definition of AP.

    Args:
      metrics: its values, possibly among others.
    """
    found = []
    if f"{VOC}_AP" in metrics:
        area, of_11_points = (_shown(metrics[f"{VOC}_AP{key}"]) for key in ("", "_11_points"))
        found.append(f"VOC: AP {area} (area), {of_11_points} (11 points), at an IoU of 0.5")
    for title, prefix in (("LVIS", f"{LVIS}_AP"), ("LVIS, masks", f"{LVIS}_{_OF_MASKS}AP")):
        values = [
            f"AP{key.removeprefix(prefix)} {_shown(value)}"
            for key, value in metrics.items()
            if key.startswith(prefix)
        ]
        if values:
            found.append(f"{title}: {', '.join(values)}")
    return found


def _shown(value: float) -> str:
    # There is nothing to find where AP is -1.
    return "-" if value < 0 else f"{value:.4f}"
