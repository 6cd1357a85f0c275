"""Local training: each client on its own, nothing sent but the first model, and clients that come and go."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from airloom.errors import ScenarioError
from airloom.methods.fedavg import FedAvg
from airloom.methods.local_only import LocalOnly
from airloom.runner import Options, Runner
from airloom.scenarios.scenario import Scenario
from tests.methods.hand import away, star, targets
from tests.methods.quadratic import Course, run
from tests.worlds import task_for

TWO = targets({"a": (1, 4.0), "b": (1, 8.0)})
HALF: dict[str, Any] = {"local_steps": 1, "lr": 0.5, "batch_size": 1}  # what is missing to the target halves


def own(course: Course, round_number: int) -> dict[str, float]:
    """Each client's model after a round."""
    return {n: course.sim.numerics.value(ref).flat.item() for n, ref in course.states[round_number]["own"].items()}


def test_rounds_by_hand() -> None:
    # H = 2: what is missing falls to a quarter. At 8 byte/s the first model takes 1 s; a computes 8 s, b 4 s a round, and nothing comes back
    network = star({"a": 1.0, "b": 2.0}, rate=8.0, latency_s=0.25)
    course = run(network, TWO, LocalOnly(local_steps=2, lr=0.5, batch_size=1), 2, start=[0.0])
    assert own(course, 1) == {"a": 3.0, "b": 6.0}
    assert own(course, 2) == {"a": 3.75, "b": 7.5}
    # latency is paid for the call and for the news that it is done
    assert [course.spent(t)["seconds"] for t in range(2)] == [1.0 + 0.25 + 8.0 + 0.25, 0.25 + 8.0 + 0.25]
    assert [(course.spent(t)["bytes_down"], course.spent(t)["bytes_up"]) for t in range(2)] == [(16, 0), (0, 0)]


def test_one_client_is_fedavg_bit_for_bit() -> None:
    network = star({"a": 1e9})
    fields: dict[str, Any] = {"local_steps": 3, "lr": 0.1, "batch_size": 8}
    mine, other = (run(network, task_for(network), method, 3) for method in (LocalOnly(**fields), FedAvg(**fields)))
    assert torch.equal(mine.sim.numerics.value(mine.states[-1]["own"]["a"]).flat, other.x)


@pytest.mark.parametrize(("on_leave", "second", "down"), [("keep", 3.0, 16), ("wipe", 2.0, 24)])
def test_a_client_that_was_away(on_leave: Any, second: float, down: int) -> None:
    # a step takes 4 s. a leaves at 5 s, in its second step, and is back at 6 s: in the third round (from 8 s on) it goes on from its first step, or,
    # wiped, gets the first model again. Meanwhile it counts with its last model
    course = run(star({"a": 1.0, "b": 1.0}, churn=away(a=(5.0, 6.0)), on_leave=on_leave), TWO, LocalOnly(**HALF), 3, start=[0.0])
    assert own(course, 1) == own(course, 2) | {"b": 4.0} == {"a": 2.0, "b": 4.0}
    assert own(course, 3) == {"a": second, "b": 7.0}
    assert course.stamps[-1]["bytes_down"] == down


def test_the_curve_is_the_mean_over_clients_and_rounds_without_them_have_no_metric() -> None:
    # both are there from 1 s on, so the first round waits for them. Models 2 and 4 on rows with target 4 and 8
    scenario = Scenario(name="two", network=star({"a": 1.0, "b": 1.0}, churn=away(a=(0.0, 1.0), b=(0.0, 1.0))), task=TWO)
    method = LocalOnly(local_steps=300, lr=0.5, batch_size=1)
    points = Runner(scenario, method, 0, Options(budget={"rounds": 2}), None, {}, None).run().points
    assert "mse" not in points[0]
    # each model at its client's target; its test rows are both rows: (0 + 16) / 2
    assert points[1]["mse"] == points[1]["mse_mean"] == pytest.approx(8.0)


@pytest.mark.parametrize("field", [{"local_steps": 0}, {"lr": 0.0}, {"batch_size": 0}])
def test_fields_are_checked(field: dict[str, Any]) -> None:
    with pytest.raises(ScenarioError, match=rf"LocalOnly\.{next(iter(field))}: got .* allowed is"):
        LocalOnly(**field)
