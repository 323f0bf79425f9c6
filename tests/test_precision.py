"""Which precision is chosen for which device."""

import pathlib

import pytest
import tensorflow as tf

from libra_tf import precision
from libra_tf.compat import keras

KEY = "runtime.mixed_precision_dtype"
REAL_READ = pathlib.Path.read_text


@pytest.fixture
def cpu(monkeypatch):
    """Makes this CPU one with the given flags."""

    def use(*flags):
        for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "TF_ENABLE_ONEDNN_OPTS"):
            monkeypatch.delenv(name, raising=False)
        text = f"processor : 0\nflags\t\t: fpu avx2 {' '.join(flags)}\nbugs : none\n"
        monkeypatch.setattr(
            pathlib.Path,
            "read_text",
            lambda path: text if str(path) == "/proc/cpuinfo" else REAL_READ(path),
        )
        return monkeypatch

    return use


@pytest.mark.parametrize("flag", ["avx512_bf16", "amx_bf16"])
def test_auto_on_a_cpu_that_has_it(cpu, flag):
    cpu("avx512f", flag)
    chosen = precision.choose("auto", KEY, "CPU")
    assert (chosen.dtype, chosen.policy) == ("bfloat16", "mixed_bfloat16")
    assert str(chosen) == f"bfloat16 (this CPU has {flag})"
    assert not chosen.is_emulated


def test_auto_trains_depthwise_convolutions_in_float32_on_a_cpu(cpu):
    cpu("amx_bf16")
    chosen = precision.choose("auto", KEY, "CPU", trains_depthwise=True)
    assert chosen.dtype == "float32"
    assert "this CPU has amx_bf16, but depthwise convolutions train more slowly" in str(chosen)
    assert precision.choose("bfloat16", KEY, "CPU", trains_depthwise=True).dtype == "bfloat16"
    assert precision.choose("auto", KEY, "TPU", trains_depthwise=True).dtype == "bfloat16"
    cpu()
    reason = precision.choose("auto", KEY, "CPU", trains_depthwise=True).reason
    assert reason == "this CPU has neither avx512_bf16 nor amx_bf16"


@pytest.mark.parametrize("flags", [(), ("avx512f", "avx512_vnni"), ("avx512_fp16",)])
def test_auto_on_a_cpu_without(cpu, flags):
    cpu(*flags)
    chosen = precision.choose("auto", KEY, "CPU")
    assert (chosen.dtype, chosen.policy) == ("float32", "float32")
    assert str(chosen) == "float32 (this CPU has neither avx512_bf16 nor amx_bf16)"


def test_a_system_without_that_file(monkeypatch):
    def missing(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(pathlib.Path, "read_text", missing)
    assert precision.choose("auto", KEY, "CPU").dtype == "float32"


@pytest.mark.parametrize(
    ("name", "value", "dtype"),
    [
        ("ONEDNN_MAX_CPU_ISA", "avx2", "float32"),
        ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI", "float32"),
        ("DNNL_MAX_CPU_ISA", "AVX512_CORE", "float32"),
        ("TF_ENABLE_ONEDNN_OPTS", "0", "float32"),
        ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16", "bfloat16"),
        ("ONEDNN_MAX_CPU_ISA", "DEFAULT", "bfloat16"),
        ("TF_ENABLE_ONEDNN_OPTS", "1", "bfloat16"),
    ],
)
def test_variables_that_hide_it(cpu, name, value, dtype):
    cpu("avx512_bf16").setenv(name, value)
    chosen = precision.choose("auto", KEY, "CPU")
    assert chosen.dtype == dtype
    assert (f"{name}={value}" in chosen.reason) == (dtype == "float32")


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        ([(8, 0)], "bfloat16"),
        ([(9, 0), (8, 9)], "bfloat16"),
        ([(9, 0), (7, 5)], "float32"),
        ([None], "float32"),
    ],
)
def test_all_gpus_must_have_it(monkeypatch, capabilities, dtype):
    details = {
        f"gpu {number}": {"device_name": f"card {number}"}
        | ({"compute_capability": capability} if capability else {})
        for number, capability in enumerate(capabilities)
    }
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: list(details))
    monkeypatch.setattr(tf.config.experimental, "get_device_details", details.get)
    chosen = precision.choose("auto", KEY, "GPU")
    assert chosen.dtype == dtype
    is_known = capabilities[-1] is not None
    what = "has compute capability" if is_known else "does not say its compute capability"
    assert f"card {len(capabilities) - 1} {what}" in chosen.reason
    # Where nothing names the device, a GPU counts before the CPU.
    assert precision.choose("auto", KEY) == chosen


def test_a_tpu():
    assert precision.choose("auto", KEY, "TPU").dtype == "bfloat16"


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_what_is_named_is_taken(cpu, dtype):
    cpu("avx512_bf16")
    chosen = precision.choose(dtype, KEY, "CPU")
    assert (chosen.dtype, chosen.is_emulated) == (dtype, False)
    assert chosen.reason == f"set by {KEY}"


def test_an_emulated_precision_is_taken_and_says_what_it_costs(cpu):
    cpu()
    chosen = precision.choose("bfloat16", "--precision", "CPU")
    assert (chosen.dtype, chosen.is_emulated) == ("bfloat16", True)
    assert "--precision asks for it, but this CPU has neither" in chosen.reason
    assert "it is emulated; with AVX2 alone, a training step took" in chosen.reason


def test_layers_built_in_a_block_compute_with_its_policy():
    with precision.computing_in("mixed_bfloat16"):
        inside = keras.layers.Dense(1)
    assert inside.compute_dtype == "bfloat16"
    assert keras.layers.Dense(1).compute_dtype == "float32"


def test_none_is_float32():
    assert precision.choose(None, KEY, "CPU").dtype == "float32"
