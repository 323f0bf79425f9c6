"""The Libra tasks: Model Garden's RetinaNet and Mask R-CNN tasks with the Libra components."""
