"""`libra_tf.train`: its arguments are the flags of the command, checked before TensorFlow."""

import dataclasses
import pathlib
import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image

import libra_tf
from libra_tf.api import photographs, training
from libra_tf.runner import overrides
from libra_tf.runner.options import Options

pytestmark = pytest.mark.one_lane

# Model Garden's, which no run here reads.
UNUSED = {"tpu_platform", "tfhub_handle", "tflex_output_uri"}


def test_the_options_are_the_flags_with_the_same_defaults():
    code = """if True:
        import sys
        from absl import flags
        from libra_tf.runner import flags as runner_flags
        runner_flags.define_flags()
        for module in runner_flags.FLAG_MODULES:
            for flag in flags.FLAGS.get_flags_for_module(module.__name__):
                print(repr((flag.name, flag.default)))
    """
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    defaults = dict(map(eval, run.stdout.splitlines()))
    assert len(defaults) > 10
    options = {field.name: field.default for field in dataclasses.fields(Options)}
    options["mode"] = None
    assert options == {name: value for name, value in defaults.items() if name not in UNUSED}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": "nowhere"}, "^dataset=nowhere: there is no such folder"),
        ({"datset": "x"}, "^datset='x': train takes no such argument. Did you mean dataset"),
        ({"seed": -1}, "^seed=-1 must be a whole number from 0"),
        ({"seed": 1.5}, r"^seed=1\.5 must be a whole number from 0"),
        ({"mode": "trian"}, "^mode=trian is not supported"),
        ({"experiment": "libra"}, "^experiment=libra: there is no such experiment"),
        ({"config_file": "none.yaml"}, r"^config_file=none\.yaml: there is no such file"),
        ({"params_override": "a=1"}, "^params_override='a=1' must be a dict"),
        ({"params_override": {"a": 1}, "a.b": 2}, "^params_override sets a.b and also a, which"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(libra_tf.UsageError, match=message):
        libra_tf.train(**arguments)


def test_wrong_arguments_are_answered_without_tensorflow():
    code = """if True:
        import sys, libra_tf
        for call in (lambda: libra_tf.load("nowhere"), lambda: libra_tf.train("nowhere")):
            try:
                call()
            except libra_tf.UsageError:
                print("refused")
        print("tensorflow" in sys.modules)
    """
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["refused", "refused", "False"]


def test_other_threads_are_refused():
    errors = []

    def work():
        try:
            libra_tf.train()
        except libra_tf.UsageError as error:
            errors.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(errors) == 1 and "main thread" in errors[0]


def test_keys_of_the_config_reach_the_run():
    options = training._options(
        {
            "trainer.train_steps": 7,
            "cache_dir": "cache",
            "compare": pathlib.Path("runs/a"),
            "metrics": "voc,lvis",
        },
        mode="train",
        seed=3,
        params_override={"trainer": {"train_steps": 5, "steps_per_loop": 2}, "task.model.b": [1]},
    )
    assert options.cache_dir == "cache" and options.seed == 3
    assert options.compare == "runs/a" and options.metrics == ["voc", "lvis"]
    ((source, changes),) = overrides.read(options)
    assert source == "--params_override"
    assert changes == {
        "trainer": {"train_steps": 7, "steps_per_loop": 2},
        "task": {"model": {"b": [1]}},
    }


def test_what_was_evaluated_is_returned(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_run", lambda *_: None)
    monkeypatch.setattr(training, "Detector", lambda *arguments: arguments)
    run = str(tmp_path)
    found = libra_tf.train(model_dir=run, mode="eval", checkpoint="best")
    assert found == (run, "best")


def test_a_list_may_name_folders_and_patterns(tmp_path):
    for name in ("a.png", "more/b.png", "more/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    array = np.zeros([4, 4, 3], np.uint8)
    images = photographs.photographs([tmp_path / "more", array, str(tmp_path / "*.png")])
    names = [image.name.removeprefix(f"{tmp_path}/") for image in images]
    assert names == ["more/b.png", "more/c.png", "images[1]", "a.png"]
