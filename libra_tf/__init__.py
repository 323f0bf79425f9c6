"""Libra R-CNN (Pang et al., CVPR 2019) for the TensorFlow Model Garden.

Importing this package imports nothing heavy; ask for the part you need:
`libra_tf.ops`, `libra_tf.layers`, `libra_tf.losses` for the components alone,
`libra_tf.registry_imports` to register the experiments with Model Garden.
"""

__version__ = "0.1.0"
