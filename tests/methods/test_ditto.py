"""Ditto: both models by hand, FedAvg as its global part, local training without a pull, bytes, and clients that leave."""

from __future__ import annotations

from typing import Any

import pytest

from airloom.errors import ScenarioError
from airloom.methods.ditto import Ditto
from airloom.methods.fedavg import FedAvg
from airloom.methods.local_only import LocalOnly
from airloom.models.params import Params
from tests.methods.hand import away, star, targets
from tests.methods.quadratic import Course, run

TWO = targets({"a": (1, 0.0), "b": (1, 8.0)})
STEP: dict[str, Any] = {"local_steps": 1, "lr": 0.5, "batch_size": 1}


def own(course: Course, name: str) -> Params:
    """A personal model that nobody has asked for yet."""
    return course.sim.numerics.value(course.states[-1]["own"][name])


def test_two_rounds_by_hand() -> None:
    # eta = 1/2, lambda = 1. From x = 0: x_a = 0, x_b = 4, x = 2; v_a = 0, v_b = 4.
    # From x = 2: x_a = 1, x_b = 5, x = 3; v_a = 0 - (0 + (0 - 2)) / 2 = 1, v_b = 4 - ((4 - 8) + (4 - 2)) / 2 = 5
    course = run(star({"a": 1.0, "b": 1.0}), TWO, Ditto(**STEP, pull=1.0), 2, start=[0.0])
    assert [s["x"].flat.item() for s in course.states] == [0.0, 2.0, 3.0]
    assert (course.state("a", "v").item(), course.state("b", "v").item()) == (1.0, 5.0)
    # the model down and up; two steps of 4 FLOPs at 1 FLOP/s
    assert (course.spent(1)["bytes_down"], course.spent(1)["bytes_up"]) == (2 * 8, 2 * 8)
    assert course.spent(1)["seconds"] == pytest.approx(8.0, abs=1e-6)


def test_the_global_model_is_fedavgs_and_without_a_pull_the_other_is_local() -> None:
    fields: dict[str, Any] = {**STEP, "local_steps": 3}
    mine, avg, local = (
        run(star({"a": 1.0, "b": 1.0}), TWO, m, 4, start=[1.0]) for m in (Ditto(**fields, pull=0.0), FedAvg(**fields), LocalOnly(**fields))
    )
    assert mine.x.item() == avg.x.item()
    for n in "ab":
        assert mine.state(n, "v").item() == own(local, n).flat.item()


def test_a_strong_pull_holds_the_personal_model_at_the_global_one() -> None:
    # lambda = 1000, eta = 1e-3: v goes nearly all the way to x in a step
    fields: dict[str, Any] = {"local_steps": 1, "lr": 1e-3, "batch_size": 1}
    course = run(star({"a": 1.0, "b": 1.0}), TWO, Ditto(**fields, pull=1000.0), 50, start=[2.0])
    for n in "ab":
        assert abs(course.state(n, "v").item() - course.states[-2]["x"].flat.item()) < 0.01


def test_those_that_leave_keep_their_model_and_nobody_keeps_the_global_one() -> None:
    # b leaves in its first training, at 1 s of 8: x is a's, 0
    course = run(star({"a": 1.0, "b": 1.0}, churn=away(b=(1.0,))), TWO, Ditto(**STEP), 1, start=[2.0])
    assert course.x.item() == 1.0
    assert set(course.states[-1]["own"]) == {"a"}
    course = run(star({"a": 1.0, "b": 1.0}, churn=away(a=(1.0,), b=(1.0,))), TWO, Ditto(**STEP), 1, start=[2.0])
    assert course.x.item() == 2.0


@pytest.mark.parametrize("field", [{"pull": -1.0}, {"lr": 0.0}, {"fraction": 0.0}])
def test_fields_are_checked(field: dict[str, Any]) -> None:
    with pytest.raises(ScenarioError, match=rf"Ditto\.{next(iter(field))}: got .* allowed is"):
        Ditto(**field)
