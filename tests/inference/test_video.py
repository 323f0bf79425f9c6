"""Detection in videos, with real ones."""

import fractions
import io
import json
import pathlib
import struct

import av
import numpy as np
import pytest
from PIL import Image

from libra_tf.cli import image_files
from libra_tf.cli.errors import UsageError
from libra_tf.inference import answers, local, prediction, video

pytestmark = pytest.mark.one_lane

one_detector = pytest.mark.parametrize("exported", ["retinanet"], indirect=True)
RATE = fractions.Fraction(30000, 1001)


@pytest.fixture(scope="module")
def frames():
    """Seven frames of an odd size: smooth pictures, which a codec keeps."""
    ramp = np.linspace(0, 200, 61)[np.newaxis, :, np.newaxis]
    return [
        Image.fromarray(np.broadcast_to(ramp + 7 * i, (45, 61, 3)).astype(np.uint8))
        for i in range(7)
    ]


@pytest.fixture
def clip(frames, tmp_path):
    path = tmp_path / "clip.mp4"
    with video.writer(path, RATE) as written:
        for frame in frames:
            written.add(frame)
    return path


def test_what_is_written_can_be_read(clip, frames):
    with video.opened(clip) as read:
        found = list(read.frames)
        assert (read.frames_per_second, read.length) == (RATE, 7)
    for frame, expected in zip(found, frames, strict=True):
        assert frame.size == (62, 46)
        difference = np.asarray(frame, int) - np.asarray(expected.resize(frame.size), int)
        assert np.abs(difference).mean() < 4
    assert [path.name for path in clip.parent.iterdir()] == ["clip.mp4"]


def num_frames(path):
    with av.open(str(path)) as written:
        return sum(1 for _ in written.decode(video=0))


@pytest.mark.parametrize("failure", [KeyboardInterrupt, UsageError, OSError])
def test_what_ends_early_keeps_its_frames(frames, tmp_path, failure):
    path = tmp_path / "clip.mp4"
    with pytest.raises(failure), video.writer(path, RATE):
        raise failure
    assert not any(tmp_path.iterdir())
    with pytest.raises(failure), video.writer(path, RATE) as written:
        for frame in frames[:3]:
            written.add(frame)
        raise failure
    assert num_frames(path) == 3


def test_a_video_that_cannot_be_written(frames, tmp_path, monkeypatch):
    with (
        pytest.raises(UsageError, match=r"clip.mp4 cannot be written as a video \("),
        video.writer(tmp_path / "nowhere/clip.mp4", RATE),
    ):
        pass
    monkeypatch.setattr(video, "_CODEC", "no_such_codec")
    with (
        pytest.raises(UsageError, match=r"clip.mp4 .*no_such_codec"),
        video.writer(tmp_path / "clip.mp4", RATE),
    ):
        pass


class Nothing:
    """Detects nothing, at once."""

    source, normalized_boxes, class_names = "nothing", False, {1: "cell"}

    def predict(self, images):
        sizes = [Image.open(io.BytesIO(image)).size[::-1] for image in images]
        empty = np.zeros([len(images), 0])
        return {
            "detection_boxes": np.zeros([len(images), 0, 4]),
            "detection_scores": empty,
            "detection_classes": empty,
            "detection_class_names": empty.astype(str),
            "num_detections": np.zeros(len(images), int),
            "image_size": np.array(sizes),
        }


def test_frames_before_a_damaged_one_are_kept(frames, tmp_path, monkeypatch):
    monkeypatch.setattr(local, "open_detector", lambda *_: Nothing())
    for number, frame in enumerate(frames[:3]):
        frame.save(tmp_path / f"{number}.png")
    (tmp_path / "2.png").write_text("text")
    images = image_files.find([str(tmp_path)])
    found = tmp_path / "found"
    with pytest.raises(UsageError, match=r"2.png cannot be read as an image"):
        prediction.predict_video("run", images, str(found), 5, report=str)
    assert num_frames(found / "video.mp4") == 2
    assert json.loads((found / "detections.json").read_text()) == []


def test_only_a_video_of_the_command_is_replaced(frames, clip, tmp_path, monkeypatch):
    monkeypatch.setattr(local, "open_detector", lambda *_: Nothing())
    source, found = tmp_path / "clip.mov", tmp_path / "found"
    clip.rename(source)
    for _ in range(2):
        prediction.predict_video("run", source, str(found), report=str)
    (found / "clip.mp4").write_bytes(b"holiday")
    with pytest.raises(
        UsageError, match=r"would replace .*found/clip.mp4, which is not marked as a result"
    ):
        prediction.predict_video("run", source, str(found), report=str)
    assert (found / "clip.mp4").read_bytes() == b"holiday"


def test_the_folder_of_a_run_is_no_place_for_results(clip, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "params.yaml").touch()
    with pytest.raises(UsageError, match=r"run is the folder of a run"):
        prediction.predict_video("run", clip, str(run), report=str)
    with pytest.raises(UsageError, match=r"run is the folder of a run"):
        prediction.predict("run", [], str(run), report=str)


def turn(path, matrix):
    """Writes a display matrix `(a, b, c, d)` into a clip, as phones do; PyAV cannot.

    A player shows a point (x, y), y downward, at (a x + c y, b x + d y): ISO/IEC 14496-12, 8.3.2.
    """
    content = bytearray(path.read_bytes())
    box = content.index(b"tkhd") + len(b"tkhd")
    assert content[box] == 0  # The version, whose matrix follows 40 bytes after the box's name.
    a, b, c, d = (value << 16 for value in matrix)
    upright = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    place = slice(box + 40, box + 40 + len(upright))
    assert content[place] == upright
    content[place] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("matrix", "turns"),
    [((0, 1, -1, 0), 1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 3)],
    ids=["clockwise", "upside down", "counterclockwise"],
)
def test_a_phones_video_is_read_upright(clip, matrix, turns):
    with video.opened(clip) as read:
        lying = [np.asarray(frame) for frame in read.frames]
    turn(clip, matrix)
    with video.opened(clip) as read:
        upright = [np.asarray(frame) for frame in read.frames]
        assert read.length == len(lying) == 7
    for one, other in zip(lying, upright, strict=True):
        np.testing.assert_array_equal(other, np.rot90(one, -turns))
        # Brighter to the right: no other turn gives the same.
        assert not np.array_equal(other, np.rot90(one, -turns + 2))


@one_detector
def test_a_turned_video_is_drawn_upright(exported, clip, tmp_path):
    turn(clip, (0, 1, -1, 0))
    prediction.predict_video(exported.model_dir, clip, str(tmp_path / "found"), report=str)
    with av.open(str(tmp_path / "found/clip.mp4")) as drawn:
        (frame, *_) = drawn.decode(video=0)
        assert (frame.width, frame.height) == (46, 62)
        assert not frame.rotation


@one_detector
@pytest.mark.slow
def test_detections_are_those_of_the_frames(exported, clip, tmp_path):
    lines = []
    prediction.predict_video(
        exported.model_dir, clip, str(tmp_path / "found"), batch_size=3, report=lines.append
    )
    found = json.loads((tmp_path / "found/detections.json").read_text())
    detector = local.open_detector(exported.model_dir)
    with video.opened(clip) as read:
        for number, frame in enumerate(read.frames, start=1):
            path = tmp_path / "frame.png"
            frame.save(path)
            (expected,) = answers.from_outputs(detector.predict([path.read_bytes()]), False)
            scores = [entry["score"] for entry in found if entry["image_id"] == number]
            np.testing.assert_allclose(scores, expected.scores, rtol=1e-4)
    with av.open(str(tmp_path / "found/clip.mp4")) as drawn:
        assert sum(1 for _ in drawn.decode(video=0)) == 7
    assert "7 images" in lines[1]


@one_detector
def test_frames_in_a_folder(exported, frames, tmp_path):
    (tmp_path / "frames").mkdir()
    for number, frame in enumerate(frames[:3]):
        frame.save(tmp_path / "frames" / f"{number}.png")
    images = image_files.find([str(tmp_path / "frames")])
    prediction.predict_video(
        exported.model_dir, images, str(tmp_path / "found"), frames_per_second=5, report=str
    )
    with av.open(str(tmp_path / "found/video.mp4")) as drawn:
        assert drawn.streams.video[0].average_rate == 5
        assert sum(1 for _ in drawn.decode(video=0)) == 3


def test_what_is_no_video(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_text("text")
    with pytest.raises(UsageError, match=r"clip.mp4 cannot be read as a video"), video.opened(path):
        pass


def test_a_damaged_frame_is_named(tmp_path):
    (tmp_path / "a.png").write_text("text")
    read = video.of_images([pathlib.Path(tmp_path / "a.png")], 5)
    with pytest.raises(UsageError, match=r"a.png cannot be read as an image"):
        list(read.frames)
