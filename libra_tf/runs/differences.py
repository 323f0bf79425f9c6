"""How the config and the classes of a run differ from those it is to continue with."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# Groups of `task.model` and their keys that no weight depends on.
# They choose an implementation of the suppression of overlapping boxes.
SUPPRESSION = {
    "detection_generator": ("nms_version", "use_cpu_nms"),
    "roi_generator": ("use_batched_nms",),
}
# They choose among the boxes of a trained detector.
DETECTIONS = {
    "detection_generator": (
        "pre_nms_top_k",
        "pre_nms_score_threshold",
        "nms_iou_threshold",
        "max_num_detections",
        *SUPPRESSION["detection_generator"],
        "soft_nms_sigma",
        "use_class_agnostic_nms",
    ),
    "roi_generator": (
        "test_pre_nms_top_k",
        "test_pre_nms_score_threshold",
        "test_pre_nms_min_size_threshold",
        "test_nms_iou_threshold",
        "test_num_proposals",
        *SUPPRESSION["roi_generator"],
    ),
}
# As `libra_tf.data.cache` names what it keeps.
_IN_CACHE = re.compile(r".*/entries/([0-9a-f]{32}/[^/]*)")


def completed(saved: Any, wanted: Any, defaults: Any) -> Any:
    """Adds the keys that the version of a run did not have yet: there, they had their defaults.

    Args:
      saved: nested keys and values of the run.
      wanted: those that it is to continue with; only their keys are added.
      defaults: the default values.

    Returns:
      `saved` with these keys.
    """
    if not all(isinstance(values, Mapping) for values in (saved, wanted, defaults)):
        return saved
    added = {key: defaults[key] for key in wanted if key not in saved and key in defaults}
    return added | {
        key: completed(value, wanted.get(key), defaults.get(key)) for key, value in saved.items()
    }


def between(saved: Any, wanted: Any, path: str) -> Iterator[str]:
    """Describes every key that has another value.

    Args:
      saved: nested keys and values of the run.
      wanted: those that it is to continue with.
      path: the key of both, such as `task.model`.

    Yields:
      A text for each difference, such as `task.model.num_classes was 5 and would be 3`.
    """
    if isinstance(saved, Mapping) and isinstance(wanted, Mapping):
        for key in sorted({*saved, *wanted}):
            yield from between(saved.get(key), wanted.get(key), f"{path}.{key}")
    elif _as_lists(saved) != _as_lists(wanted):
        yield _describe(saved, wanted, path)


def take_out(model: dict[str, Any], groups: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Removes what a run may continue with another value of.

    Args:
      model: nested keys and values of `task.model`, changed in place.
      groups: `SUPPRESSION` for a training, `DETECTIONS` for an evaluation.

    Returns:
      What was removed, such as `{"task.model.detection_generator.nms_iou_threshold": 0.5}`.
    """
    return {
        f"task.model.{group}.{key}": model[group].pop(key)
        for group, keys in groups.items()
        for key in keys
        if key in (model.get(group) or {})
    }


def of_images(saved: Mapping[str, Any], wanted: Mapping[str, Any], dataset: str) -> Iterator[str]:
    """Describes the difference if two configs name other training images.

    Args:
      saved: nested keys and values of the run's config.
      wanted: those of the config that it is to continue with.
      dataset: what the user calls the data set of `wanted`.

    Yields:
      One text, or nothing if the images are the same.
    """
    paths = [config["task"]["train_data"].get("input_path") for config in (saved, wanted)]
    if _contents(paths[0]) != _contents(paths[1]):
        difference = _describe(*paths, "task.train_data.input_path")
        yield f"{difference}, the training images of {dataset}"


def is_same_class(category: int, name: str, other: str) -> bool:
    """Returns whether two names of a category mean the same.

    Args:
      category: its id. A detector imported without names calls its classes by their ids.
      name: the name in the run.
      other: the name in the data.
    """
    return name == str(category) or spelling(name) == spelling(other)


def spelling(name: str) -> str:
    """Returns a class name by which equal classes are found, however they are written.

    MMDetection has used both traffic_light and traffic light.
    """
    return name.casefold().replace("_", " ").replace("-", " ")


def _contents(input_path: Any) -> Any:
    """What tells images apart: a data set in a cache is named by its content."""
    if isinstance(input_path, (list, tuple)):
        return [_contents(path) for path in input_path]
    match = _IN_CACHE.fullmatch(input_path) if isinstance(input_path, str) else None
    return match.group(1) if match else input_path


def _describe(saved: Any, wanted: Any, path: str) -> str:
    return f"{path} was {saved!r} and would be {wanted!r}"


def _as_lists(value: Any) -> Any:
    return [_as_lists(item) for item in value] if isinstance(value, (list, tuple)) else value
