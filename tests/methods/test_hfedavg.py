"""HFedAvg: weights, depth, equalities with FedAvg, and the seconds and bytes of a round by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from airloom.errors import ScenarioError
from airloom.methods.fedavg import FedAvg
from airloom.methods.hfedavg import HFedAvg
from airloom.network.churn import Churn, TraceChurn
from airloom.tasks.task import Task
from tests.methods.quadratic import least_squares, run
from tests.worlds import device, task_for, world

STEP: dict[str, Any] = {"local_steps": 1, "lr": 1.0, "batch_size": 1}


def targets(clients: dict[str, tuple[int, float]]) -> Task:
    """Client i holds n_i times the row of F_i = (w - c_i)^2 / 2, so that a step of eta moves w to w + eta (c_i - w); with eta = 1, to c_i."""
    return least_squares({name: (np.ones((n, 1)), np.full(n, c)) for name, (n, c) in clients.items()})


TWO_LEVELS = {("e0", "hub"): 1e6, ("e1", "hub"): 1e6, ("a", "e0"): 1e6, ("b", "e0"): 1e6, ("c", "e1"): 1e6}
TARGETS = targets({"a": (1, 0.0), "b": (3, 4.0), "c": (4, 11.0)})


def test_weights_by_samples_on_both_levels() -> None:
    # e0: (1*0 + 3*4) / 4 = 3, with 4 samples; e1: 11, with 4; cloud: (4*3 + 4*11) / 8 = 7. Equal: e0 = 2, cloud (2 + 11) / 2 = 6.5
    network = world(TWO_LEVELS)
    assert run(network, TARGETS, HFedAvg(group_rounds=1, **STEP), 1, start=[0.0]).x.item() == 7.0
    assert run(network, TARGETS, HFedAvg(group_rounds=1, weights="equal", **STEP), 1, start=[0.0]).x.item() == 6.5


def test_any_depth_and_clients_beside_servers() -> None:
    # r (e0 (a, b), e1 (c)) and d below the hub: r = 7 as above, with 8 samples; d = 1, with 8: (7 + 1) / 2 = 4
    pairs = {("r", "hub"): 1e6, ("e0", "r"): 1e6, ("e1", "r"): 1e6, ("d", "hub"): 1e6, ("a", "e0"): 1e6, ("b", "e0"): 1e6, ("c", "e1"): 1e6}
    task = targets({"d": (8, 1.0), "a": (1, 0.0), "b": (3, 4.0), "c": (4, 11.0)})
    course = run(world(pairs), task, HFedAvg(group_rounds=2, **STEP), 1, start=[0.0])
    assert course.x.item() == 4.0
    # E group rounds on every level: a trains 2 * 2 times a round, d once
    assert (course.sim.sites["a"].drawn, course.sim.sites["d"].drawn) == (4, 1)


def test_group_rounds_multiply_over_levels() -> None:
    # one client with target 1 under two servers, eta = 1/2: what is missing halves with each of the E * E = 4 steps: 1 - 1/16
    network = world({("r", "hub"): 1e6, ("e", "r"): 1e6, ("a", "e"): 1e6})
    course = run(network, targets({"a": (1, 1.0)}), HFedAvg(group_rounds=2, **{**STEP, "lr": 0.5}), 1, start=[0.0])
    assert course.x.item() == 0.9375


def test_one_group_is_fedavg_bit_for_bit() -> None:
    names, fields = list("abc"), {"local_steps": 2, "lr": 0.1, "batch_size": 8}
    tree, star = world({("e", "hub"): 1e6, **{(n, "e"): 1e6 for n in names}}), world({(n, "hub"): 1e6 for n in names})
    mine = run(tree, task_for(tree), HFedAvg(group_rounds=3, **fields), 2)  # type: ignore[arg-type]
    other = run(star, task_for(star), FedAvg(**fields), 6)  # type: ignore[arg-type]
    assert torch.equal(mine.x, other.x)


def test_one_group_round_with_weights_is_fedavg() -> None:
    # the mean of means weighed by samples is the mean: equal up to rounding
    star = world({(n, "hub"): 1e6 for n in "abc"})
    fields: dict[str, Any] = {"local_steps": 3, "lr": 0.3, "batch_size": 2}
    mine = run(world(TWO_LEVELS), TARGETS, HFedAvg(group_rounds=1, **fields), 4, start=[2.0])
    other = run(star, TARGETS, FedAvg(**fields), 4, start=[2.0])
    np.testing.assert_allclose(mine.x.numpy(), other.x.numpy(), rtol=1e-12)


def test_seconds_and_bytes_of_a_round() -> None:
    # One parameter: 8 bytes. A step costs 2 FLOPs forward and 2 for the gradient; H = 2: 8 FLOPs a visit. Latency 1/4 s per hop.
    #   a:  8 B/s,  1 FLOP/s:  1 + 8 + 1 = 10 s;   b:  4 B/s,  4 FLOP/s:  2 + 2 + 2 =  6 s;   with latencies e0 needs 2 (10 + 1/2) = 21 s
    #   c:  2 B/s,  2 FLOP/s:  4 + 4 + 4 = 12 s;                                              e1 needs 2 (12 + 1/2) = 25 s
    #   backhaul: e0 16 B/s, 1/2 s each way; e1 8 B/s, 1 s each way: max(21 + 1, 25 + 2) + 2/4 = 27.5 s
    network = world(
        {("e0", "hub"): 16, ("e1", "hub"): 8, ("a", "e0"): 8, ("b", "e0"): 4, ("c", "e1"): 2},
        devices={"a": device(1.0), "b": device(4.0), "c": device(2.0)},
        latency_s=0.25,
    )
    course = run(network, TARGETS, HFedAvg(group_rounds=2, local_steps=2, lr=0.1, batch_size=1), 2)
    for t in range(2):
        spent = course.spent(t)
        assert spent["seconds"] == pytest.approx(27.5, abs=1e-9)
        # 3 clients, E = 2, up and down; 2 edge servers up and down
        assert (spent["bytes_down"], spent["bytes_up"], spent["bytes_backhaul"]) == (48, 48, 32)


# --- loss --------------------------------------------------------------------------------------------------------------------------------


def lossy(changes: dict[str, list[tuple[float, bool]]], group_rounds: int, rounds: int = 1) -> Any:
    churn: Churn = TraceChurn(changes=changes)
    return run(world(TWO_LEVELS, churn=churn, detect_s=1.0), TARGETS, HFedAvg(group_rounds=group_rounds, **STEP), rounds, start=[0.0])


def test_a_lost_client_and_a_lost_edge_server() -> None:
    # a visit takes 4 s. b leaves at 1 s: e0 = a's 0, weighed with the 4 samples that were there when the round began: (4*0 + 4*11) / 8
    assert lossy({"b": [(1.0, False)]}, 1).x.item() == 5.5
    # e1 leaves at 1 s: e0's 3 alone
    assert lossy({"e1": [(1.0, False)]}, 1).x.item() == 3.0
    # c leaves: e1 hears from nobody and gives the model back as it got it: (4*3 + 4*0) / 8
    assert lossy({"c": [(1.0, False)]}, 1).x.item() == 1.5
    # in the next round e1 has no clients and is left out: 3
    assert lossy({"c": [(1.0, False)]}, 1, rounds=2).x.item() == 3.0


def test_a_client_that_comes_back_takes_part_again() -> None:
    # gone from 1 to 3 s: missing in the first group round (until 4 s), there in the second
    assert lossy({"b": [(1.0, False), (3.0, True)]}, 2).x.item() == 7.0


def test_everybody_lost_keeps_the_model() -> None:
    gone = {name: [(1.0, False)] for name in "abc"}
    assert lossy(gone, 2).x.item() == 0.0
    assert lossy({name: [(1.0, False)] for name in ("e0", "e1")}, 2).x.item() == 0.0


def test_fields_are_checked() -> None:
    with pytest.raises(ScenarioError, match=r"HFedAvg\.local_steps"):
        HFedAvg(local_steps=0)
