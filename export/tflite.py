"""`libra-tf tflite`, from a clone."""

from absl import app, flags

from libra_tf.commands import tflite

# What absl shows above the flags.
__doc__ = tflite.__doc__.replace("libra-tf tflite", "python export/tflite.py")

if __name__ == "__main__":
    flags.adopt_module_key_flags(tflite)
    app.run(tflite.main)
