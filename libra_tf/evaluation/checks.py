"""Checks of what an evaluation's page is asked for, before anything slow is imported."""

from libra_tf.cli.errors import UsageError


def check_threshold(name: str, score_threshold: float) -> None:
    """Checks that a score can reach a threshold.

    Args:
      name: of the flag or argument.
      score_threshold: the threshold.

    Raises:
      UsageError: if it does not lie in [0, 1].
    """
    is_number = isinstance(score_threshold, (int, float)) and not isinstance(score_threshold, bool)
    if not (is_number and 0 <= score_threshold <= 1):
        raise UsageError(f"{name}={score_threshold}: scores are numbers from 0 to 1; name one")


def check_report(report: bool | None, score_threshold: float | None, compare: str | None) -> None:
    """Checks the flags of the page.

    Args:
      report: of `--report`; None if it was not given.
      score_threshold: of `--report_threshold`; None if it was not given.
      compare: of `--compare`; None if it was not given.

    Raises:
      UsageError: if they contradict each other, the threshold does not lie in [0, 1], or there is
        nothing to compare with.
    """
    if report not in (None, True, False):
        raise UsageError(f"report={report!r}: it is True or False, or None for the default")
    if score_threshold is not None:
        check_threshold("--report_threshold", score_threshold)
    for flag, value in (("--report_threshold", score_threshold), ("--compare", compare)):
        if value is not None and report is False:
            raise UsageError(f"{flag}={value} is for the page that --noreport leaves out; drop one")
    if compare is not None:
        # Imported here because it takes a while.
        from libra_tf.evaluation import records

        records.check_is_there(compare)
