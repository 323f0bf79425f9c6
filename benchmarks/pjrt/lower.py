"""Lowers training steps, inference and parts of detectors to HLO, to be timed without TensorFlow.

    python benchmarks/pjrt/lower.py --out=lowered                       all cases, in an hour or two
    python benchmarks/pjrt/lower.py --out=lowered --cases='*-640-*'     some of them
    python benchmarks/pjrt/lower.py --out=lowered --cases='*_demo-*'    the small ones, for a CPU
    python benchmarks/pjrt/lower.py --list                              their names

Runs on a machine with TensorFlow and libra_tf, and needs no accelerator. Each case becomes a file
of a few hundred kilobytes: the program, how to draw weights and images, a batch of labels, and for
small cases TensorFlow's own figures to compare with. Copy the folder and pjrt_run.py to the machine
with the accelerator, and run `python pjrt_run.py FOLDER` there. Files that are there already are
kept.
"""

import fnmatch
import io
import json
import os
import pathlib
import sys
import time
import zipfile
from collections.abc import Sequence
from typing import Any

# The other benchmarks, which are scripts of their own, lie one folder up.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import measuring  # isort: skip  # noqa: F401, sets what TensorFlow reads at import

import numpy as np
import tensorflow as tf
from absl import app, flags

import hlo
import pjrt_run
from cases import CASES, DEMOS, Case
from libra_tf import atomic
from libra_tf.cli.errors import first_line
from libra_tf.precision import Precision, computing_in
from programs import Program, build_program

_OUT = flags.DEFINE_string("out", None, "Folder for the lowered cases.")
_CASES = flags.DEFINE_multi_string("cases", None, "Names or patterns. Default: all but the demos.")
_LIST = flags.DEFINE_bool("list", False, "Only print the names of the cases.")


def main(_: list[str]) -> None:
    """Lowers the missing cases."""
    if _LIST.value:
        print("\n".join(case.name for case in [*CASES, *DEMOS]))
        return
    if not _OUT.value:
        sys.exit("error: --out=FOLDER is missing: where to write the lowered cases")
    folder = pathlib.Path(_OUT.value)
    cases = chosen(_CASES.value)
    folder.mkdir(parents=True, exist_ok=True)
    failed = []
    for case in cases:
        path = folder / f"{case.name}.zip"
        if not path.exists():
            started = time.perf_counter()
            try:
                lower(case, path)
            except (ValueError, tf.errors.OpError) as error:
                # The others are not worth less for it.
                failed.append(case.name)
                print(f"error: {case.name}: {first_line(error)}", file=sys.stderr, flush=True)
                continue
            seconds, size = time.perf_counter() - started, path.stat().st_size / 1e6
            print(f"{case.name}: {size:.2f} MB in {seconds:.0f} s", flush=True)
    if failed:
        sys.exit(f"error: {len(failed)} of {len(cases)} cases failed: {', '.join(failed)}")


def chosen(patterns: Sequence[str] | None) -> list[Case]:
    """Returns the cases with names like the patterns, in order; exits if a pattern fits none."""
    if not patterns:
        return CASES
    every = [*CASES, *DEMOS]
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(case.name, pattern) for case in every):
            sys.exit(f"error: --cases={pattern} is the name of no case; --list prints all names")
    return [c for c in every if any(fnmatch.fnmatchcase(c.name, p) for p in patterns)]


def lower(case: Case, path: str | os.PathLike[str]) -> None:
    """Lowers a case into a file, which `pjrt_run.open_case` reads.

    Args:
      case: what to lower.
      path: the file to write.

    Raises:
      ValueError: if the program could not run elsewhere, or does not take the case's arguments.
    """
    with computing_in(Precision(case.dtype, "asked for").policy):
        write(case, build_program(case), path)


def write(case: Case, program: Program, path: str | os.PathLike[str]) -> None:
    """Lowers the program of a case into a file; otherwise as `lower`."""
    facts, files = _lowered(case, program)
    files[pjrt_run.FACTS] = json.dumps(facts).encode()
    with atomic.unfinished_file(path) as unfinished, zipfile.ZipFile(unfinished, "w") as archive:
        for name, content in files.items():
            # Without the time, the same case gives the same file. LZMA makes anchors 80 times
            # smaller than the usual compression does.
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_LZMA)


def _lowered(case: Case, program: Program) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Returns the facts of a case and its other files."""
    step = tf.function(program.function, jit_compile=True, autograph=False)
    specs = [tf.TensorSpec(each["shape"], each["dtype"]) for each in program.inputs]
    # This comes first because it makes the variables of the optimizer.
    captured = step.get_concrete_function(*specs).captured_inputs
    module = hlo.parse(step.experimental_get_compiler_ir(*specs)(stage="hlo_serialized"))
    files, arguments = _arguments(program, captured, module)
    _check(case, module, arguments)
    facts = {
        "format": pjrt_run.FORMAT,
        "importance": [*CASES, *DEMOS].index(case),
        "images": case.batch,
        "arguments": arguments,
        "num_arguments": len(hlo.parameters(module)),
        "updates": hlo.updates(module),
        "flops": hlo.matrix_flops(module),
        "tensorflow": tf.__version__,
        "reference": [],
    }
    if case.reference_calls:
        inputs = [pjrt_run.draw(each, files.__getitem__) for each in arguments[: len(specs)]]
        tensors = [tf.constant(array) for array in inputs]
        calls = range(case.reference_calls)
        facts["reference"] = [step(*tensors)[0].numpy().tolist() for _ in calls]
    files[pjrt_run.PROGRAM] = module.SerializeToString(deterministic=True)
    return facts, files


def _arguments(
    program: Program, captured: Sequence[tf.Tensor], module: hlo.Module
) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """Describes all arguments, and gives the variables the values that will be drawn elsewhere.

    Args:
      program: what is lowered.
      captured: the program's other arguments: its variables, and constants.
      module: the lowered program.

    Returns:
      The files of arguments that cannot be drawn, and the arguments as in `pjrt_run.draw`.
    """
    arguments = [dict(each) for each in program.inputs]
    dtypes = [dtype for _, dtype in hlo.parameters(module)[len(arguments) :]]
    files: dict[str, bytes] = {}
    for tensor, dtype in zip(captured, dtypes, strict=True):
        is_variable = tensor.dtype == tf.resource
        value = tf.raw_ops.ReadVariableOp(resource=tensor, dtype=dtype) if is_variable else tensor
        arguments.append(_origin(value.numpy(), seed=len(arguments)))
        if arguments[-1]["from"] == "normal" and not is_variable:
            raise ValueError(f"a captured constant of shape {value.shape} cannot be drawn")
        if is_variable:
            drawn = tf.constant(pjrt_run.draw(arguments[-1], files.__getitem__))
            tf.raw_ops.AssignVariableOp(resource=tensor, value=drawn)
    for number, argument in enumerate(arguments):
        if argument["from"] == "file":
            buffer = io.BytesIO()
            np.save(buffer, argument.pop("rows"))
            argument["file"] = f"{number:04}.npy"
            files[argument["file"]] = buffer.getvalue()
    return files, arguments


def _origin(value: np.ndarray, seed: int) -> dict[str, Any]:
    """Says how to make a variable like this one: random weights need not travel."""
    kind = {"shape": list(value.shape), "dtype": value.dtype.name}
    if (value == value.flat[0]).all():
        return {**kind, "from": "constant", "value": value.flat[0].tolist()}
    if value.dtype != np.float32:
        raise ValueError(f"a variable of dtype {value.dtype} is not constant; it cannot be drawn")
    moments = {"mean": float(value.mean()), "std": float(value.std())}
    return {**kind, "from": "normal", **moments, "seed": seed}


def _check(case: Case, module: hlo.Module, arguments: Sequence[dict[str, Any]]) -> None:
    expected = hlo.parameters(module)
    if [(tuple(each["shape"]), each["dtype"]) for each in arguments] != expected:
        raise ValueError(f"{case.name}: the program's arguments are not those of TensorFlow")
    if calls := hlo.custom_calls(module):
        raise ValueError(f"{case.name}: other devices may not know {', '.join(sorted(calls))}")
    if arguments[0]["dtype"] != case.dtype:
        raise ValueError(f"{case.name}: the images are {arguments[0]['dtype']}")


if __name__ == "__main__":
    app.run(main)
