"""Detectors that compute the same as MMDetection's: `task.model.compatibility: mmdetection`.

They are Model Garden's classes with different parts where the two libraries differ. docs/mmdet.md
lists the differences.
"""
