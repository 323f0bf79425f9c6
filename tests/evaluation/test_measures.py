"""What measuring everything shows while it takes its time."""

import collections

import pytest
import rich.console

from libra_tf.cli.progress import Progress
from libra_tf.evaluation import measures, subject
from tests.evaluation import scenes

pytestmark = pytest.mark.one_lane


class Recorded(Progress):
    """Keeps what it is told."""

    def __init__(self):
        super().__init__(rich.console.Console(quiet=True))
        self.totals, self.done = {}, collections.defaultdict(list)

    def start(self, phase, total, *args, **options):
        super().start(phase, total, *args, **options)
        self.totals[phase] = total

    def advance(self, done, *args, **options):
        super().advance(done, *args, **options)
        self.done[self._phase].append(done)


@pytest.mark.parametrize("num_classes", [1, 3])
def test_what_takes_long_shows_how_far_it_is(num_classes):
    objects, detections = scenes.random(4, num_classes=num_classes, num_images=120)
    made = scenes.make(objects, detections, num_classes=num_classes, num_images=120)
    progress = Recorded()
    measured = measures.measure(made, subject.BOXES, progress=progress)
    of_classes = ["matching"] + ["matching with excuses"] * (num_classes > 1)
    assert progress.totals == dict.fromkeys(of_classes, len(detections))
    for phase, total in progress.totals.items():
        done = progress.done[phase]
        assert done == sorted(done) and done[-1] == total
        # A log has one line of the end.
        assert done.count(total) == 1
    # Image by image, even if there is one class.
    assert len(progress.done["matching"]) > 20
    # And the numbers are the same without.
    assert measured.numbers == measures.measure(made, subject.BOXES).numbers


def test_without_detections_nothing_is_shown():
    progress = Recorded()
    measures.measure(scenes.make([(1, 1, [10, 10, 20, 20])], []), subject.BOXES, progress=progress)
    assert not progress.done["matching"]
