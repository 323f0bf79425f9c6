"""Small valid data sets to spoil in one way at a time."""

import pathlib

import pytest

from tests.data.folders import CocoFolder


@pytest.fixture
def coco_folder(tmp_path: pathlib.Path) -> CocoFolder:
    return CocoFolder(tmp_path / "dataset")
