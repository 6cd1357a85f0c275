"""DZOPA: a round by hand, who keeps what, its bytes, reduction to ZO-SGD, clients that leave, bad fields."""

from __future__ import annotations

from typing import Any

import pytest

from airloom.errors import ScenarioError
from airloom.methods.dzopa import DZOPA
from tests.methods.hand import away, star, targets
from tests.methods.quadratic import run

TWO = targets({"a": (1, 4.0), "b": (1, 8.0)})
FIELDS: dict[str, Any] = {"lr": 0.5, "batch_size": 1, "directions": 1, "mu": 1e-6, "estimates": 1, "gamma": 0.25}


def test_two_rounds_by_hand() -> None:
    # one dimension: every estimate is the derivative. From 0: x_a = 0.5 * 4 = 2, x_b = 4, mean 3
    course = run(star({"a": 1.0, "b": 1.0}), TWO, DZOPA(**FIELDS), 1, start=[0.0])
    assert course.x.item() == pytest.approx(3.0, abs=1e-6)
    assert (course.stamps[-1]["bytes_down"], course.stamps[-1]["bytes_up"]) == (2 * (8 + 8 + 8), 2 * 8)  # model, seed and pull down, model up
    # pull gamma N = 0.5: x_a = 2 - 0.5 (2 - 3) - 0.5 (2 - 4) = 3.5, x_b = 4 - 0.5 (4 - 3) - 0.5 (4 - 8) = 5.5, mean 4.5
    course = run(star({"a": 1.0, "b": 1.0}), TWO, DZOPA(**FIELDS), 2, start=[0.0])
    assert course.x.item() == pytest.approx(4.5, abs=1e-5)


def test_at_a_pull_of_one_all_go_on_from_the_mean() -> None:
    # gamma N = 1: x_n <- mean - eta g_n(x_n): with the mean of the own gradients this differs from ZO-SGD only by where g is taken
    course = run(star({"a": 1.0, "b": 1.0}), TWO, DZOPA(**{**FIELDS, "gamma": 0.5}), 2, start=[0.0])
    # after one round (2, 4, mean 3): x_a = 3 - 0.5 (2 - 4) = 4, x_b = 3 - 0.5 (4 - 8) = 5
    assert course.x.item() == pytest.approx(4.5, abs=1e-5)


def test_the_mean_over_mini_batches_is_one_step() -> None:
    # one row per client, so that every mini-batch is the same, and the mean of three equal estimates is the estimate
    one, three = (run(star({"a": 1.0}), targets({"a": (1, 4.0)}), DZOPA(**{**FIELDS, "estimates": k}), 1, start=[0.0]).x.item() for k in (1, 3))
    assert one == pytest.approx(2.0, abs=1e-6) and three == pytest.approx(2.0, abs=1e-6)


def test_those_that_leave_are_left_out_and_nobody_keeps_the_model() -> None:
    course = run(star({"a": 1.0, "b": 1.0}, churn=away(b=(1.0,))), TWO, DZOPA(**FIELDS), 1, start=[0.0])
    assert course.x.item() == pytest.approx(2.0, abs=1e-6)
    course = run(star({"a": 1.0, "b": 1.0}, churn=away(a=(1.0,), b=(1.0,))), TWO, DZOPA(**FIELDS), 1, start=[5.0])
    assert course.x.item() == 5.0


def test_a_pull_that_parts_the_models_is_refused() -> None:
    with pytest.raises(ScenarioError, match=r"DZOPA\.gamma: got 1\.0 with 2 clients; allowed is less than 2 / N = 1"):
        run(star({"a": 1.0, "b": 1.0}), TWO, DZOPA(**{**FIELDS, "gamma": 1.0}), 1, start=[0.0])


@pytest.mark.parametrize("field", [{"gamma": 0.0}, {"lr": 0.0}, {"estimates": 0}, {"batch_size": 0}, {"mu": -1.0}, {"directions": 0}])
def test_fields_are_checked(field: dict[str, Any]) -> None:
    with pytest.raises(ScenarioError, match=rf"DZOPA\.{next(iter(field))}: got .* allowed is"):
        DZOPA(**field)
