"""The golden detectors of MMDetection, in `tests/golden/models`."""

MODELS = ("libra_retinanet_r50", "libra_faster_rcnn_r50", "libra_faster_rcnn_x50")
