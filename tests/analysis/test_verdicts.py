"""What the numbers of a run mean, and what to do about it."""

import dataclasses
import re

import pytest
from official.core import exp_factory

from libra_tf.analysis import verdicts
from tests.analysis.runs import check_lines

pytestmark = pytest.mark.one_lane


def write_numbers(**changes):
    """Numbers of a two-stage run in which nothing is unbalanced, with changes."""
    pick = {"hard_share": 0.4, "zero_share": 0.1, "count": 100, "histogram": [1] * 20}
    spread = {"mean": 5.0, "variation": 0.3, "without": 0.0, "histogram": [1]}
    numbers = {
        "kind": "two_stage",
        "settings": {
            "task.losses.box_loss": "huber",
            "task.losses.frcnn_box_weight": 0.5,
            "task.train_data.repeat_threshold": 0.0,
            "task.model.anchor.num_scales": 1,
            "task.model.roi_sampler.type": "iou_balanced",
            "task.model.roi_sampler.bin_range": "candidates",
            "task.model.roi_sampler.instance_balanced": True,
            "task.model.roi_sampler.class_balanced": False,
            "task.model.roi_sampler.num_bins": 3,
            "task.model.roi_generator.num_proposals": 1000,
        },
        "samples": {
            "proposals": {
                "num_samples": 64,
                "num_bins": 3,
                "picks": {
                    name: dict(pick)
                    for name in ("negatives", "random", "iou_balanced", "mmdet", "hardest")
                },
                "bins": {
                    r: {"held": [9, 9, 9], "wanted": 5.0, "starved": [0, 0, 0], "empty": [0, 0, 0]}
                    for r in ("candidates", "all")
                },
                "positives": {
                    "num_instances": 9,
                    "per_image": 50.0,
                    "wanted_per_image": 16.0,
                    "all": spread,
                    "random": spread,
                    "instance_balanced": spread,
                },
            }
        },
        "features": {
            "is_balanced": True,
            "levels": ["3", "4"],
            "share": [0.5, 0.5],
            "before": {k: {"effective_rank": 30.0, "channels": 64} for k in "34"},
            "after": {k: {"effective_rank": 30.0, "channels": 64} for k in "34"},
            "refinement_change": 0.2,
            "attention": {"entropy": 0.5, "distance_pixels": 40.0, "uniform_distance_pixels": 60.0},
        },
        "objective": {
            "gradient_norms": {
                "frcnn_cls": {"all": {"shared": 1.0}},
                "frcnn_box": {"all": {"shared": 1.0}},
            },
            "box_errors": {
                "frcnn_box": {
                    "beta": 1.0,
                    "inlier_count_share": 0.9,
                    "inlier_gradient_share": 0.85,
                    "inlier_over_outlier": 0.6,
                    "error_90_percent": 0.9,
                }
            },
        },
        "classes": {
            "num_images": 100,
            "num_objects": 300,
            "rarest": {"classes": ["star"], "even": 0.25, "objects": 0.2, "gradient": 0.2},
            "by_class": {
                "star": {"objects": 60, "images": 30},
                "square": {"objects": 70, "images": 40},
                "circle": {"objects": 70, "images": 50},
                "triangle": {"objects": 100, "images": 90},
            },
        },
    }
    for path, value in changes.items():
        node = numbers
        *parents, last = path.split("/")
        for parent in parents:
            node = node[parent]
        node[last] = value
    return numbers


def judged(title, **changes):
    (verdict,) = (v for v in verdicts.judge(write_numbers(**changes)) if title in v.title)
    return verdict


def test_a_balanced_run_is_told_so():
    assert {v.state for v in verdicts.judge(write_numbers())} == {verdicts.FINE}


PICKS = "samples/proposals/picks/"


# Title, changes that unbalance a run, the state, a config line.
UNBALANCED = [
    (
        "Hard negatives",
        {
            "settings/task.model.roi_sampler.type": "random",
            PICKS + "iou_balanced/hard_share": 0.7,
            PICKS + "hardest/hard_share": 0.6,
        },
        verdicts.ACT,
        "task.model.roi_sampler.type=iou_balanced",
    ),
    (
        "Hard negatives",
        {
            "settings/task.model.roi_sampler.bin_range": "all",
            PICKS + "iou_balanced/hard_share": 0.7,
            PICKS + "hardest/hard_share": 0.7,
        },
        verdicts.LOOK,
        "task.model.roi_sampler.bin_range=candidates",
    ),
    (
        "Hard negatives",
        {PICKS + "iou_balanced/hard_share": 0.7},
        verdicts.LOOK,
        "task.model.roi_sampler.floor_fraction=0.60",
    ),
    (
        "Starved",
        {"samples/proposals/bins/candidates/starved": [0, 0.1, 0.9]},
        verdicts.LOOK,
        "task.model.roi_generator.num_proposals=2000",
    ),
    (
        "Positives",
        {
            "samples/proposals/positives/all/without": 0.5,
            "settings/task.model.anchor.num_scales": 3,
        },
        verdicts.ACT,
        "task.model.anchor.num_scales=4",
    ),
    (
        "Positives",
        {
            "settings/task.model.roi_sampler.instance_balanced": False,
            "samples/proposals/positives/random": {"variation": 0.7},
        },
        verdicts.ACT,
        "task.model.roi_sampler.instance_balanced=true",
    ),
    (
        "Levels",
        {"features/share": [0.8, 0.2]},
        verdicts.LOOK,
        "task.model.decoder.libra_fpn.refine_level=3",
    ),
    (
        "Levels",
        {"features/share": [0.8, 0.2], "features/is_balanced": False},
        verdicts.ACT,
        "task.model.decoder.type=libra_fpn",
    ),
    (
        "Refinement",
        {"features/refinement_change": 0.001},
        verdicts.LOOK,
        "task.model.decoder.libra_fpn.refine_type=null",
    ),
    (
        "Refinement",
        {"features/attention/entropy": 0.99},
        verdicts.LOOK,
        "task.model.decoder.libra_fpn.refine_type=conv",
    ),
    (
        "Classification",
        {"objective/gradient_norms/frcnn_box/all/shared": 10.0},
        verdicts.ACT,
        # Halfway from 0.5 to 0.05.
        "task.losses.frcnn_box_weight=0.275",
    ),
    (
        "Classification",
        {"settings/task.losses.frcnn_box_weight": 2.0},
        verdicts.LOOK,
        "task.losses.frcnn_box_weight=1",
    ),
    (
        "Inliers",
        {"settings/task.losses.box_loss": "balanced_l1"},
        verdicts.LOOK,
        "task.losses.box_loss=huber",
    ),
    (
        "Objects of each",
        {"classes/rarest/objects": 0.04},
        verdicts.ACT,
        # In 45 of 100 images is the median class.
        "task.train_data.repeat_threshold=0.45",
    ),
    (
        "Objects of each",
        # A fifth of 0.45 would be a start.
        {
            "classes/rarest/objects": 0.04,
            "settings/task.train_data.repeat_threshold": 0.08,
        },
        verdicts.LOOK,
        "task.train_data.repeat_threshold=0.45",
    ),
    (
        "Gradient of each",
        {"classes/rarest/gradient": 0.04},
        verdicts.ACT,
        "task.train_data.repeat_threshold=0.45",
    ),
]


@pytest.mark.parametrize(("title", "changes", "state", "line"), UNBALANCED)
def test_an_unbalanced_run_is_told_what_to_change(title, changes, state, line):
    verdict = judged(title, **changes)
    assert verdict.state == state
    assert line in verdict.config
    check_lines(exp_factory.get_exp_config("libra_fasterrcnn_demo"), verdict.config)


def test_what_a_verdict_says_of_average_precision_was_counted(report_of_both):
    verdicts_of_cases = [judged(title, **changes) for title, changes, *_ in UNBALANCED]
    on_page = [verdict for run in report_of_both.runs for verdict in run["verdicts"]]
    for verdict in [*on_page, *map(dataclasses.asdict, verdicts_of_cases)]:
        assert not re.search(r"\bm?AP\b|average precision", verdict["title"] + verdict["headline"])
        for sentence in re.split(r"(?<=\.) ", f"{verdict['text']} {verdict['suggestion']}"):
            if re.search(r"\bm?AP\b|average precision", sentence):
                assert re.search(r" in \d+ of \d+ ", sentence), sentence


def judged_one_stage(title, **changes):
    """Like `judged`, for a RetinaNet without its samples."""
    numbers = write_numbers(**changes)
    objective = numbers["objective"]
    for part in ("gradient_norms", "box_errors"):
        objective[part] = {
            name.removeprefix("frcnn_"): measured for name, measured in objective[part].items()
        }
    numbers |= {"kind": "one_stage", "samples": {}}
    (verdict,) = (v for v in verdicts.judge(numbers) if title in v.title)
    return verdict


ERRORS = "objective/box_errors/frcnn_box/"
MANY_OUTLIERS = {ERRORS + "inlier_gradient_share": 0.45}


@pytest.mark.parametrize(
    ("loss", "weight", "new_weight"),
    [("huber", 50, "4"), ("huber", 25, "2"), ("huber", 12.5, "1"), ("l1", 4, "4")],
)
def test_balanced_l1_is_advised_to_retinanet_at_the_runs_own_weight(loss, weight, new_weight):
    settings = {
        "settings/task.losses.box_loss": loss,
        "settings/task.losses.box_loss_weight": weight,
    }
    verdict = judged_one_stage("Inliers", **MANY_OUTLIERS, **settings)
    assert (verdict.state, verdict.config) == (
        verdicts.ACT,
        (
            "task.losses.box_loss=balanced_l1",
            f"task.losses.box_loss_weight={new_weight}",
            "task.losses.balanced_l1.beta=0.11",
        ),
    )
    assert "0.2 points of average precision with it in 1 of 1 trainings" in verdict.suggestion


def test_balanced_l1_is_not_advised_to_two_stage_detectors():
    verdict = judged("Inliers", **MANY_OUTLIERS)
    assert (verdict.state, verdict.config) == (verdicts.LOOK, ())
    assert "lowered average precision in 31 of 33" in verdict.suggestion


@pytest.mark.parametrize("inlier_share", [0.1, 0.9, 1.0])
def test_two_stage_detectors_with_balanced_l1_are_told_of_huber(inlier_share):
    changes = {ERRORS + "inlier_gradient_share": inlier_share}
    verdict = judged("Inliers", **changes, **{"settings/task.losses.box_loss": "balanced_l1"})
    assert (verdict.state, verdict.gauge) == (verdicts.LOOK, None)
    assert verdict.config == ("task.losses.box_loss=huber",)
    assert "lowered average precision in 31 of 33" in verdict.suggestion


def test_mmdetections_balanced_l1_is_that_of_the_published_models():
    settings = {"task.losses.box_loss": "balanced_l1", "task.model.compatibility": "mmdetection"}
    verdict = judged("Inliers", **{f"settings/{key}": value for key, value in settings.items()})
    assert (verdict.state, verdict.config) == (verdicts.FINE, ())


@pytest.mark.parametrize("loss", ["huber", "balanced_l1"])
@pytest.mark.parametrize("outliers", [0.1, 0.6])
def test_all_losses_have_the_same_mark_for_outliers(loss, outliers):
    """Even if most coordinates are outliers."""
    changes = {
        "settings/task.losses.box_loss": loss,
        "settings/task.losses.box_loss_weight": 2,
        ERRORS + "inlier_count_share": 1 - outliers,
    }
    few = {ERRORS + "inlier_gradient_share": 0.51}
    few, many = (judged_one_stage("Inliers", **changes, **c) for c in (few, MANY_OUTLIERS))
    assert few.state == verdicts.FINE != many.state
    assert (few.gauge.threshold, many.gauge.threshold) == (0.5, 0.5)
    assert "at most half" in few.headline and "more than half" in many.headline
    assert loss == "huber" or not many.config


def test_the_knee_of_balanced_l1_belongs_where_the_errors_are():
    changes = {
        "settings/task.losses.box_loss": "balanced_l1",
        "settings/task.losses.box_loss_weight": 2,
        ERRORS + "inlier_count_share": 1.0,
        ERRORS + "inlier_gradient_share": 1.0,
        ERRORS + "inlier_over_outlier": None,
        ERRORS + "error_90_percent": 0.118,
    }
    verdict = judged_one_stage("Inliers", **changes)
    assert (verdict.state, verdict.config) == (
        verdicts.LOOK,
        ("task.losses.balanced_l1.beta=0.12",),
    )


@pytest.mark.parametrize(
    ("loss", "weight", "lines"),
    [
        ("huber", 50, ("task.losses.box_loss_weight=25",)),
        ("huber", 25, ()),
        ("balanced_l1", 4, ("task.losses.box_loss_weight=2",)),
        ("balanced_l1", 2, ()),
    ],
)
def test_half_the_weight_is_worth_a_look_unless_the_run_has_it(loss, weight, lines):
    settings = {
        "settings/task.losses.box_loss": loss,
        "settings/task.losses.box_loss_weight": weight,
    }
    verdict = judged_one_stage("Classification", **settings)
    assert (verdict.state, verdict.config) == (verdicts.LOOK if lines else verdicts.FINE, lines)
    assert ("in 8 of 8 small trainings" in verdict.suggestion) == bool(lines)


def test_a_larger_weight_of_the_box_loss_is_not_advised():
    verdict = judged("Classification", **{"objective/gradient_norms/frcnn_box/all/shared": 0.1})
    assert (verdict.state, verdict.config) == (verdicts.LOOK, ())
    assert "learn little about localisation" in verdict.headline
    assert "in 8 of 8 small trainings" in verdict.suggestion


def test_a_headline_is_one_short_sentence(report_of_both):
    found = [judged(title, **changes) for title, changes, *_ in UNBALANCED]
    found += verdicts.judge(write_numbers())
    headlines = [verdict.headline for verdict in found]
    headlines += [v["headline"] for run in report_of_both.runs for v in run["verdicts"]]
    for headline in headlines:
        assert len(headline.split()) <= 15, headline
        assert re.fullmatch(r"[A-Z0-9].*[^.]\.", headline), headline
        assert not re.search(r"[.!?] [A-Z]", headline), headline


def test_what_is_fine_has_no_config(report_of_both):
    fine = [
        v for run in report_of_both.runs for v in run["verdicts"] if v["state"] == verdicts.FINE
    ]
    fine += [dataclasses.asdict(verdict) for verdict in verdicts.judge(write_numbers())]
    assert fine
    for verdict in fine:
        assert not verdict["config"]
        assert "task." not in verdict["headline"] + verdict["text"] + verdict["suggestion"]


def test_the_urgent_comes_first():
    states = [
        verdict.state
        for verdict in verdicts.judge(
            write_numbers(
                **{
                    "features/refinement_change": 0.001,
                    "objective/gradient_norms/frcnn_box/all/shared": 10.0,
                }
            )
        )
    ]
    assert states[:2] == [verdicts.ACT, verdicts.LOOK]
    assert set(states[2:]) == {verdicts.FINE}


@pytest.mark.parametrize(
    ("bad", "doubtful", "text"),
    [
        (0, 0, "None of 3 needs attention."),
        (1, 0, "1 of 4 needs attention."),
        (2, 1, "2 of 6 need attention, 1 is worth a look."),
        (0, 2, "None of 5 needs attention, 2 are worth a look."),
    ],
)
def test_the_summary_counts(bad, doubtful, text):
    states = [verdicts.FINE] * 3 + [verdicts.ACT] * bad + [verdicts.LOOK] * doubtful
    found = [verdicts.Verdict("samples", s, "title", "headline", None, "text", "") for s in states]
    assert verdicts.summarise(found) == text


@pytest.mark.parametrize("instance_balanced", [True, False])
def test_positives_that_are_drawn_evenly_over_the_classes(instance_balanced):
    changes = {
        "settings/task.model.roi_sampler.instance_balanced": instance_balanced,
        "settings/task.model.roi_sampler.class_balanced": True,
        "samples/proposals/positives/random": {"variation": 0.7},
    }
    verdict = judged("Positives", **changes)
    assert (verdict.state, verdict.config) == (verdicts.FINE, ())
    assert verdict.headline == "The positives are drawn evenly over the classes."
    random = judged("Positives", **changes, **{"settings/task.model.roi_sampler.type": "random"})
    assert random.state == verdicts.ACT


STARVED = {"samples/proposals/bins/candidates/starved": [0, 0.1, 0.9]}


def test_only_a_sampler_with_bins_can_have_starved_bins():
    assert judged("Starved", **STARVED).config
    random = {"settings/task.model.roi_sampler.type": "random"}
    found = verdicts.judge(write_numbers(**STARVED, **random))
    assert found and not any("Starved" in verdict.title for verdict in found)


def test_one_bin_cannot_become_fewer():
    more = "task.model.roi_generator.num_proposals=2000"
    assert judged("Starved", **STARVED).config == (more, "task.model.roi_sampler.num_bins=2")
    one = {
        "samples/proposals/bins/candidates/starved": [0.9],
        "settings/task.model.roi_sampler.num_bins": 1,
    }
    assert judged("Starved", **one).config == (more,)


def write_other_kind(kind, **changes):
    """The same numbers, with candidates of another kind instead of the proposals."""
    numbers = write_numbers(**changes)
    numbers["samples"] = {kind: numbers["samples"]["proposals"]}
    numbers["settings"] |= {
        key.replace("roi_sampler", "rpn_sampler"): value
        for key, value in numbers["settings"].items()
    }
    return numbers


@pytest.mark.parametrize("per_image", [1.1, 5.0, 500.0])
def test_a_detector_without_a_sampler_wants_no_number_of_positives(per_image):
    changes = {
        "samples/proposals/positives/per_image": per_image,
        "samples/proposals/positives/wanted_per_image": 128.0,
        "samples/proposals/positives/random": {"variation": 0.77},
        "samples/proposals/positives/instance_balanced": {"variation": 0.33},
    }
    found = verdicts.judge(write_other_kind("anchors", **changes))
    (positives,) = (verdict for verdict in found if "Positives" in verdict.title)
    assert positives.state == verdicts.FINE
    words = f"{positives.headline} {positives.text} {positives.suggestion} {positives.gauge}"
    assert str(per_image) in words
    assert not re.search("128|77|33|wanted|drawn", words)
    # Of candidates that are sampled, the same numbers are told.
    found = verdicts.judge(write_other_kind("rpn_anchors", **changes))
    assert any("128" in verdict.text for verdict in found)


@pytest.mark.parametrize(
    ("type_", "state", "lines"),
    [
        ("random", verdicts.FINE, ()),
        ("iou_balanced", verdicts.LOOK, ("task.model.rpn_sampler.type=random",)),
    ],
)
@pytest.mark.parametrize("hard_share", [0.1, 0.9])
def test_balancing_the_rpn_is_not_advised_whatever_it_picks(type_, state, lines, hard_share):
    changes = {
        "settings/task.model.roi_sampler.type": type_,
        PICKS + "iou_balanced/hard_share": hard_share,
        PICKS + "hardest/hard_share": 0.6,
    }
    found = verdicts.judge(write_other_kind("rpn_anchors", **changes))
    (verdict,) = (v for v in found if "Hard negatives" in v.title)
    assert (verdict.state, verdict.config, verdict.gauge) == (state, lines, None)
    assert "lowered average precision in" in verdict.suggestion


def test_no_other_verdict_advises_to_balance_the_rpn():
    uneven = {
        "settings/task.model.roi_sampler.type": "random",
        "samples/proposals/positives/random": {"variation": 0.9},
    }
    (verdict,) = (
        v for v in verdicts.judge(write_other_kind("rpn_anchors", **uneven)) if "Pos" in v.title
    )
    assert (verdict.state, verdict.config) == (verdicts.LOOK, ())
    found = verdicts.judge(write_other_kind("rpn_anchors", **STARVED))
    assert found and not any("Starved" in verdict.title for verdict in found)


@pytest.mark.parametrize(
    ("kind", "lines", "few", "enough"),
    [
        ("rpn_anchors", ("task.model.anchor.num_scales=2",), 12.7, 12.9),
        ("proposals", ("task.model.roi_sampler.num_sampled_rois=32",), 42.6, 42.7),
    ],
)
def test_far_fewer_positives_than_wanted_are_worth_a_look(kind, lines, few, enough):
    for per_image in (1.1, few):
        verdict = judged_positives(kind, per_image)
        assert (verdict.state, verdict.config) == (verdicts.LOOK, lines)
        assert verdict.gauge.value < verdict.gauge.threshold
        assert (
            verdict.headline == f"The sampler wants 128 positives per image and finds {per_image}."
        )
    verdict = judged_positives(kind, enough)
    assert (verdict.state, verdict.config) == (verdicts.FINE, ())
    assert verdict.gauge.value >= verdict.gauge.threshold


def judged_positives(kind, per_image):
    """The verdict on the positives, of 128 that a sampler wants."""
    changes = {
        "samples/proposals/positives/per_image": per_image,
        "samples/proposals/positives/wanted_per_image": 128.0,
    }
    found = verdicts.judge(write_other_kind(kind, **changes))
    (verdict,) = (v for v in found if "Positives" in v.title)
    assert verdict.gauge.value == per_image / 128
    return verdict


@pytest.mark.parametrize(
    ("title", "bad", "good"),
    [
        ("Starved", STARVED, {}),
        ("Levels", {"features/share": [0.8, 0.2]}, {}),
        ("Classification", {"objective/gradient_norms/frcnn_cls/all/shared": 0.1}, {}),
        ("Refinement", {"features/attention/entropy": 0.99}, {}),
        ("Inliers", MANY_OUTLIERS, {ERRORS + "inlier_gradient_share": 0.55}),
        ("Hard negatives", {PICKS + "iou_balanced/hard_share": 0.51}, {}),
    ],
)
def test_the_mark_of_a_gauge_divides_bad_from_good(title, bad, good):
    worse, better = (judged(title, **changes) for changes in (bad, good))
    assert better.state == verdicts.FINE != worse.state
    assert worse.gauge.threshold == better.gauge.threshold
    assert better.gauge.value <= better.gauge.threshold < worse.gauge.value


def test_the_gauge_shows_what_decides():
    """Balancing would make many more picks hard, but the detector's mistakes are no harder."""
    changes = {
        "settings/task.model.roi_sampler.type": "random",
        PICKS + "iou_balanced/hard_share": 0.9,
    }
    verdict = judged("Hard negatives", **changes)
    assert verdict.state == verdicts.FINE
    assert verdict.gauge.value < verdict.gauge.threshold


def test_features_that_do_not_vary_have_no_gauge():
    ranks = {"3": 0.0, "4": 9.0}
    flat = {"features/before": {k: {"effective_rank": r, "channels": 64} for k, r in ranks.items()}}
    assert judged("rank", **flat).state == verdicts.FINE
    plain = judged("rank", **flat, **{"features/is_balanced": False})
    assert (plain.state, plain.gauge) == (verdicts.ACT, None)


@pytest.mark.parametrize("part", ["objects", "gradient"])
@pytest.mark.parametrize(("share", "is_fine"), [(0.051, True), (0.049, False)])
def test_rare_classes_have_less_than_a_fifth_of_an_even_part(part, share, is_fine):
    verdict = judged(f"{part.capitalize()} of each", **{f"classes/rarest/{part}": share})
    assert (verdict.state == verdicts.FINE) == is_fine
    assert (verdict.gauge.value >= verdict.gauge.threshold) == is_fine
    assert is_fine or verdict.headline.startswith("Class star ")


@pytest.mark.parametrize(
    "changes",
    [
        {"classes/by_class": {"star": {"objects": 300, "images": 90}}},
        # Five for each of four classes.
        {"classes/num_objects": 19},
    ],
)
def test_classes_that_cannot_be_compared_are_not_judged(changes):
    levels = [verdict.level for verdict in verdicts.judge(write_numbers(**changes))]
    assert levels and "classes" not in levels


def test_a_run_that_does_something_for_rare_classes_is_not_told_to():
    rare = {"classes/rarest/objects": 0.01, "classes/rarest/gradient": 0.01}
    repeated = judged(
        "Objects of each", **rare, **{"settings/task.train_data.repeat_threshold": 0.1}
    )
    assert (repeated.state, repeated.config, repeated.gauge) == (verdicts.FINE, (), None)
    gradient = judged(
        "Gradient of each", **rare, **{"settings/task.train_data.repeat_threshold": 0.1}
    )
    assert (gradient.state, gradient.config) == (verdicts.LOOK, ())


def test_rare_classes_in_many_images_have_no_images_to_repeat():
    rare = {"classes/rarest/objects": 0.01, "classes/rarest/gradient": 0.01}
    for title in ("Gradient of each", "Objects of each"):
        verdict = judged(title, **rare, **{"classes/by_class/star/images": 90})
        assert (verdict.state, verdict.config) == (verdicts.LOOK, ())


def test_the_rarest_of_many_classes_are_counted_in_the_headline():
    names = ["a", "b", "c", "d", "e"]
    rarest = {"classes": names, "even": 0.25, "objects": 0.0, "gradient": 0.01}
    rows = {key: {"objects": 1, "images": 1} for key in names}
    rows |= {key: {"objects": 20, "images": 30} for key in "fghijklmnopqrst"}
    changes = {"classes/by_class": rows, "classes/rarest": rarest}
    verdict = judged("Objects of each", **changes)
    assert verdict.config == ("task.train_data.repeat_threshold=0.3",)
    assert verdict.headline == "The rarest 5 of 20 classes have 0 % of the objects."
    assert "the rarest 5 classes (a, b, c and others)" in verdict.text


def test_classes_without_objects_are_not_the_rarest():
    """They are said once, and neither repeated nor weighted."""
    rows = {key: {"objects": 0, "images": 0} for key in "abc"} | write_numbers()["classes"][
        "by_class"
    ]
    verdict = judged("Objects of each", **{"classes/by_class": rows})
    assert verdict.state == verdicts.FINE
    assert "triangle, has 100 objects, the rarest 60." in verdict.text
    assert verdict.text.count("3 classes have no object in the images measured.") == 1
    one = judged(
        "Objects of each", **{"classes/by_class": {**rows, "a": rows["star"], "b": rows["star"]}}
    )
    assert "1 class has no object in the images measured." in one.text
    # Twenty objects are enough for four classes, however many there are without.
    judged("Objects of each", **{"classes/by_class": rows, "classes/num_objects": 20})
    rare = {"classes/rarest/objects": 0.01, "classes/rarest/classes": ["star", "square"]}
    verdict = judged("Objects of each", **{"classes/by_class": rows}, **rare)
    assert verdict.headline == "The rarest 2 of 4 classes have 1.0 % of the objects."
