"""How many groups, and who is in them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from airloom.errors import ScenarioError
from airloom.parts.group import ICG, RandomGroups, grouper


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        # beta floor(a r + 1), r = 1..6: 0.5 r + 1 = 1.5, 2, 2.5, 3, 3.5, 4
        ({"growth": "linear", "rate": 0.5}, [2, 4, 4, 6, 6, 8]),
        # ln r = 0, 0.69, 1.10, 1.39, 1.61, 1.79; times 2 plus 1: 1, 2.39, 3.20, 3.77, 4.22, 4.58
        ({"growth": "log", "rate": 2.0}, [2, 4, 6, 6, 8, 8]),
        # 2^r
        ({"growth": "exp", "rate": 2.0}, [4, 8, 16, 32, 50, 50]),
        # 2^(r - 1)
        ({"growth": "power", "rate": 1.0}, [2, 4, 8, 16, 32, 50]),
        ({"growth": "none", "rate": 9.0}, [2] * 6),
    ],
)
def test_growth(fields: dict[str, Any], expected: list[int]) -> None:
    assert [RandomGroups(start=2, **fields).groups(t, 50) for t in range(6)] == expected


@pytest.mark.parametrize("growth", ["linear", "log", "exp", "power", "none"])
def test_groups_never_become_fewer_nor_more_than_clients(growth: Any) -> None:
    numbers = [RandomGroups(start=3, growth=growth, rate=1.1).groups(t, 40) for t in range(2000)]
    assert all(a <= b for a, b in pairwise(numbers))
    assert numbers[-1] == (3 if growth == "none" else 40 if growth != "log" else min(40, 3 * int(1.1 * np.log(2000) + 1)))


def test_the_authors_defaults_are_a_slow_ramp() -> None:
    numbers = [ICG().groups(t, 368) for t in range(501)]
    assert numbers[0] == 10
    assert numbers.index(368) == 499  # round 500: 10 floor(0.072 * 500 + 1) = 370


@pytest.mark.parametrize("made", [ICG(start=3, growth="none"), ICG(start=3, growth="none", normalize=True), RandomGroups(start=3, growth="none")])
def test_groups_of_names(made: Any) -> None:
    names = list("abcdefgh")
    counts = {n: np.array([1 + i % 2, 1 + i % 3]) for i, n in enumerate(names)}
    found = made.form(names, counts, 0, np.random.default_rng(0))
    assert [len(g) for g in found] == [2, 2, 2]
    assert all(g == sorted(g) for g in found)
    assert len({n for g in found for n in g}) == 6
    assert made.form([], {}, 0, np.random.default_rng(0)) == []
    assert (made.flops(8, 3, 2) > 0) == made.needs_counts


def test_by_name_and_bad_input() -> None:
    assert grouper("random(start=4)") == RandomGroups(start=4)
    with pytest.raises(ScenarioError, match="group='kmeans': unknown; allowed: icg, random"):
        grouper("kmeans")
    with pytest.raises(ScenarioError, match=r"ICG\(growth='exp', rate=0.072\): must be >= 1"):
        ICG(growth="exp")
    with pytest.raises(ScenarioError, match=r"ICG\.start"):
        ICG(start=0)
    with pytest.raises(ScenarioError, match="no label in any class"):
        ICG(start=1).form(["a", "b"], {"a": np.array([1, 0]), "b": np.array([0, 0])}, 0, np.random.default_rng(0))
