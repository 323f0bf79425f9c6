"""Results are computed a little ahead, in order, and no further."""

import threading

import pytest

from libra_tf.data import ahead


def test_results_come_in_order_and_only_a_few_ahead():
    begun, most = [], threading.Semaphore(0)

    def square(number):
        begun.append(number)
        most.release()
        return number**2

    results = ahead.in_threads(square, iter(range(100)), num_threads=2, most_ahead=6)
    assert next(results) == 0
    for _ in range(6):
        assert most.acquire(timeout=10)
    assert not most.acquire(timeout=0.1), "nobody has taken the second result"
    assert list(results) == [number**2 for number in range(1, 100)]
    assert sorted(begun) == list(range(100))


def test_what_fails_ends_the_others():
    begun = []

    def fail(number):
        begun.append(number)
        raise ValueError(number)

    with pytest.raises(ValueError, match="0"):
        list(ahead.in_threads(fail, range(100), num_threads=1, most_ahead=4))
    assert len(begun) <= 4
