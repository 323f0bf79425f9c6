"""The commands: each checks its flags and paths, imports TensorFlow only then, and makes one call.

`main` is the program `libra-tf`. `run.py`, `export/*.py` and `python -m libra_tf.analysis` are
other doors to the same commands.
"""
