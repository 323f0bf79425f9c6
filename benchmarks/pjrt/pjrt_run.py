"""Times lowered programs on JAX's default device: GPU, TPU or CPU. Needs JAX and NumPy alone.

    python pjrt_run.py FOLDER                              as many cases as 8 minutes allow
    python pjrt_run.py FOLDER --minutes=20 --cases='*train*'
    python pjrt_run.py FOLDER --table                      the table of what has been measured

`lower.py` writes the folder on a machine with TensorFlow; copy it, and this file, to the machine
with the device. Cases run in their order of importance, each in a process of its own, so that one
which runs out of memory or time does not end the others. None gets more than a third of the
minutes. The results are added to FOLDER/results.json after each case, and the next call goes on
with the missing cases.

Tried with JAX 0.10.2 (Python 3.11) and JAX 0.11.2 (Python 3.12). Other versions may lack what this
file takes from JAX's interior, which is all in `_compile`.
"""

import argparse
import dataclasses
import fnmatch
import importlib.util
import io
import json
import math
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

# Of the case files, written by lower.py, and of the results.
FORMAT = 1
FACTS = "case.json"
PROGRAM = "program.hlo"
RESULTS = "results.json"

# In place of a case: only the device's own rate.
_DEVICE = "--device"
# Of the budget: what a case may take before it counts as failed.
_SHARE_OF_CASE = 1 / 3
_WARM_UP = 2
_MIN_STEPS = 5
_MAX_STEPS = 50
_SECONDS = 3.0
_RATE_SIZES = (1024, 2048, 4096, 8192)
_RATE_SECONDS = 1.0
_DTYPES = ("float32", "bfloat16")


class CaseError(Exception):
    """A file or a machine that cannot be used; the message says which one, and what to do."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A lowered program.

    Attributes:
      path: its file.
      facts: what lower.py wrote about it.
    """

    path: pathlib.Path
    facts: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The name of the file without its ending."""
        return self.path.stem

    def program(self) -> bytes:
        """Returns the serialized HLO."""
        with zipfile.ZipFile(self.path) as archive:
            return archive.read(PROGRAM)

    def arguments(self) -> list[np.ndarray]:
        """Returns the arguments of the first call."""
        with zipfile.ZipFile(self.path) as archive:
            return [draw(argument, archive.read) for argument in self.facts["arguments"]]


def draw(argument: Mapping[str, Any], read: Callable[[str], bytes]) -> np.ndarray:
    """Makes an argument: the same values on every machine.

    Args:
      argument: its `shape`, `dtype`, and where it is `from`: "constant" with a `value`; "normal"
        with `mean`, `std` and `seed`; or "file" with the name of a `file` of rows, which are
        repeated as often as the shape needs.
      read: returns the content of a file.

    Returns:
      The array.
    """
    shape, dtype = argument["shape"], numpy_dtype(argument["dtype"])
    if argument["from"] == "constant":
        return np.full(shape, argument["value"], dtype)
    if argument["from"] == "normal":
        # NumPy guarantees the stream of this generator for ever.
        values = np.random.RandomState(argument["seed"]).standard_normal(shape)
        return (argument["mean"] + argument["std"] * values).astype(dtype)
    rows = np.load(io.BytesIO(read(argument["file"])))
    # NumPy stores bfloat16 as bytes of no type.
    return np.resize(rows if rows.dtype == dtype else rows.view(dtype), shape)


def numpy_dtype(name: str) -> np.dtype:
    """Returns the type with a name such as "float32" or "bfloat16"."""
    if name != "bfloat16":
        return np.dtype(name)
    import ml_dtypes  # JAX and TensorFlow bring it.

    return np.dtype(ml_dtypes.bfloat16)


def open_case(path: pathlib.Path) -> Case:
    """Opens and checks a case.

    Args:
      path: the file.

    Returns:
      The case.

    Raises:
      CaseError: if it is not a case of this version, or lacks a part.
    """
    again = "lower it again with lower.py"
    try:
        with zipfile.ZipFile(path) as archive:
            files = set(archive.namelist())
            facts = json.loads(archive.read(FACTS))
            version = facts.get("format")
            if version == FORMAT:
                stored = {argument.get("file") for argument in facts["arguments"]} - {None}
    # Archive, compression and facts may each be damaged in their own way, and a Python without LZMA
    # cannot read any.
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise CaseError(f"{path}: not a case ({what}); {again}") from error
    if version != FORMAT:
        raise CaseError(
            f"{path}: format {version}, but this program reads format {FORMAT}; use "
            "the lower.py and the pjrt_run.py of one version"
        )
    if missing := sorted((stored | {PROGRAM}) - files):
        raise CaseError(f"{path}: {', '.join(missing)} missing; {again}")
    if len(facts["arguments"]) != facts["num_arguments"]:
        raise CaseError(
            f"{path}: {len(facts['arguments'])} of {facts['num_arguments']} arguments; {again}"
        )
    return Case(path, facts)


def open_cases(folder: pathlib.Path, patterns: Sequence[str]) -> list[Case]:
    """Opens the cases of a folder, the most important first.

    Args:
      folder: where lower.py has written them.
      patterns: which ones, such as `*training*`.

    Returns:
      The cases.

    Raises:
      CaseError: if there are none, or one is unusable.
    """
    paths = [
        path
        for path in sorted(folder.glob("*.zip"))
        if any(fnmatch.fnmatchcase(path.stem, pattern) for pattern in patterns)
    ]
    if not paths:
        raise CaseError(
            f"{folder}: no case is called {' or '.join(patterns)}; lower.py writes them"
        )
    return sorted(map(open_case, paths), key=lambda case: case.facts["importance"])


@dataclasses.dataclass
class Budget:
    """A limit to the time of a run.

    Attributes:
      seconds: the limit.
    """

    seconds: float

    def __post_init__(self):
        self._started = time.monotonic()

    def left(self) -> float:
        """Returns how many seconds are left, at least 0."""
        return max(0.0, self.seconds - (time.monotonic() - self._started))


def measure(cases: Sequence[Case], budget: Budget, results: dict[str, Any], save: Callable) -> None:
    """Measures the cases that have no result yet, while there is time.

    Args:
      cases: in order of importance.
      budget: when to stop. A case that is not finished then has no result.
      results: what is known already; extended in place.
      save: called without arguments after each case.

    Raises:
      CaseError: if the device cannot be used, or is not the one of the results.
    """
    known = results["cases"]
    missing = [case for case in cases if case.name not in known]
    # What failed may have been disturbed, but it comes after what has not been tried.
    failed = [case for case in cases if "error" in known.get(case.name, {})]
    device = _in_process([_DEVICE], budget) if missing or failed else None
    if device is None:
        return
    if "error" in device:
        raise CaseError(f"the device's own rate could not be measured: {device['error']}")
    if results.setdefault("device", device["device"]) != device["device"]:
        raise CaseError(
            f"{RESULTS} is of {results['device']}, but this is {device['device']}; move it away"
        )
    for case in missing + failed:
        result = _in_process([str(case.path)], budget)
        if result is None:
            continue
        known[case.name] = {**_described(case), **result, **device}
        save()
        print(_row(case.name, known[case.name]), flush=True)


def _described(case: Case) -> dict[str, Any]:
    names = ("importance", "images", "flops", "reference", "tensorflow")
    return {name: case.facts[name] for name in names}


def _in_process(arguments: Sequence[str], budget: Budget) -> dict[str, Any] | None:
    """Runs this program for one case.

    Returns:
      The result; or `error` if there is none, or not within its share of the budget; or None if
      the budget is used up.
    """
    if not budget.left():
        return None
    limit = min(budget.left(), _SHARE_OF_CASE * budget.seconds)
    command = [sys.executable, __file__, "--one", *arguments]
    try:
        process = subprocess.run(
            command, capture_output=True, text=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        # The next call begins with what has not been tried.
        return {"error": f"not finished in {limit:.0f} s"} if budget.left() else None
    if process.returncode:
        lines = process.stderr.strip().splitlines() or [f"exit status {process.returncode}"]
        return {"error": lines[-1][:300]}
    return json.loads(process.stdout.splitlines()[-1])


def measure_device() -> dict[str, Any]:
    """Measures how fast the device multiplies matrices.

    Returns:
      `device`, its name; `jax`, the version; `rates`, the FLOPs per second by dtype, of the size of
      matrix with the highest rate.
    """
    import jax

    rates = {dtype: max(_rates(dtype)) for dtype in _DTYPES}
    return {"device": jax.devices()[0].device_kind, "jax": jax.__version__, "rates": rates}


def _rates(dtype: str) -> Iterable[float]:
    import jax

    multiply = jax.jit(lambda x, y: x @ y)
    for size in _RATE_SIZES:
        x = jax.random.normal(jax.random.key(0), (size, size), dtype)
        multiply(x, x).block_until_ready()
        seconds = _seconds(lambda x=x: multiply(x, x).block_until_ready(), 20)
        yield 2 * size**3 / statistics.median(seconds)
        # A CPU would need minutes for the largest ones, and is not faster there.
        if sum(seconds) > _RATE_SECONDS:
            return


def measure_case(case: Case) -> dict[str, Any]:
    """Runs and times a case on the device.

    Args:
      case: the case.

    Returns:
      `figures` of the first calls, one list per call with TensorFlow's figures; `seconds` of a
      call (median), `calls` timed; `compile_seconds`; `peak_bytes` of memory, in all.

    Raises:
      CaseError: if the arguments are not those of the program.
    """
    import jax

    jax.config.update("jax_enable_x64", True)
    device = jax.devices()[0]
    started = time.perf_counter()
    executable = _compile(case, device)
    compile_seconds = time.perf_counter() - started
    arguments = [jax.device_put(array, device) for array in case.arguments()]
    figures: list[list[float]] = []

    def call() -> None:
        outputs = executable.execute(arguments)
        for output in outputs:
            output.block_until_ready()
        # The old ones are gone: their memory has become that of the outputs.
        for output, argument in case.facts["updates"]:
            arguments[argument] = outputs[output]
        if len(figures) < len(case.facts["reference"]):
            figures.append(np.asarray(outputs[0], np.float64).tolist())

    for _ in range(max(_WARM_UP, len(case.facts["reference"]))):
        call()
    seconds = _seconds(call, _MAX_STEPS)
    return {
        "figures": figures,
        "seconds": statistics.median(seconds),
        "calls": len(seconds),
        "compile_seconds": compile_seconds,
        "peak_bytes": _peak_bytes(device, executable),
    }


def _seconds(call: Callable[[], object], most: int) -> list[float]:
    """Times a call again and again: a few seconds long, but at least some and at most `most`."""
    seconds: list[float] = []
    while len(seconds) < most and (len(seconds) < _MIN_STEPS or sum(seconds) < _SECONDS):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
        if sum(seconds) > 10 * _SECONDS:
            break
    return seconds


def _compile(case: Case, device: Any) -> Any:
    # JAX has no public way to compile HLO.
    from jax._src.lib import xla_client

    computation = xla_client.XlaComputation(case.program())
    expected = [
        (tuple(shape.dimensions()), shape.numpy_dtype())
        for shape in computation.program_shape().parameter_shapes()
    ]
    given = [
        (tuple(argument["shape"]), numpy_dtype(argument["dtype"]))
        for argument in case.facts["arguments"]
    ]
    if expected != given:
        raise CaseError(
            f"{case.path}: the program takes {len(expected)} arguments, and those of the file have "
            "other shapes or dtypes; lower it again with lower.py"
        )
    module = xla_client._xla.mlir.xla_computation_to_mlir_module(computation)
    devices = xla_client.DeviceList((device,))
    return device.client.compile_and_load(module, devices, xla_client.CompileOptions())


def _peak_bytes(device: Any, executable: Any) -> int:
    """Returns the peak of the device's allocator, or what the compiler plans if it has none."""
    counted = (device.memory_stats() or {}).get("peak_bytes_in_use")
    if counted:
        return counted
    planned = executable.get_compiled_memory_stats()
    return (
        planned.argument_size_in_bytes
        + planned.output_size_in_bytes
        - planned.alias_size_in_bytes
        + planned.temp_size_in_bytes
    )


def disagreement(figures: Sequence[Sequence[float]], reference: Sequence[Sequence[float]]) -> float:
    """Returns the largest relative difference of any figure from TensorFlow's.

    Args:
      figures: a list per call.
      reference: TensorFlow's, likewise.
    """
    values, expected = np.asarray(figures), np.asarray(reference)
    return float(np.max(np.abs(values - expected) / np.maximum(np.abs(expected), 1e-12)))


def table(results: Mapping[str, Any]) -> list[str]:
    """Returns the lines of a Markdown table of all results.

    Args:
      results: the content of the file of results.
    """
    title = results.get("device", "no device yet")
    columns = ("ms", "images/s", "peak MB", "TFLOP/s", "of the device's rate", "from TensorFlow")
    rows = sorted(results["cases"].items(), key=lambda item: item[1]["importance"])
    return [
        f"| {title} | {' | '.join(columns)} |",
        f"| --- |{' --- |' * len(columns)}",
        *(_row(name, result) for name, result in rows),
    ]


def _row(name: str, result: Mapping[str, Any]) -> str:
    if "error" in result:
        return f"| {name} | {result['error'].replace('|', '/')} | | | | | |"
    seconds, images, flops = result["seconds"], result["images"], result["flops"]
    # How long the device's own products of as many FLOPs would take.
    least = sum(count / result["rates"][dtype] for dtype, count in flops.items())
    cells = [
        f"{1e3 * seconds:.2f}",
        f"{images / seconds:.1f}" if images else "",
        f"{result['peak_bytes'] / 1e6:.0f}",
        f"{sum(flops.values()) / seconds / 1e12:.2f}" if flops else "",
        f"{least / seconds:.0%}" if flops else "",
        f"{disagreement(result['figures'], result['reference']):.0e}"
        if result["reference"]
        else "",
    ]
    return f"| {name} | {' | '.join(cells)} |"


def read_results(path: pathlib.Path) -> dict[str, Any]:
    """Reads the file of results; there may be none yet.

    Args:
      path: the file.

    Returns:
      `device` and `cases`, the results by name.

    Raises:
      CaseError: if it is of another version, or something else.
    """
    if not path.exists():
        return {"format": FORMAT, "cases": {}}
    try:
        results = json.loads(path.read_text())
    except ValueError as error:
        raise CaseError(f"{path}: not a file of results ({error}); move it away") from error
    if not isinstance(results, dict) or results.get("format") != FORMAT:
        raise CaseError(f"{path}: results of another version; move the file away")
    return results


def write_results(path: pathlib.Path, results: Mapping[str, Any]) -> None:
    """Writes the file of results completely or not at all."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(results, indent=1))
    os.replace(unfinished, path)


def _positive(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number of minutes")
    return value


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=re.split(r"\n\n", __doc__)[0])
    parser.add_argument("folder", type=pathlib.Path, help="where lower.py has written the cases")
    parser.add_argument("--minutes", type=_positive, default=8.0, help="limit of the whole run")
    parser.add_argument("--cases", action="append", help="names or patterns; may be repeated")
    parser.add_argument("--table", action="store_true", help="only print the table")
    return parser.parse_args(arguments)


def _measure_one(path: str) -> None:
    """Measures a case, or the device; prints the result as JSON, or an error in one line."""
    try:
        case = None if path == _DEVICE else open_case(pathlib.Path(path))
        result = measure_device() if case is None else measure_case(case)
    except CaseError:
        raise
    except Exception as error:
        # Some errors, such as that of a full memory, come without a text.
        sys.exit(": ".join([type(error).__name__, *str(error).splitlines()[:1]]))
    print(json.dumps(result))


def main(arguments: Sequence[str]) -> None:
    """Measures, and prints the table."""
    if arguments and arguments[0] == "--one":
        _measure_one(arguments[1])
        return
    options = _parse(arguments)
    path = options.folder / RESULTS
    budget = Budget(60 * options.minutes)
    results = read_results(path)
    if not options.table:
        if not importlib.util.find_spec("jax"):
            raise CaseError(f"{sys.executable} has no JAX; pip install jax, for the device at hand")
        cases = open_cases(options.folder, options.cases or ["*"])
        measure(cases, budget, results, lambda: write_results(path, results))
        left_out = [case.name for case in cases if case.name not in results["cases"]]
        if left_out:
            print(f"{options.minutes:g} minutes were too short for: {', '.join(left_out)}")
    print("\n".join(table(results)))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except CaseError as error:
        sys.exit(f"error: {error}")
