"""Detection with a trained detector: in this process, or by a server."""
