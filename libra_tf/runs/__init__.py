"""The folder of a run: what is in it, and the detector that was trained there."""
