"""Fixtures shared by all tests."""

import os
import pathlib

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def golden_blocks() -> pathlib.Path:
    """Folder of MMDetection's numbers for single blocks."""
    folder = SHARED / "golden" / "blocks"
    if not folder.is_dir():
        pytest.skip("the golden numbers of MMDetection (../shared/golden) are not here")
    return folder


@pytest.fixture(scope="session")
def bccd() -> pathlib.Path:
    """A real data set in COCO format: blood cells under a microscope."""
    folder = SHARED / "data" / "bccd"
    if not folder.is_dir():
        pytest.skip("the BCCD data set (../shared/data/bccd) is not here")
    return folder
