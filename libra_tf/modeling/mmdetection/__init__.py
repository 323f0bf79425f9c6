"""Detectors that compute what MMDetection's do: `task.model.compatibility: mmdetection`.

Model Garden's classes with other parts where the two differ; docs/mmdet.md lists the differences.
"""
