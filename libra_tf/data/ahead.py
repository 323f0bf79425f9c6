"""Work in threads that runs a little ahead of whoever takes its results."""

import collections
import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from typing import Any


def in_threads(
    function: Callable[[Any], Any], items: Iterable[Any], num_threads: int, most_ahead: int
) -> Iterator[Any]:
    """Yields the results for all items in their order.

    An executor's own `map` computes all of them at once, which may fill the memory.

    Args:
      function: computes the result for an item.
      items: what to compute with; taken one by one as they are needed.
      num_threads: how many results are computed at once.
      most_ahead: how many results may be there or on their way before the first is taken.

    Yields:
      The results.
    """
    pending: collections.deque[concurrent.futures.Future] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= most_ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
