"""FedDyn: rounds by hand, the minimum of the mean loss as its fixed point, also when replies are lost, and its bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from airloom.errors import ScenarioError
from airloom.methods.fedavg import FedAvg
from airloom.methods.feddyn import FedDyn
from tests.methods.hand import away, star, targets
from tests.methods.quadratic import least_squares, optimum, random_rows, run

NAMES = list("abc")
ROWS = random_rows(NAMES)
BEST = optimum(list(ROWS.values()))
FIELDS: dict[str, Any] = {"local_steps": 10, "lr": 0.3, "batch_size": 4}


def test_rounds_by_hand() -> None:
    # one client with target 8, eta = 1/2, alpha = 1. From x = 0: x_n = 0 + 8/2 = 4, update 4, sum 4, x = 0 + 4 + 4 = 8, h_n = -4.
    # From 8: the slope is 0 + 4, x_n = 6, update -2, sum 2, x = 8 - 2 + 2 = 8, h_n = -2. From 8: slope 2, x_n = 7, update -1, sum 1, x = 8
    course = run(star({"a": 1.0}), targets({"a": (1, 8.0)}), FedDyn(local_steps=1, lr=0.5, batch_size=1, alpha=1.0), 3, start=[0.0])
    assert [s["x"].flat.item() for s in course.states] == [0.0, 8.0, 8.0, 8.0]
    assert [s["sum"].flat.item() for s in course.states] == [0.0, 4.0, 2.0, 1.0]
    assert (course.state("a", "h").item(), course.state("a", "h+").item()) == (-2.0, -1.0)
    # a model of 8 bytes and a bit down, the update up
    assert (course.spent(1)["bytes_down"], course.spent(1)["bytes_up"]) == (9, 8)


def test_it_ends_at_the_minimum_of_the_mean_loss_and_fedavg_does_not() -> None:
    mine, avg = (
        run(star(dict.fromkeys(NAMES, 1e9)), least_squares(ROWS), m, 200, start=[0.0] * 3) for m in (FedDyn(**FIELDS, alpha=0.3), FedAvg(**FIELDS))
    )
    assert np.abs(mine.x.numpy() - BEST).max() < 1e-6
    assert np.abs(avg.x.numpy() - BEST).max() > 1e-2


@pytest.mark.parametrize("left_s", [pytest.param(0.3, marks=pytest.mark.slow), 0.7, pytest.param(1.2, marks=pytest.mark.slow), 1.6])
def test_a_lost_reply_leaves_no_bias(left_s: float) -> None:
    # down 1 s, steps of 480 FLOPs at 1e3 FLOP/s, up 1 s: b leaves in each of the phases of the second round and comes back
    round_s = 24 / 24 + 0.48 + 24 / 24
    churn = away(b=(round_s + left_s, round_s + left_s + 1.0))
    network = star(dict.fromkeys(NAMES, 1e3), rate=24.0, churn=churn)
    course = run(network, least_squares(ROWS), FedDyn(**FIELDS, alpha=0.3), 200, start=[0.0] * 3)
    assert np.abs(course.x.numpy() - BEST).max() < 1e-6


def test_nobody_keeps_the_model() -> None:
    network = star({"a": 1.0}, churn=away(a=(1.0,)))
    course = run(network, targets({"a": (1, 8.0)}), FedDyn(local_steps=1, lr=0.5, batch_size=1), 1, start=[5.0])
    assert course.x.item() == 5.0


@pytest.mark.parametrize("field", [{"alpha": 0.0}, {"lr": 0.0}, {"fraction": 0.0}])
def test_fields_are_checked(field: dict[str, Any]) -> None:
    with pytest.raises(ScenarioError, match=rf"FedDyn\.{next(iter(field))}: got .* allowed is"):
        FedDyn(**field)
