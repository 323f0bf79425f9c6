"""The weights that a training starts from: those of another detector, as far as they fit."""
