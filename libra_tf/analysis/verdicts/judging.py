"""All verdicts on a run, and their summary."""

from collections.abc import Mapping, Sequence
from typing import Any

from libra_tf.analysis.verdicts import classes, features, objective, samples
from libra_tf.analysis.verdicts.finding import ACT, FINE, LOOK, Verdict

_BY_URGENCY = (ACT, LOOK, FINE)
_SUBJECTS = (samples, features, objective, classes)


def judge(numbers: Mapping[str, Any]) -> list[Verdict]:
    """Judges a run.

    Args:
      numbers: the numbers of a `libra_tf.analysis.collect.Analysis`.

    Returns:
      The verdicts, the most urgent first; equally urgent ones in the order of the subjects. What
      cannot be judged is left out.
    """
    verdicts = [verdict for subject in _SUBJECTS for verdict in subject.judge(numbers)]
    found = [verdict for verdict in verdicts if verdict is not None]
    return sorted(found, key=lambda verdict: _BY_URGENCY.index(verdict.state))


def summarise(verdicts: Sequence[Verdict]) -> str:
    """Returns how many of a run's verdicts ask for something, in one sentence.

    Args:
      verdicts: of a run.
    """
    states = [verdict.state for verdict in verdicts]
    bad, doubtful = states.count(ACT), states.count(LOOK)
    text = f"{bad or 'None'} of {len(states)} {'need' if bad > 1 else 'needs'} attention"
    if doubtful:
        text += f", {doubtful} {'are' if doubtful > 1 else 'is'} worth a look"
    return f"{text}."
