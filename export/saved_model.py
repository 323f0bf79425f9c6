"""`libra-tf export`, from a clone."""

from absl import app, flags

from libra_tf.commands import export

# What absl shows above the flags.
__doc__ = export.__doc__.replace("libra-tf export", "python export/saved_model.py")

if __name__ == "__main__":
    flags.adopt_module_key_flags(export)
    app.run(export.main)
