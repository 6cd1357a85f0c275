from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from airloom.plans.root import rising_root


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1e6))
def test_finds_the_root_or_the_nearer_end(root: float, a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert rising_root(lambda x: x - root, low, high) == min(max(root, low), high)


def test_a_tiny_root_keeps_its_digits() -> None:
    assert rising_root(lambda x: x - 1e-200, 0.0, 1.0) == 1e-200
