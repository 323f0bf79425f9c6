"""What the numbers mean, in words: the finding with its number, what to change, the config line.

A verdict says what is unbalanced. Whether less imbalance makes a better detector is for training to
show; where trainings have shown it, a verdict quotes in how many.
"""

from libra_tf.analysis.verdicts.finding import ACT, FINE, LOOK, Gauge, Verdict
from libra_tf.analysis.verdicts.judging import judge, summarise
from libra_tf.analysis.verdicts.samples import NOUNS, current_sampling, is_sampled

__all__ = [
    "ACT",
    "FINE",
    "LOOK",
    "NOUNS",
    "Gauge",
    "Verdict",
    "current_sampling",
    "is_sampled",
    "judge",
    "summarise",
]
