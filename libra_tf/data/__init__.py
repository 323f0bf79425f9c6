"""Data: a user's folder, COCO or VOC, checked and turned into TFRecords; the shapes data set.

Importing this package imports neither TensorFlow nor Model Garden: a folder's mistakes are
reported at once, and TensorFlow is loaded only when there are records to write.
"""

from libra_tf.data.coco_folder import DetectionDataset, Split, prepare_coco_folder
from libra_tf.data.problems import DatasetError
from libra_tf.data.shapes import make_shapes

__all__ = ["DatasetError", "DetectionDataset", "Split", "make_shapes", "prepare_coco_folder"]
