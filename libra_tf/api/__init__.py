"""The package as Python sees it: `libra_tf.load` and `libra_tf.train` (docs/python.md)."""
