"""What can go wrong when a detector is asked, wherever it runs, as one-line errors."""

import re

# The served graph's message for an image that it cannot decode; see `libra_tf.serving.images`.
_BAD_IMAGES = re.compile(r"\[(image \d+ of the batch .*)\]")
_BAD_IMAGE = re.compile(r"image (\d+) of the batch (.*)")


class DetectorError(Exception):
    """No request will be answered: what was asked is gone, or is no detector."""


class RequestError(Exception):
    """This request was not answered, but others may be."""


class RefusedError(RequestError):
    """The detector refuses images of the request.

    Attributes:
      problems: position in the request -> what is wrong with that image.
    """

    def __init__(self, problems: dict[int, str]) -> None:
        super().__init__("; ".join(problems.values()))
        self.problems = problems


def find_refusal(message: str) -> RefusedError | None:
    """Returns the refused images that a served graph's error names, None for any other error."""
    refused = _BAD_IMAGES.search(message)
    if not refused:
        return None
    parts = re.split(r"; (?=image \d+ of the batch )", refused.group(1))
    matches = (_BAD_IMAGE.match(part) for part in parts)
    return RefusedError({int(match.group(1)): match.group(2) for match in matches})
