"""Additions to Model Garden's input pipelines, written with TensorFlow operations only."""
