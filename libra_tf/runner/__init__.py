"""What `run.py` does: flags, config, data, training with progress, results and pictures."""
