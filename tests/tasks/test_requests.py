"""Request streams belong to the seed."""

from __future__ import annotations

import pytest

from airloom.errors import ScenarioError
from airloom.tasks.requests import poisson


def drawn(count: int, seed: int = 0, per_s: float = 0.5):
    return poisson(["a", "b"], count=count, per_s=per_s, context_bytes=3, draw=lambda rng: (str(rng.integers(1000)), ""), seed=seed)


def test_the_first_requests_stay_when_there_are_more_and_places_differ() -> None:
    few, many = drawn(3), drawn(300)
    assert [(r.at_s, r.question) for r in few["a"]] == [(r.at_s, r.question) for r in many["a"][:3]]
    assert [r.question for r in many["a"]] != [r.question for r in many["b"]] != [r.question for r in drawn(300, seed=1)["b"]]
    assert sorted(r.number for place in many.values() for r in place) == list(range(600))
    assert many["a"][-1].at_s / 300 == pytest.approx(2.0, rel=0.25)  # a mean of 300 exponential times: four standard deviations


@pytest.mark.parametrize(("count", "per_s"), [(0, 1.0), (1, 0.0), (1, float("nan"))])
def test_bad_numbers_are_refused(count: int, per_s: float) -> None:
    with pytest.raises(ScenarioError, match="poisson"):
        drawn(count, per_s=per_s)
