"""The work of train and eval: flags, config, data, training with progress, results and pictures."""
