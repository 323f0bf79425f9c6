"""The same contestant in several precisions: its names and its ratios."""

from collections.abc import Mapping

OURS = "ours"


def name(contestant: str, dtype: str) -> str:
    """Names a contestant in a precision."""
    return f"{contestant} in {dtype}"


def ratios(seconds: Mapping[str, float]) -> str:
    """Compares each contestant with itself in another precision, and with ours.

    Args:
      seconds: by `name`, how long a contestant takes.

    Returns:
      A line for the precisions, if there are several, and one for each contestant but ours.
    """
    times: dict[str, dict[str, float]] = {}
    for full_name, duration in seconds.items():
        contestant, dtype = full_name.rsplit(" in ", 1)
        times.setdefault(contestant, {})[dtype] = duration
    first, *others = times[OURS]
    lines = []
    for dtype in others:
        parts = [
            f"{contestant} {by_dtype[dtype] / by_dtype[first]:.2f}"
            for contestant, by_dtype in times.items()
            if dtype in by_dtype
        ]
        lines.append(f"{dtype} / {first}: {', '.join(parts)}")
    for contestant, by_dtype in times.items():
        if contestant == OURS:
            continue
        parts = [
            f"{duration / times[OURS][dtype]:.2f} in {dtype}"
            for dtype, duration in by_dtype.items()
        ]
        if others:
            best = min(by_dtype.values()) / min(times[OURS].values())
            parts.append(f"{best:.2f} with each at its fastest")
        lines.append(f"{contestant} / ours: {', '.join(parts)}")
    return "\n".join(lines)
