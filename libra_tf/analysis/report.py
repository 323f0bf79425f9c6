"""From runs to a report: measures, verdicts, `report.html` and `report.json`."""

import dataclasses
import json
import os
from collections.abc import Callable, Sequence

from libra_tf import atomic
from libra_tf.analysis import collect, page, verdicts
from libra_tf.cli import outputs
from libra_tf.cli.errors import UsageError
from libra_tf.data import DetectionDataset, prepare_coco_folder
from libra_tf.runs import trained_run

_METRICS = ("AP", "AP50", "AP75")
_FORMAT = 1


def write(
    model_dirs: Sequence[str],
    output_dir: str,
    dataset: str | None = None,
    cache_dir: str | None = None,
    checkpoint: str | None = None,
    num_batches: int = 8,
    point: tuple[float, float] | None = None,
    report: Callable[[str], None] = print,
) -> tuple[str, str]:
    """Measures runs and writes the report.

    Args:
      model_dirs: folder of the run to report on, then those to compare it with.
      output_dir: where to write; it is made.
      dataset: a folder of images to measure on; None for the training images of the first run.
      cache_dir: where converted data sets are kept; None for the default.
      checkpoint: a checkpoint of the first run; None for the newest.
      num_batches: how many batches to look at.
      point: see `libra_tf.analysis.collect.analyse`.
      report: is given lines about the progress.

    Returns:
      The paths of the page and of the JSON file.

    Raises:
      UsageError: if a run or its images cannot be read.
      DatasetError: if the folder of images cannot be used.
    """
    # All are looked for before the long work on the first.
    runs = [
        trained_run.read(folder, checkpoint if index == 0 else None)
        for index, folder in enumerate(model_dirs)
    ]
    outputs.make_folder("--output_dir", output_dir)
    input_path, max_num_instances = runs[0].params.task.train_data.input_path, 0
    if dataset is None:
        _check_classes(runs, None)
    else:
        prepared = prepare_coco_folder(dataset, cache_dir, report=lambda m: report(f"data: {m}"))
        _check_classes(runs, prepared)
        input_path = prepared.train.input_path
        max_num_instances = prepared.train.max_boxes_per_image
    on_page = []
    for run, name in zip(runs, _names(model_dirs), strict=True):
        analysis = collect.analyse(run, input_path, num_batches, point, max_num_instances, report)
        metrics, step = _read_metrics(run.model_dir)
        on_page.append(page.Run(name, analysis, verdicts.judge(analysis.numbers), metrics, step))
    return _write_files(output_dir, on_page)


def _names(model_dirs):
    """The shortest ends of the paths that tell the runs apart."""
    paths = [os.path.abspath(folder) for folder in model_dirs]
    names = [os.path.basename(path) for path in paths]
    return names if len(set(names)) == len(names) else paths


def _check_classes(
    runs: Sequence[trained_run.TrainedRun], dataset: DetectionDataset | None
) -> None:
    """Checks that a class is the same one in all detectors and in the images."""
    if dataset is None:
        wanted, owner = runs[0].read_class_names(), runs[0].model_dir
    else:
        wanted, owner = dataset.class_names, f"--dataset={dataset.folder}"
    for run in runs:
        names = run.read_class_names()
        for category, name in wanted.items():
            theirs = names.get(category)
            # A class without a name is called by its number.
            if theirs is None or (theirs != name and str(category) not in (theirs, name)):
                raise UsageError(
                    f"class {category} is {name!r} in {owner} and {theirs!r} in {run.model_dir}; "
                    "name runs and images of the same classes"
                )


def _read_metrics(model_dir):
    """What the newest evaluation of a run has measured, nothing where there was none."""
    try:
        with open(os.path.join(model_dir, "results.json")) as file:
            results = json.load(file)
    except (OSError, ValueError):
        return {}, None
    return {name: results[name] for name in _METRICS if name in results}, results.get("step")


def _write_files(output_dir, runs):
    content = {
        "format": _FORMAT,
        "runs": [
            {
                "name": run.name,
                **run.analysis.numbers,
                "measured_by_evaluation": {"step": run.metrics_step, **run.metrics},
                "verdicts": [dataclasses.asdict(verdict) for verdict in run.verdicts],
            }
            for run in runs
        ],
    }
    texts = {
        "report.html": page.render(runs),
        "report.json": json.dumps(content, indent=1, allow_nan=False) + "\n",
    }
    paths = []
    for name, text in texts.items():
        path = os.path.join(output_dir, name)
        # A page that is open is never half a page.
        atomic.write_file(path, text)
        paths.append(path)
    return tuple(paths)
