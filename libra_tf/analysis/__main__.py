"""`libra-tf report`, at another address."""

from absl import app, flags

from libra_tf.commands import report

# What absl shows above the flags.
__doc__ = report.__doc__.replace("libra-tf report", "python -m libra_tf.analysis")

if __name__ == "__main__":
    flags.adopt_module_key_flags(report)
    app.run(report.main)
