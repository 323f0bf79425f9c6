"""Trains and evaluates, as `run.py` and the commands train and eval do."""

import sys

import rich.console
from absl import flags

from libra_tf.cli import inputs, program
from libra_tf.runner import flags as runner_flags
from libra_tf.runner import onednn, startup


def define_flags() -> None:
    """Defines Model Garden's flags and our own; `--help` lists them."""
    runner_flags.define_flags()
    for module in runner_flags.FLAG_MODULES:
        flags.adopt_module_key_flags(module)


def main(_: list[str]) -> None:
    """Runs the experiment that the flags select, or prints one clear error."""
    console = rich.console.Console(file=sys.stdout)
    program.leave(program.exit_status(lambda: _run(console)))


def _run(console: rich.console.Console) -> None:
    flag_values = flags.FLAGS
    watch = startup.StartUp(is_shown=flag_values.verbosity > 0)
    experiment = runner_flags.experiment_name(flag_values)
    runner_flags.check_flags(flag_values)
    model_dir = runner_flags.model_dir(flag_values, experiment)
    if flag_values.mode == "eval":
        inputs.require_run("--model_dir", model_dir)
    subject = model_dir if runner_flags.may_evaluate_run(flag_values) else experiment
    onednn.switch_on()
    program.before_tensorflow(f"{subject}: ")
    # Imported here because it is slow: --help and wrong flags are answered at once.
    from libra_tf.runner import session

    onednn.keep_convolutions_apart()
    watch.mark("import")
    try:
        session.run(experiment, model_dir, flag_values, console, watch)
    except KeyboardInterrupt:
        console.print("rerun the same command to continue from the newest checkpoint")
        raise
