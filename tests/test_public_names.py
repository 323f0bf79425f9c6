"""What a user finds after `import libra_tf`: the names, and `help` that tells how to use them."""

import inspect
import pydoc
import re
import subprocess
import sys

import pytest

import libra_tf
from libra_tf import compat, layers, losses, ops

MODULES = {"compat", "data", "keras3", "layers", "losses", "ops", "registry_imports"}
NAMES = {"DatasetError", "TrainingError", "UsageError", "load", "train"}
LAYERS = {"BalancedFeaturePyramid", "IoUBalancedROISampler", "NonLocal2D"}


def run_python(code):
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert not run.returncode, run.stderr
    return set(run.stdout.split())


def test_importing_and_listing_imports_nothing():
    code = "import sys, libra_tf; old = dir(libra_tf), libra_tf.__version__; print(*sys.modules)"
    modules = run_python(code)
    assert "libra_tf" in modules
    assert not {module for module in modules if module.startswith("libra_tf.")}
    assert not modules & {"tensorflow", "keras", "tf_keras", "official", "numpy"}


@pytest.mark.one_lane
def test_one_import_reaches_every_layer_loss_and_op():
    """Listing the layers imports nothing of Model Garden; asking for its sampler does."""
    code = """if True:
        import sys, libra_tf
        listed = dir(libra_tf.layers)
        used = [
            libra_tf.layers.BalancedFeaturePyramid,
            libra_tf.layers.NonLocal2D,
            libra_tf.losses.BalancedL1Loss,
            libra_tf.ops.balanced_l1,
        ]
        light = "official" not in sys.modules
        sampler = libra_tf.layers.IoUBalancedROISampler
        print(*(f"{x.__module__}.{x.__name__}" for x in [*used, sampler]), *listed, light)
    """
    printed = run_python(code)
    assert printed >= LAYERS
    assert printed >= {
        "libra_tf.layers.balanced_feature_pyramid.BalancedFeaturePyramid",
        "libra_tf.layers.non_local.NonLocal2D",
        "libra_tf.layers.roi_sampler.IoUBalancedROISampler",
        "libra_tf.losses.balanced_l1_loss.BalancedL1Loss",
        "libra_tf.ops.balanced_l1.balanced_l1",
        "True",
    }


@pytest.mark.skipif(not compat.IS_ADDONS_LANE, reason="the current lane has Keras 3")
def test_without_keras_3_the_rest_is_still_described():
    assert not hasattr(libra_tf, "keras3")
    with pytest.raises(AttributeError, match=r"libra_tf\.keras3 needs Keras 3"):
        _ = libra_tf.keras3
    assert "libra_tf.layers" in pydoc.render_doc(libra_tf)


def test_dir_lists_the_public_names():
    public = {name for name in dir(libra_tf) if not name.startswith("_")}
    assert public == MODULES | NAMES
    assert "__version__" in dir(libra_tf)
    assert set(dir(layers)) >= LAYERS == set(layers.__all__)


def test_every_listed_module_is_there():
    for name in MODULES - ({"keras3"} if compat.IS_ADDONS_LANE else set()):
        assert getattr(libra_tf, name).__name__ == f"libra_tf.{name}"


@pytest.mark.parametrize("module", [libra_tf, layers])
def test_no_other_attribute(module):
    with pytest.raises(AttributeError, match="no attribute 'Libra'"):
        _ = module.Libra


def public_classes():
    classes = [*(getattr(layers, name) for name in layers.__all__), losses.BalancedL1Loss]
    if not compat.IS_ADDONS_LANE:
        classes += [getattr(libra_tf.keras3, name) for name in libra_tf.keras3.__all__]
    return classes


def documented_arguments(docstring):
    """The names in the Args section of a docstring, in order."""
    section = inspect.cleandoc(docstring).partition("\nArgs:\n")[2].partition("\n\n")[0]
    return [line.partition(":")[0].strip(" *") for line in section.splitlines() if line[2] != " "]


def test_help_of_every_class_tells_how_to_use_it():
    for cls in public_classes():
        arguments = [name for name in inspect.signature(cls.__init__).parameters if name != "self"]
        assert documented_arguments(cls.__doc__) == arguments, cls
        assert "References:\n" in cls.__doc__, cls
        assert re.search(r"`\[(B|\.\.\.), ", cls.__doc__ + cls.call.__doc__), cls
        assert cls.__doc__.splitlines()[0] in pydoc.render_doc(cls, renderer=pydoc.plaintext), cls


def test_help_of_every_op_tells_how_to_use_it():
    for name in ops.__all__:
        op = getattr(ops, name)
        assert documented_arguments(op.__doc__) == list(inspect.signature(op).parameters), name
        assert "Returns:\n" in op.__doc__, name
