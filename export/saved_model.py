"""Exports a trained detector as a SavedModel for TensorFlow Serving.

    python export/saved_model.py --model_dir=runs/cells --export_dir=served/cells

It writes served/cells/1, and the next time served/cells/2. Everything about the detector is read
from the folder of its run. docs/serving.md explains how to serve it.
"""

from absl import app, flags

from libra_tf.commands import export

if __name__ == "__main__":
    flags.adopt_module_key_flags(export)
    app.run(export.main)
