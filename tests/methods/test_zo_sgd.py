"""ZO-SGD: a step by hand, its mean over clients, its bytes, and clients that leave."""

from __future__ import annotations

from typing import Any

import pytest

from airloom.errors import ScenarioError
from airloom.methods.zo_sgd import ZOSGD
from tests.methods.hand import away, star, targets
from tests.methods.quadratic import run

TWO = targets({"a": (1, 4.0), "b": (1, 8.0)})
FIELDS: dict[str, Any] = {"lr": 0.5, "batch_size": 1, "directions": 1, "mu": 1e-6}


def test_a_step_is_the_mean_gradient_where_there_is_one_dimension() -> None:
    # v = +-1: c v = F' + mu v / 2, so that for mu -> 0 every estimate is the derivative: (0 - 4 + 0 - 8) / 2 = -6, and x = 0.5 * 6 = 3
    course = run(star({"a": 1.0, "b": 1.0}), TWO, ZOSGD(**FIELDS), 1, start=[0.0])
    assert course.x.item() == pytest.approx(3.0, abs=1e-6)
    # a model and a seed down, a gradient up
    assert (course.stamps[-1]["bytes_down"], course.stamps[-1]["bytes_up"]) == (2 * 16, 2 * 8)


def test_the_probe_is_as_long_as_it_says() -> None:
    # F = (w - 4)^2 / 2 at 0 with mu = 1: v = 1 gives (3^2 - 4^2) / 2 = -3.5, v = -1 gives (5^2 - 4^2) / 2 = 4.5, g = -3.5 or -4.5
    ends = {
        run(star({"a": 1.0}), targets({"a": (1, 4.0)}), ZOSGD(**{**FIELDS, "mu": 1.0, "lr": 1.0}), 1, start=[0.0], seed=k).x.item() for k in range(6)
    }
    assert ends == {3.5, 4.5}


def test_those_that_leave_are_left_out_and_nobody_keeps_the_model() -> None:
    course = run(star({"a": 1.0, "b": 1.0}, churn=away(b=(1.0,))), TWO, ZOSGD(**FIELDS), 1, start=[0.0])
    assert course.x.item() == pytest.approx(2.0, abs=1e-6)  # a alone: 0.5 * 4
    course = run(star({"a": 1.0, "b": 1.0}, churn=away(a=(1.0,), b=(1.0,))), TWO, ZOSGD(**FIELDS), 1, start=[5.0])
    assert course.x.item() == 5.0


@pytest.mark.parametrize("field", [{"lr": 0.0}, {"batch_size": 0}, {"mu": -1.0}, {"directions": 0}])
def test_fields_are_checked(field: dict[str, Any]) -> None:
    with pytest.raises(ScenarioError, match=rf"ZOSGD\.{next(iter(field))}: got .* allowed is"):
        ZOSGD(**field)
