"""Data: a user's folder, recognised, checked and converted to TFRecords; the shapes data set.

Importing this package imports neither TensorFlow nor Model Garden, so mistakes in a folder are
reported at once; TensorFlow is imported only when there are records to write.
"""

from libra_tf.data.coco_folder import DetectionDataset, Split, prepare_coco_folder
from libra_tf.data.problems import DatasetError
from libra_tf.data.shapes import make_shapes

__all__ = ["DatasetError", "DetectionDataset", "Split", "make_shapes", "prepare_coco_folder"]
