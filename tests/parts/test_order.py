from __future__ import annotations

from collections import Counter

import pytest

from airloom.clock.rng import generator
from airloom.parts.order import ORDERERS, FixedOrder, RandomReshuffle, ShuffleOnce

NAMES = [f"phone{i}" for i in range(6)]


@pytest.mark.parametrize("name", ORDERERS)
def test_every_order_is_a_permutation_of_those_present(name: str) -> None:
    orderer, state = ORDERERS[name](), None
    for epoch, present in enumerate([NAMES, NAMES[2:], NAMES[:4], NAMES]):
        order, state = orderer.next(present, state, generator("order", epoch))
        assert sorted(order) == sorted(present)


def test_fixed_order_is_as_given() -> None:
    assert FixedOrder().next(["b", "a", "c"], None, generator(0)) == (["b", "a", "c"], None)


def test_random_reshuffle_draws_anew_and_is_a_function_of_its_stream() -> None:
    orders = [RandomReshuffle().next(NAMES, None, generator("epoch", epoch))[0] for epoch in range(50)]
    assert len({tuple(order) for order in orders}) > 40  # of 720
    assert orders[7] == RandomReshuffle().next(NAMES, None, generator("epoch", 7))[0]


def test_random_reshuffle_puts_each_client_everywhere_equally_often() -> None:
    first = Counter(RandomReshuffle().next(NAMES, None, generator("first", epoch))[0][0] for epoch in range(6000))
    # 1000 expected, standard deviation sqrt(6000 * 1/6 * 5/6) = 28.9
    assert all(abs(first[name] - 1000) < 4 * 28.9 for name in NAMES)


def test_shuffle_once_never_changes_and_keeps_its_state() -> None:
    first, state = ShuffleOnce().next(NAMES, None, generator("a"))
    again, after = ShuffleOnce().next(NAMES, state, generator("b"))
    assert again == first
    assert after == state
    assert first != NAMES  # true for this stream


def test_shuffle_once_skips_the_absent_and_appends_the_late() -> None:
    first, state = ShuffleOnce().next(NAMES[:4], None, generator("a"))
    order, state = ShuffleOnce().next([*NAMES[1:4], "late"], state, generator("b"))
    assert order == [name for name in first if name != NAMES[0]] + ["late"]
    back, _ = ShuffleOnce().next(NAMES[:4], state, generator("c"))
    assert back == first  # who returns has the old place
