"""FedProx: rounds by hand, FedAvg without the term, the proximal point with many steps, partial work, losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from airloom.errors import ScenarioError
from airloom.methods.fedavg import FedAvg
from airloom.methods.fedprox import FedProx
from tests.methods.hand import away, star, targets
from tests.methods.quadratic import gradient, hessian, least_squares, random_rows, run
from tests.worlds import task_for

STEP: dict[str, Any] = {"local_steps": 1, "lr": 1.0, "batch_size": 1}


def test_a_round_by_hand() -> None:
    # mu = 1, eta = 1/2, from x = 0, y <- y - (1/2)((y - c) + (y - 0)) = c/2, where it stays: a 2, b 4. By samples (2 + 3 * 4) / 4 = 7/2
    task = targets({"a": (1, 4.0), "b": (3, 8.0)})
    course = run(star({"a": 1.0, "b": 1.0}), task, FedProx(mu=1.0, local_steps=3, lr=0.5, batch_size=1), 1, start=[0.0])
    assert course.x.item() == 3.5
    assert (course.stamps[-1]["bytes_down"], course.stamps[-1]["bytes_up"]) == (16, 16)


@pytest.mark.parametrize("fraction", [0.5, 1.0])
def test_without_the_term_it_is_fedavg_bit_for_bit(fraction: float) -> None:
    # the same participants, batches and steps
    network = star(dict.fromkeys("abcd", 1e9))
    task = task_for(network)
    fields: dict[str, Any] = {"local_steps": 3, "lr": 0.1, "batch_size": 8, "fraction": fraction}
    mine, other = (run(network, task, method, 3) for method in (FedProx(mu=0.0, **fields), FedAvg(**fields)))
    for s, t in zip(mine.states, other.states, strict=True):
        assert torch.equal(s["x"].flat, t["x"].flat)


def test_many_steps_end_at_the_proximal_point() -> None:
    # (H + mu I) y = A'b / n + mu x, with A'b / n = -grad F(0)
    rows = random_rows(["a"])
    x = np.array([3.0, -2.0, 1.0])
    course = run(star({"a": 1.0}), least_squares(rows), FedProx(mu=0.7, local_steps=300, lr=0.5, batch_size=4), 1, start=x.tolist())
    y = np.linalg.solve(hessian(rows["a"]) + 0.7 * np.eye(3), 0.7 * x - gradient(rows["a"], np.zeros(3)))
    np.testing.assert_allclose(course.x.numpy(), y, rtol=1e-12)


def test_a_larger_mu_moves_less() -> None:
    task = least_squares(random_rows(["a"]))
    moved = [
        float(run(star({"a": 1.0}), task, FedProx(mu=mu, local_steps=10, lr=0.1, batch_size=4), 1, start=[0.0] * 3).x.norm())
        for mu in (0.0, 0.1, 1.0, 10.0)
    ]
    assert moved == sorted(moved, reverse=True) and len(set(moved)) == 4


def test_slow_clients_do_part_of_the_work() -> None:
    # a step is 4 FLOPs: 1, 3 and 20 s. In 8 s: a could do 8 and does its 5, b 2, c none and so 1, which takes it 20 s
    task = targets({"a": (1, 1.0), "b": (1, 1.0), "c": (1, 1.0)})
    network = star({"a": 4.0, "b": 4 / 3, "c": 0.2})
    course = run(network, task, FedProx(mu=0.0, local_steps=5, lr=0.5, batch_size=1, compute_s=8.0), 1, start=[0.0])
    assert [course.sim.sites[n].drawn for n in "abc"] == [5, 2, 1]
    assert course.x.item() == pytest.approx(((1 - 1 / 32) + (1 - 1 / 4) + (1 - 1 / 2)) / 3)
    assert course.spent(0)["seconds"] == pytest.approx(20.0, abs=1e-6)


def test_losses() -> None:
    # a round takes 4 s. b is lost in the first one (a alone: 1), both in the second (the model stays), a alone is there in the third
    task = targets({"a": (1, 1.0), "b": (3, 5.0)})
    network = star({"a": 1.0, "b": 1.0}, churn=away(b=(1.0, 3.0, 6.0), a=(5.0, 5.5)))
    course = run(network, task, FedProx(mu=0.0, **STEP), 3, start=[7.0])
    assert [s["x"].flat.item() for s in course.states] == [7.0, 1.0, 1.0, 1.0]
    assert run(star({"a": 1.0}, churn=away(a=(0.0,))), targets({"a": (1, 1.0)}), FedProx(**STEP), 1, start=[7.0]).x.item() == 7.0


@pytest.mark.parametrize("field", [{"mu": -0.1}, {"fraction": 0.0}, {"local_steps": 0}, {"lr": 0.0}, {"batch_size": 0}, {"compute_s": -1.0}])
def test_fields_are_checked(field: dict[str, Any]) -> None:
    with pytest.raises(ScenarioError, match=rf"FedProx\.{next(iter(field))}: got .* allowed is"):
        FedProx(**field)
