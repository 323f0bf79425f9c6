"""Trains and evaluates a Libra detector.

    libra-tf train                   the demo: built-in shapes, minutes on a CPU
    libra-tf train --dataset=FOLDER  your own images, as they come

To resume a training that was stopped, repeat the command. The flags are Model Garden's and this
project's own; --helpfull lists them all. `libra-tf configs` lists the experiments and config files.
"""

from absl import flags

from libra_tf.commands import run
from libra_tf.commands.run import main as main

run.define_flags()
flags.adopt_module_key_flags(run)
flags.FLAGS.set_default("mode", "train_and_eval")
