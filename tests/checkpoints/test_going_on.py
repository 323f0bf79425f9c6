"""What is done with an imported detector: export and fine-tuning."""

import io

import numpy as np
import pytest
import tensorflow as tf
from official.core import train_utils
from PIL import Image

from libra_tf.checkpoints import mmdet
from libra_tf.data import make_shapes, prepare_coco_folder
from libra_tf.dataloaders import mmdetection_images
from libra_tf.inference import local
from libra_tf.runner import config
from libra_tf.runs import trained_run
from libra_tf.serving import saved_model
from tests.detectors import filtered

MODELS = ("libra_retinanet_r50", "libra_faster_rcnn_r50")


@pytest.fixture(scope="module", params=MODELS)
def run_folder(request, golden_models, tmp_path_factory):
    """The folder of an imported detector, for small images."""
    folder = str(tmp_path_factory.mktemp(request.param) / "run")
    mmdet.main([str(golden_models / f"{request.param}.pth"), f"--model_dir={folder}"])
    params = trained_run.read(folder).params
    params.task.model.input_size = [128, 192, 3]
    train_utils.serialize_config(params, folder)
    return folder


def picture(height, width, seed):
    noise = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height)))


def as_png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return buffer.getvalue()


@pytest.mark.slow
def test_exported_with_the_preprocessing(run_folder, tmp_path):
    run = trained_run.read(run_folder)
    model = run.load_model()
    folder = saved_model.export(run_folder, str(tmp_path), report=str)
    serve = tf.saved_model.load(folder).signatures["serving_default"]
    pictures = [picture(97, 131, 0), picture(300, 120, 1)]
    served = serve(image_bytes=tf.constant(list(map(as_png, pictures))))
    for index, image in enumerate(pictures):
        prepared, info = mmdetection_images.prepare(tf.constant(image), 128, 192)
        expected = model(prepared[tf.newaxis], image_shape=info[tf.newaxis, 1], training=False)
        assert list(served["image_size"][index]) == list(image.shape[:2])
        count = int(expected["num_detections"][0])
        assert int(served["num_detections"][index]) == count > 10
        boxes = expected["detection_boxes"][0] / np.tile(info[2], 2)
        classes, scores = expected["detection_classes"][0], expected["detection_scores"][0]
        rows = zip(boxes, classes, scores, strict=True)
        found = {
            "boxes": served["detection_boxes"][index].numpy(),
            "classes": served["detection_classes"][index].numpy(),
            "scores": served["detection_scores"][index].numpy(),
        }
        # As sets: neighbours may have the same score up to rounding.
        for box, category, score in list(rows)[:count]:
            distance = np.abs(found["boxes"] - box).max(axis=1)
            distance[found["classes"] != category] = np.inf
            nearest = distance.argmin()
            # The weakest ones may have given way to others that are as weak.
            if score > expected["detection_scores"][0, count - 1] + 1e-3:
                assert distance[nearest] < 0.05
                assert abs(found["scores"][nearest] - score) < 5e-4


@pytest.mark.slow
def test_exported_with_a_threshold_for_each_class(run_folder, tmp_path):
    files = [as_png(picture(97, 131, 0)), as_png(picture(300, 120, 1))]
    everything = local.open_detector(run_folder).predict(files)
    classes = everything["detection_classes"]
    ascending = np.sort(everything["detection_scores"][classes > 0])
    middle = ascending[len(ascending) // 4 : -len(ascending) // 4]
    # Where rounding decides nothing.
    gap = np.argmax(np.diff(middle))
    thresholds = dict.fromkeys(trained_run.read(run_folder).read_class_names(), 0.0)
    thresholds[int(np.bincount(classes[classes > 0]).argmax())] = middle[gap : gap + 2].mean()
    folder = saved_model.export(
        run_folder, str(tmp_path), report=str, score_thresholds=thresholds, trim_padding=True
    )
    expected = filtered(everything, thresholds)
    found = local.open_detector(folder).predict(files)
    most = max(expected["num_detections"])
    assert 0 < most < max(everything["num_detections"])
    np.testing.assert_array_equal(found["num_detections"], expected["num_detections"])
    np.testing.assert_allclose(
        found["detection_scores"], expected["detection_scores"][:, :most], atol=5e-4
    )


@pytest.mark.slow
def test_fine_tuning_goes_down_at_once(run_folder, tmp_path):
    folder = make_shapes(tmp_path / "shapes", 32, 6, image_size=128, report=str)
    dataset = prepare_coco_folder(folder, tmp_path / "cache", report=str)
    params = trained_run.read(run_folder).params
    task_config = params.task
    config.use_dataset(params, dataset)
    task_config.init_checkpoint = run_folder
    task_config.init_checkpoint_modules = "all"
    task_config.train_data.global_batch_size = 4
    run = trained_run.TrainedRun(run_folder, params, "")
    task = run.build_task()
    model = task.build_model()
    task.initialize(model)
    learning_rate = params.trainer.optimizer_config.learning_rate.stepwise
    learning_rate.values = [1e-3] * 3
    params.trainer.optimizer_config.warmup.type = None
    optimizer = task.create_optimizer(params.trainer.optimizer_config)
    images = iter(task.build_inputs(task_config.train_data))
    step = tf.function(lambda batch: task.train_step(batch, model, optimizer))
    losses = [float(step(next(images))[task.loss]) for _ in range(20)]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
