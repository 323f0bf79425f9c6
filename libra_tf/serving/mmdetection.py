"""The served graph of a detector with `task.model.compatibility: mmdetection`."""

import tensorflow as tf

from libra_tf.dataloaders import mmdetection_images
from libra_tf.serving import images as serving_images
from libra_tf.serving.detection import DetectionModule


class MMDetectionModule(DetectionModule):
    """A detector with MMDetection's preprocessing; see `DetectionModule`.

    The images of a batch have different shapes and are processed one after the other, as with a
    batch size of 1 in MMDetection: padding them to a common shape would change the detections.
    """

    def serve_bytes(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """Detects objects in JPEG and PNG files of any size, string `[B]`."""

        def detect_one(file: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
            image, problem = serving_images.decode(file, self._max_pixels)
            return self._serve_one(image), problem

        signature = (self._output_specs(), tf.TensorSpec([], tf.string))
        outputs, problems = tf.map_fn(detect_one, image_bytes, fn_output_signature=signature)
        with tf.control_dependencies([serving_images.assert_no_problems(problems)]):
            return {name: tf.identity(output) for name, output in outputs.items()}

    def serve_image_tensor(self, image_tensor: tf.Tensor) -> dict[str, tf.Tensor]:
        """Detects objects in decoded images of one size, uint8 `[B, height, width, 3]`."""
        return tf.map_fn(self._serve_one, image_tensor, fn_output_signature=self._output_specs())

    def _serve_one(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        """Detects objects in one decoded image, uint8 `[height, width, 3]`."""
        sides = sorted(self.params.task.model.input_size[:2])
        prepared, image_info = mmdetection_images.prepare(image, *sides)
        outputs = self.serve(prepared[tf.newaxis], image_info[tf.newaxis])
        return {name: output[0] for name, output in outputs.items()}

    def _output_specs(self) -> dict[str, tf.TensorSpec]:
        """Returns the specs of the outputs for one image."""
        count = self.params.task.model.detection_generator.max_num_detections
        return {
            "detection_boxes": tf.TensorSpec([count, 4], tf.float32),
            "detection_scores": tf.TensorSpec([count], tf.float32),
            "detection_classes": tf.TensorSpec([count], tf.int32),
            "detection_class_names": tf.TensorSpec([count], tf.string),
            "num_detections": tf.TensorSpec([], tf.int32),
            "image_size": tf.TensorSpec([2], tf.int32),
        }
