"""Trains and evaluates a Libra detector.

python run.py --mode=train_and_eval                   the demo: built-in shapes, minutes on a CPU
python run.py --mode=train_and_eval --dataset=FOLDER  your own images, as they come

The flags are Model Garden's and this project's own; --help lists them.
"""

from absl import app, flags

from libra_tf.commands import run

if __name__ == "__main__":
    run.define_flags()
    flags.adopt_module_key_flags(run)
    app.run(run.main)
