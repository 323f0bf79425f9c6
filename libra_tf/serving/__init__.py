"""Export of a trained detector: the served graph, as a SavedModel or a TensorFlow Lite file."""
