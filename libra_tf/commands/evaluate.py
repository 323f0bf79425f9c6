"""Evaluates a trained detector.

    libra-tf eval --model_dir=runs/cells                    on the validation images of its training
    libra-tf eval --model_dir=runs/cells --dataset=FOLDER   on those of another folder
    libra-tf eval --model_dir=runs/cells --checkpoint=best

Experiment, config and data set are those of the run, unless flags say otherwise. The results are
added to runs/cells/results.json.
"""

from absl import flags

from libra_tf.commands import run
from libra_tf.commands.run import main as main
from libra_tf.runner import flags as runner_flags

run.define_flags()
flags.adopt_module_key_flags(run)
flags.FLAGS.set_default("mode", "eval")
flags.register_validator(
    "mode",
    lambda mode: mode in runner_flags.EVALUATION_MODES,
    f"libra-tf eval takes {' or '.join(runner_flags.EVALUATION_MODES)}; to train, call "
    "libra-tf train",
)
