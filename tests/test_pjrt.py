"""Lowering for machines without TensorFlow, and running what was lowered: benchmarks/pjrt."""

import ast
import importlib.util
import io
import json
import pathlib
import re
import subprocess
import sys
import types
import zipfile

import numpy as np
import pytest
import tensorflow as tf

from benchmarks.pjrt import cases, hlo, pjrt_run

pytestmark = pytest.mark.one_lane

FOLDER = pathlib.Path(pjrt_run.__file__).parent
SAMPLER = "roi_sampler-ours-sampling-1000-b2-float32"


@pytest.fixture(scope="module")
def lower():
    """The program, which finds its modules in its own folder."""
    sys.path.insert(0, str(FOLDER))
    spec = importlib.util.spec_from_file_location("pjrt_lower", FOLDER / "lower.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def sampler(lower, tmp_path_factory):
    """The file of a lowered sampler."""
    return lowered(lower, SAMPLER, tmp_path_factory.mktemp("lowered"))


def lowered(lower, name, folder):
    path = folder / f"{name}.zip"
    (case,) = lower.chosen([name])
    lower.lower(case, path)
    return path


def run(*arguments):
    command = [sys.executable, FOLDER / "pjrt_run.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def measured(folder):
    result = run(folder, "--minutes=20")
    assert result.returncode == 0, result.stderr
    results = json.loads((folder / "results.json").read_text())
    assert result.stdout.endswith("\n".join(pjrt_run.table(results)) + "\n")
    for name, case in results["cases"].items():
        assert "error" not in case, (name, case)
    return results["cases"]


def copied(source, folder, change=lambda facts: facts, without=()):
    """Copies a case, with other facts or without some of its files."""
    path = folder / source.name
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for name in set(old.namelist()) - set(without):
            content = old.read(name)
            if name == pjrt_run.FACTS:
                content = json.dumps(change(json.loads(content)))
            new.writestr(name, content)
    return path


def test_a_part_agrees_with_tensorflow(sampler):
    (case,) = measured(sampler.parent).values()
    assert pjrt_run.disagreement(case["figures"], case["reference"]) < 1e-4
    assert case["seconds"] > 0
    assert case["peak_bytes"] > 2 * 1100 * 100 * 4
    assert case["rates"].keys() == {"float32", "bfloat16"}


def test_updated_weights_are_fed_back(lower, tmp_path):
    """Five steps of gradient descent, with a counter that JAX would make an int32 by default."""
    weights = tf.Variable(tf.random.stateless_normal([3, 5], [0, 0]))
    num_steps = tf.Variable(2**40, dtype=tf.int64)

    def train(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((x @ weights - 1) ** 2)
        weights.assign_sub(tape.gradient(loss, weights))
        num_steps.assign_add(1)
        return [tf.stack([loss, tf.cast(num_steps - 2**40, tf.float32)])]

    inputs = [{"shape": [2, 3], "dtype": "float32", "from": "file", "rows": np.eye(2, 3)}]
    inputs[0]["rows"] = inputs[0]["rows"].astype(np.float32)
    (case,) = lower.chosen(["retinanet_demo-ours-training-128-b2-float32"])
    lower.write(case, lower.Program(train, inputs), tmp_path / "case.zip")
    result = run("--one", tmp_path / "case.zip")
    assert result.returncode == 0, result.stderr
    figures = np.array(json.loads(result.stdout)["figures"])
    facts = pjrt_run.open_case(tmp_path / "case.zip").facts
    assert sorted(argument for _, argument in facts["updates"]) == [1, 2]
    assert pjrt_run.disagreement(figures, facts["reference"]) < 1e-5
    np.testing.assert_array_equal(figures[:, 1], [1, 2, 3, 4, 5])
    assert (np.diff(figures[:, 0]) < 0).all()


def test_measured_cases_are_not_measured_again(sampler):
    before = measured(sampler.parent)
    assert measured(sampler.parent) == before


def test_the_same_case_is_lowered_to_the_same_file(lower, sampler, tmp_path):
    assert lowered(lower, SAMPLER, tmp_path).read_bytes() == sampler.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("detector", cases.DETECTORS)
def test_five_steps_agree_with_tensorflow(detector, dtype, lower, tmp_path):
    path = lowered(lower, f"{detector}_demo-ours-training-128-b2-{dtype}", tmp_path)
    (case,) = measured(tmp_path).values()
    figures, reference = case["figures"], case["reference"]
    assert len({loss for (loss,) in reference}) == 5  # Every step has changed the weights.
    facts = pjrt_run.open_case(path).facts
    if dtype == "float32":
        assert pjrt_run.disagreement(figures[:2], reference[:2]) < 1e-5
        # Later, the last bit of an IoU can decide which RoIs are drawn.
        tolerance = 1e-4 if detector == "retinanet" else 1e-3
        assert pjrt_run.disagreement(figures, reference) < tolerance
        assert facts["flops"].keys() == {"float32"}
    else:
        assert pjrt_run.open_case(path).arguments()[0].dtype.name == "bfloat16"
        # Heads and losses stay in float32.
        assert facts["flops"]["bfloat16"] > 0.9 * sum(facts["flops"].values())


def test_the_other_machine_needs_only_jax_and_numpy():
    tree = ast.parse((FOLDER / "pjrt_run.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
    names = {alias.name for node in imports for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    packages = {name.split(".")[0] for name in names} - sys.stdlib_module_names
    # JAX brings ml_dtypes.
    assert packages == {"jax", "numpy", "ml_dtypes"}


def test_a_file_of_another_version(sampler, tmp_path):
    copied(sampler, tmp_path, lambda facts: {**facts, "format": 7})
    result = run(tmp_path)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and "format 7" in line and SAMPLER in line


@pytest.mark.parametrize("missing", [pjrt_run.PROGRAM, "0001.npy"])
def test_a_file_without_a_part(missing, sampler, tmp_path):
    path = copied(sampler, tmp_path, without=[missing])
    with pytest.raises(pjrt_run.CaseError, match=f"{SAMPLER}.*{missing}.*lower it again"):
        pjrt_run.open_case(path)


def test_a_file_with_missing_arguments(sampler, tmp_path):
    def drop_last(facts):
        return {**facts, "arguments": facts["arguments"][:-1]}

    path = copied(sampler, tmp_path, drop_last)
    with pytest.raises(pjrt_run.CaseError, match=f"{SAMPLER}.*2 of 3 arguments; lower it again"):
        pjrt_run.open_case(path)


def test_arguments_of_another_shape(sampler, tmp_path):
    def shorten(facts):
        facts["arguments"][0]["shape"][0] -= 1
        return facts

    result = run("--one", copied(sampler, tmp_path, shorten))
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and "other shapes or dtypes; lower it again" in line


def test_files_that_are_something_else(tmp_path):
    path = tmp_path / "case.zip"
    path.write_text("nonsense")
    with pytest.raises(pjrt_run.CaseError, match=r"case\.zip: not a case"):
        pjrt_run.open_case(path)
    results = tmp_path / "results.json"
    for content, problem in (("nonsense", "not a file"), ('{"format": 7}', "another version")):
        results.write_text(content)
        with pytest.raises(pjrt_run.CaseError, match=problem):
            pjrt_run.read_results(results)


def test_a_damaged_file(sampler, tmp_path):
    """Its directory is whole, and its facts are not."""
    content = bytearray(sampler.read_bytes())
    with zipfile.ZipFile(sampler) as archive:
        start = archive.getinfo(pjrt_run.FACTS).header_offset
    # Past the header of the entry and that of its compression.
    for position in range(start + 60, start + 90):
        content[position] ^= 0xFF
    path = tmp_path / "case.zip"
    path.write_bytes(content)
    with pytest.raises(pjrt_run.CaseError, match=r"case\.zip: not a case \(LZMAError"):
        pjrt_run.open_case(path)
    for facts in ([], {"format": pjrt_run.FORMAT}):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(pjrt_run.FACTS, json.dumps(facts))
        with pytest.raises(pjrt_run.CaseError, match=r"case\.zip: not a case"):
            pjrt_run.open_case(path)


def test_a_case_that_takes_too_long_does_not_keep_the_others_waiting(monkeypatch):
    limits = []

    def run_out(command, timeout, **_):
        limits.append(timeout)
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", run_out)
    result = pjrt_run._in_process(["case.zip"], pjrt_run.Budget(90.0))
    assert result == {"error": "not finished in 30 s"}
    assert limits == [30.0]


def test_a_case_that_cannot_be_lowered_is_left_out(lower, tmp_path, monkeypatch, capsys):
    names = [case.name for case in cases.DEMOS[:2]]

    def fail_first(case, path):
        if case.name == names[0]:
            raise ValueError("no such operation\nin XLA")
        pathlib.Path(path).write_text("lowered")

    monkeypatch.setattr(lower, "lower", fail_first)
    monkeypatch.setattr(lower, "_OUT", flag(str(tmp_path)))
    monkeypatch.setattr(lower, "_CASES", flag(names))
    monkeypatch.setattr(lower, "_LIST", flag(False))
    with pytest.raises(SystemExit, match=f"1 of 2 cases failed: {names[0]}"):
        lower.main([])
    assert f"error: {names[0]}: no such operation\n" in capsys.readouterr().err
    assert [path.stem for path in tmp_path.iterdir()] == [names[1]]


def flag(value):
    return types.SimpleNamespace(value=value)


def test_a_folder_without_the_case(sampler):
    with pytest.raises(pjrt_run.CaseError, match=r"no case is called \*-640-\*"):
        pjrt_run.open_cases(sampler.parent, ["*-640-*"])


def test_an_unknown_case_is_refused_before_lowering(lower):
    with pytest.raises(SystemExit, match="--cases=retinannet"):
        lower.chosen(["retinannet*"])


def test_no_case_is_begun_after_the_time_is_up(sampler, tmp_path):
    copied(sampler, tmp_path)
    result = run(tmp_path, "--minutes=1e-6")
    assert result.returncode == 0 and f"too short for: {SAMPLER}" in result.stdout
    assert not (tmp_path / "results.json").exists()
    result = run(tmp_path, "--minutes=0")
    assert result.returncode == 2 and "not a positive number of minutes" in result.stderr


def test_the_most_important_case_comes_first(sampler, tmp_path):
    for importance, name in enumerate(("b", "c", "a")):
        path = copied(sampler, tmp_path, lambda facts, i=importance: {**facts, "importance": i})
        path.rename(tmp_path / f"{name}.zip")
    assert [case.name for case in pjrt_run.open_cases(tmp_path, ["*"])] == ["b", "c", "a"]


def test_every_case_of_the_plan_is_there_once():
    names = [case.name for case in [*cases.CASES, *cases.DEMOS]]
    assert len(set(names)) == len(names)
    for size in ("640", "1024"):
        for batch in (1, 2, 16):
            for dtype in ("float32", "bfloat16"):
                assert f"retinanet-model_garden-training-{size}-b{batch}-{dtype}" in names
                assert f"fasterrcnn-ours-inference-{size}-b{batch}-{dtype}" in names


def test_the_documents_table_is_the_programs():
    text = (FOLDER.parents[1] / "docs/results.md").read_text()
    assert "\n".join(pjrt_run.table({"cases": {}})) in text
    number = re.search(r"The (\d+) cases", text).group(1)
    assert int(number) == len(cases.CASES)


def test_rows_of_a_file_are_repeated():
    rows = np.arange(6, dtype=np.float32).reshape(2, 3).astype(tf.bfloat16.as_numpy_dtype)
    files = {"0.npy": saved(rows)}
    argument = {"shape": [4, 3], "dtype": "bfloat16", "from": "file", "file": "0.npy"}
    np.testing.assert_array_equal(pjrt_run.draw(argument, files.get), np.tile(rows, [2, 1]))


def saved(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_drawn_weights_have_their_moments():
    argument = {"shape": [100, 200], "dtype": "float32", "from": "normal", "seed": 3}
    argument |= {"mean": 0.5, "std": 0.01}
    weights = pjrt_run.draw(argument, {}.get)
    assert weights.dtype == np.float32
    np.testing.assert_allclose([weights.mean(), weights.std()], [0.5, 0.01], rtol=0.02)
    np.testing.assert_array_equal(weights, pjrt_run.draw(argument, {}.get))


def flops(function, *specs):
    function = tf.function(function, jit_compile=True, autograph=False)
    ir = function.experimental_get_compiler_ir(*[tf.TensorSpec(shape) for shape in specs])
    return hlo.matrix_flops(hlo.parse(ir(stage="hlo_serialized")))


def test_flops_are_those_of_tensorflows_profiler():
    """It counts additions of a bias and the like as well, and here there are none."""

    def forward(x, kernel, matrix):
        x = tf.nn.conv2d(x, kernel, [1, 2, 2, 1], "VALID", dilations=[1, 1, 1, 1])
        return tf.reshape(x, [2, -1]) @ matrix

    specs = ([2, 11, 13, 3], [3, 5, 3, 8], [200, 7])
    graph = tf.Graph()
    with graph.as_default():
        forward(*map(tf.compat.v1.placeholder, [tf.float32] * 3, specs))
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    profile = tf.compat.v1.profiler.profile(graph, options=options)
    assert flops(forward, *specs) == {"float32": profile.total_float_ops}


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (3, 1), (1, 2)])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_each_gradient_of_a_convolution_costs_what_it_costs_itself(padding, stride, dilation):
    """Every product of a weight and a value occurs once in each of the three."""

    def forward(x, kernel):
        return tf.nn.conv2d(x, kernel, stride, padding, dilations=dilation)

    def training(x, kernel):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            y = forward(x, kernel)
        return [y, *tape.gradient(y, [x, kernel])]

    specs = ([2, 12, 9, 4], [3, 3, 4, 5])
    assert flops(training, *specs) == {"float32": 3 * flops(forward, *specs)["float32"]}


def test_a_loop_counts_as_often_as_it_runs():
    from libra_tf import ops

    def apply(query_block):
        return lambda x: ops.non_local_gaussian(x, x, x, query_block=query_block)

    whole = {"float32": 2 * 2 * 64 * 64 * 16}
    assert flops(apply(None), [1, 64, 16]) == whole
    assert flops(apply(8), [1, 64, 16]) == whole
