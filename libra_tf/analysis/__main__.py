"""Reports what is unbalanced in the training of a detector.

    python -m libra_tf.analysis --model_dir=runs/cells

runs the detector on some of its training images and writes runs/cells/analysis/report.html and
report.json. docs/analysis.md defines what is measured.
"""

from absl import app, flags

from libra_tf.commands import report

if __name__ == "__main__":
    flags.adopt_module_key_flags(report)
    app.run(report.main)
