"""Makes the golden numbers in `tests/golden` by running MMDetection, or checks them against it.

    python3.11 -m venv mmdet
    mmdet/bin/pip install torch==2.1.2 torchvision==0.16.2 'numpy<2' 'opencv-python<4.12'
    mmdet/bin/pip install 'setuptools<70' wheel ninja psutil
    MMCV_WITH_OPS=1 mmdet/bin/pip install --no-build-isolation mmcv==2.1.0
    mmdet/bin/pip install mmdet==3.3.0
    mmdet/bin/python tools/golden/make.py --check

Other versions were not tried. Every file holds the inputs of a computation (random numbers and
weights) and the outputs of MMDetection 3.3 or MMCV 2.1 for them, on a CPU.

* `make.py --check [NAME ...]` takes the inputs from the files, computes the outputs again and
  prints how far they are from the stored ones, relative to the largest value of their array. It
  exits with status 1 if any is too far.
* `make.py [NAME ...]` draws the inputs from fixed seeds and writes the files.

A NAME is the start of a file's name, such as `nonlocal_gaussian`; the default is all files.
`--folder` replaces `tests/golden`.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence
from types import ModuleType

import numpy as np
import torch
from mmdet.utils import register_all_modules

import blocks
import detectors
import samplers
import training
import voc

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden"
SUBFOLDERS = {
    blocks: "blocks",
    samplers: "blocks",
    voc: "blocks",
    detectors: "models",
    training: "training",
}
# Float32 rounding, which adds up over fifty layers. A training step has rounded gradients.
TOLERANCES = {blocks: 1e-5, samplers: 1e-5, voc: 1e-6, detectors: 1e-4, training: 5e-4}


def deviation(found: np.ndarray, stored: np.ndarray) -> float:
    """Returns the largest difference, relative to the largest value if that is above 1.

    Integers must be equal.
    """
    if found.shape != stored.shape:
        return np.inf
    if stored.dtype.kind != "f":
        return 0.0 if np.array_equal(found, stored) else np.inf
    difference = np.abs(found - stored).max(initial=0.0)
    return float(difference / np.abs(stored).max(initial=1.0))


def write(module: ModuleType, names: Sequence[str], folder: pathlib.Path) -> bool:
    """Draws inputs and writes the files of one program; returns True."""
    for name in names:
        path = folder / f"{name}.npz"
        inputs = module.draw(name, folder)
        np.savez_compressed(path, **inputs, **module.compute(name, inputs, folder))
        print(f"{path.name}: {path.stat().st_size} bytes")
    return True


def check(module: ModuleType, names: Sequence[str], folder: pathlib.Path) -> bool:
    """Computes the outputs of one program again and returns whether they are those of the files."""
    tolerance, largest, is_right = TOLERANCES[module], 0.0, True
    for name in names:
        path = folder / f"{name}.npz"
        with np.load(path, allow_pickle=False) as file:
            stored = dict(file)
        for array, value in module.compute(name, stored, folder).items():
            found = deviation(np.asarray(value), stored[array])
            largest = max(largest, found)
            if found > tolerance:
                print(f"{path.name}: {array} deviates by {found:.2g}", file=sys.stderr)
                is_right = False
    print(
        f"{module.__name__}: {len(names)} files, largest deviation {largest:.2g}, "
        f"{tolerance:g} allowed"
    )
    return is_right


def main() -> int:
    """Makes or checks the files and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=[""], help="starts of the files' names")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    parser.add_argument("--folder", type=pathlib.Path, default=FOLDER)
    arguments = parser.parse_args()
    register_all_modules()
    torch.set_num_threads(1)
    is_right = True
    for module, subfolder in SUBFOLDERS.items():
        folder = arguments.folder / subfolder
        folder.mkdir(parents=True, exist_ok=True)
        names = [name for name in module.NAMES if name.startswith(tuple(arguments.names))]
        if names:
            is_right &= (check if arguments.check else write)(module, names, folder)
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
