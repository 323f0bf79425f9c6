"""`libra-tf client`, from a clone."""

from absl import app, flags

from libra_tf.commands import client

# What absl shows above the flags.
__doc__ = client.__doc__.replace("libra-tf client", "python export/client.py")

if __name__ == "__main__":
    flags.adopt_module_key_flags(client)
    app.run(client.main)
