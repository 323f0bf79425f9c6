"""The work of `run.py`: flags, config, data, training with progress, results and pictures."""
