"""What a verdict consists of, and what all subjects share."""

import dataclasses
from typing import NamedTuple

# Differences below these could disappear with a few more batches.
MUCH = 0.10
LITTLE = 0.05
# The shares of two levels, or the norms of two losses, are unequal if they differ by more.
UNEQUAL = 3.0

FINE, LOOK, ACT = "balanced", "worth a look", "unbalanced"


@dataclasses.dataclass(frozen=True)
class Gauge:
    """The number that decides a verdict, and the value at which the verdict changes.

    Attributes:
      label: what the number is.
      value: the number.
      threshold: where the verdict changes.
      is_share: whether both are shares, to be written in percent.
    """

    label: str
    value: float
    threshold: float
    is_share: bool = True


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One finding.

    Attributes:
      level: `samples`, `features`, `objective` or `classes`.
      state: `FINE`, `LOOK` or `ACT`.
      title: what it is about.
      headline: the finding in one sentence of at most fifteen words.
      gauge: the number that decides; None where no single number does.
      text: the finding, with its numbers.
      suggestion: what to change, or why nothing.
      config: the lines for `--params_override` or a config file that make the change; empty for
        none.
    """

    level: str
    state: str
    title: str
    headline: str
    gauge: Gauge | None
    text: str
    suggestion: str
    config: tuple[str, ...] = ()


class Advice(NamedTuple):
    """What follows from a finding; the attributes are those of `Verdict`."""

    state: str
    headline: str
    suggestion: str = "Nothing to change."
    config: tuple[str, ...] = ()


def make_verdict(level: str, title: str, gauge: Gauge | None, text: str, advice: Advice) -> Verdict:
    """Returns a verdict; the arguments but `advice` are attributes of `Verdict`.

    Args:
      level: see `Verdict`.
      title: see `Verdict`.
      gauge: see `Verdict`.
      text: see `Verdict`.
      advice: the other attributes.
    """
    return Verdict(
        level,
        advice.state,
        title,
        advice.headline,
        gauge,
        text,
        advice.suggestion,
        advice.config,
    )


def multiple(label: str, value: float, unit: float, threshold: float) -> Gauge | None:
    """Returns the gauge of `value / unit`; None where there is nothing to divide by.

    Args:
      label: what the quotient is.
      value: the number.
      unit: what to divide it by.
      threshold: of the quotient; see `Gauge`.
    """
    return Gauge(label, value / unit, threshold, is_share=False) if unit > 0 else None


def percent(share: float) -> str:
    """Formats a share in percent, with a decimal if it is below ten."""
    return f"{100 * share:.0f} %" if abs(share) >= 0.095 or share == 0 else f"{100 * share:.1f} %"
