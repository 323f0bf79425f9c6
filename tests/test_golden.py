"""The golden numbers lie in the clone, so they must stay small."""

import pathlib

GOLDEN = pathlib.Path(__file__).parent / "golden"
LIMIT = 10 * 10**6


def test_the_golden_numbers_stay_small():
    sizes = {path.name: path.stat().st_size for path in GOLDEN.rglob("*") if path.is_file()}
    assert {"README.md", "balanced_l1_a0.5_g1.5_b1.0.npz", "libra_retinanet_r50.pth"} <= set(sizes)
    assert sum(sizes.values()) < LIMIT
