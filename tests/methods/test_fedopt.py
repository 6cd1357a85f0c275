"""FedOpt: each server optimizer by hand, FedAvg as its plainest case, weights, bytes, losses."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
import pytest

from airloom.errors import ScenarioError
from airloom.methods.fedavg import FedAvg
from airloom.methods.fedopt import FedOpt
from airloom.parts.optimizer import ServerAdam, ServerSGD, ServerYogi, server_optimizer
from tests.methods.hand import away, star, targets
from tests.methods.quadratic import run
from tests.worlds import task_for

HALF: dict[str, Any] = {"local_steps": 1, "lr": 0.5, "batch_size": 1}  # a client's update is half of what is missing
ONE = targets({"a": (1, 8.0)})


def after(method: FedOpt, rounds: int, task: Any = ONE, **changes: Any) -> list[float]:
    """Models from 0 on."""
    names = list(task.shards)
    return [s["x"].flat.item() for s in run(star(dict.fromkeys(names, 1.0), **changes), task, method, rounds, start=[0.0]).states]


def test_momentum_by_hand() -> None:
    # FedAvgM, momentum 1/2: Delta = (8 - x) / 2. v1 = 4, x1 = 4; v2 = 4/2 + 2 = 4, x2 = 8; v3 = 4/2 + 0 = 2, x3 = 10
    assert after(FedOpt(server=ServerSGD(momentum=0.5), **HALF), 3) == [0.0, 4.0, 8.0, 10.0]


def test_adam_and_yogi_by_hand() -> None:
    # g = -Delta = -4; m = g / 10; v starts at tau^2. Adam: v = 0.99 tau^2 + 0.01 * 16. Yogi: tau^2 < g^2, so v = tau^2 + 0.01 * 16
    tau = 1e-3
    adam = 0.1 * 0.4 / (sqrt(0.99 * tau**2 + 0.16) + tau)
    yogi = 0.1 * 0.4 / (sqrt(tau**2 + 0.16) + tau)
    assert after(FedOpt(server=ServerAdam(lr=0.1), **HALF), 1)[1] == pytest.approx(adam, rel=1e-12)
    assert after(FedOpt(server=ServerYogi(lr=0.1), **HALF), 1)[1] == pytest.approx(yogi, rel=1e-12)
    # second round of Adam: g2 = -(8 - x1) / 2
    m, v, g = 0.9 * 0.4 + 0.1 * (8 - adam) / 2, 0.99 * (0.99 * tau**2 + 0.16), (8 - adam) / 2
    second = adam + 0.1 * m / (sqrt(v + 0.01 * g**2) + tau)
    assert after(FedOpt(server=ServerAdam(lr=0.1), **HALF), 2)[2] == pytest.approx(second, rel=1e-12)


@pytest.mark.parametrize("fraction", [0.5, 1.0])
def test_plain_steps_of_one_are_fedavg(fraction: float) -> None:
    # x + mean(y - x) is mean(y) up to rounding; the same participants
    network = star(dict.fromkeys("abcd", 1e9))
    fields: dict[str, Any] = {"local_steps": 3, "lr": 0.1, "batch_size": 8, "fraction": fraction}
    for weights in ("samples", "equal"):
        mine = run(network, task_for(network), FedOpt(server=server_optimizer("sgd"), weights=weights, **fields), 3)  # type: ignore[arg-type]
        other = run(network, task_for(network), FedAvg(weights=weights, **fields), 3)  # type: ignore[arg-type]
        np.testing.assert_allclose(mine.x.numpy(), other.x.numpy(), atol=1e-6)


def test_weights_by_samples_or_equal() -> None:
    # updates 1/2 (one row) and 5/2 (three rows): (1/2 + 3 * 5/2) / 4 = 2, or 3/2
    task = targets({"a": (1, 1.0), "b": (3, 5.0)})
    assert after(FedOpt(server=ServerSGD(), **HALF), 1, task)[1] == 2.0
    assert after(FedOpt(server=ServerSGD(), weights="equal", **HALF), 1, task)[1] == 1.5


def test_bytes_of_a_round() -> None:
    course = run(star({"a": 1.0, "b": 1.0}), targets({"a": (1, 1.0), "b": (3, 5.0)}), FedOpt(**HALF), 2, start=[0.0])
    assert (course.spent(1)["bytes_down"], course.spent(1)["bytes_up"]) == (16, 16)


def test_losses() -> None:
    # a round takes 4 s; b is away from 1 to 3 s: its update is missing in the first round only (1/2 alone; then from 1/2: (1/4 + 3 * 9/4) / 4 more)
    task = targets({"a": (1, 1.0), "b": (3, 5.0)})
    assert after(FedOpt(server=ServerSGD(), **HALF), 2, task, churn=away(b=(1.0, 3.0))) == [0.0, 0.5, 0.5 + 1.75]


def test_a_round_in_which_nobody_comes_leaves_model_and_moments_alone() -> None:
    course = run(star({"a": 1.0}, churn=away(a=(5.0,))), ONE, FedOpt(server=ServerSGD(momentum=0.5), **HALF), 3, start=[0.0])
    assert [s["x"].flat.item() for s in course.states] == [0.0, 4.0, 4.0, 4.0]
    assert [s["opt"]["v"].flat.item() for s in course.states[1:]] == [-4.0, -4.0, -4.0]


@pytest.mark.parametrize("field", [{"fraction": 2.0}, {"local_steps": 0}, {"lr": -1.0}, {"batch_size": 0}])
def test_fields_are_checked(field: dict[str, Any]) -> None:
    with pytest.raises(ScenarioError, match=rf"FedOpt\.{next(iter(field))}: got .* allowed is"):
        FedOpt(**field)
