import pytest
import tensorflow as tf
from official.core import exp_factory

import libra_tf.registry_imports  # noqa: F401, registers the experiments
from libra_tf import precision
from libra_tf.inference import local

pytestmark = pytest.mark.one_lane


def test_a_run_is_used_in_the_precision_of_its_evaluations(monkeypatch):
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "TF_ENABLE_ONEDNN_OPTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: [])
    monkeypatch.setattr(precision, "cpu_flags", lambda: frozenset({"amx_bf16"}))

    def chosen(experiment, asked=None):
        params = exp_factory.get_exp_config(experiment)
        return local._choose_precision(params, asked).dtype

    assert chosen("libra_retinanet_small") == "bfloat16"
    # It trains and evaluates itself in float32.
    assert chosen("libra_retinanet_lite0") == "float32"
    assert chosen("libra_retinanet_lite0", "auto") == "bfloat16"
    assert chosen("libra_retinanet_small", "float32") == "float32"
