"""Configs and experiments of the Libra detectors, built on Model Garden's."""
