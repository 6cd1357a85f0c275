"""FedGSP: equality with sequential FL and FedAvg, chains by hand, counts that travel only when they are new, bytes and seconds, loss."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from airloom.errors import ScenarioError
from airloom.methods.fedavg import FedAvg
from airloom.methods.fedgsp import FedGSP
from airloom.methods.sequential_fl import SequentialFL
from airloom.network.churn import TraceChurn
from airloom.network.network import Network
from airloom.network.topology import with_peers
from airloom.parts.order import FixedOrder
from airloom.tasks.stream import Stream
from airloom.tasks.task import Task
from tests.methods.hand import NOTHING_S, targets
from tests.methods.quadratic import Course, least_squares, random_rows, run
from tests.methods.test_fedgs import labelled
from tests.worlds import device, task_for, world

NAMES = list("abcdef")


def star(names: list[str] = NAMES, *, rate: float = 8 / NOTHING_S, **rest: Any) -> Network:
    return world({(name, "hub"): rate for name in names}, **rest)


def groups(count: int, grouping: str = "random") -> dict[str, Any]:
    return {"groups": count, "growth": "none", "grouping": grouping}


# --- equalities --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grouping", ["icg", "random"])
def test_one_group_is_sequential_fl_bit_for_bit(grouping: str) -> None:
    fields: dict[str, Any] = {"local_steps": 3, "lr": 0.1, "batch_size": 8, "order": FixedOrder()}
    network = star()
    mine = run(network, task_for(network), FedGSP(**groups(1, grouping), **fields), 3)
    other = run(network, task_for(network), SequentialFL(**fields), 3)
    assert torch.equal(mine.x, other.x)
    assert len(mine.states[-1]["groups"]) == 1


@pytest.mark.parametrize("local_epochs", [0, 2])
@pytest.mark.parametrize("grouping", ["icg", "random"])
def test_groups_of_one_are_fedavg(grouping: str, local_epochs: int) -> None:
    # equal but for the order in which models are added
    rows = {name: random_rows([name], n=4 + 2 * i)[name] for i, name in enumerate(NAMES)}
    fields: dict[str, Any] = {"local_steps": 3, "local_epochs": local_epochs, "lr": 0.2, "batch_size": 4, "fraction": 1.0}
    mine = run(star(), least_squares(rows), FedGSP(**groups(6, grouping), **fields), 4)
    other = run(star(), least_squares(rows), FedAvg(**fields), 4)
    for a, b in zip(mine.states, other.states, strict=True):
        np.testing.assert_allclose(a["x"].flat.numpy(), b["x"].flat.numpy(), rtol=1e-12, atol=1e-13)


# --- one hand case -----------------------------------------------------------------------------------------------------------------------


def test_two_groups_by_hand() -> None:
    # eta = 1/2 halves the distance to the optimum of the client. Clients a (0), b (8) with 1 row, c (16), d (0) with 3; fixed order; w = rows.
    # groups of a round are {a, b} | {c, d}, {a, c} | {b, d} or {a, d} | {b, c}, from 0:
    #   a, b: 0 -> 0 -> 4, w 2;  c, d: 8 -> 4, w 6:                 4
    #   a, c: 0 -> 8, w 4;       b, d: 4 -> 2, w 4:                 5
    #   a, d: 0 -> 0, w 4;       b, c: 4 -> 10, w 4:                5
    task = targets({"a": (1, 0.0), "b": (1, 8.0), "c": (3, 16.0), "d": (3, 0.0)})
    method = FedGSP(**groups(2), fraction=1.0, local_steps=1, lr=0.5, batch_size=1, order=FixedOrder())
    seen = set()
    for seed in range(6):
        course = run(star(list("abcd")), task, method, 1, seed=seed, start=[0.0])
        first = next(g for g in course.states[-1]["groups"] if "a" in g)
        seen.add(first[1])
        assert course.x.item() == pytest.approx({"b": 4.0, "c": 5.0, "d": 5.0}[first[1]], abs=1e-12)
    assert len(seen) > 1


def test_chains_become_shorter_and_all_take_part_in_the_end() -> None:
    task = targets({n: (2, 1.0) for n in NAMES})
    course = run(star(), task, FedGSP(groups=1, rate=1.0, grouping="random", fraction=0.5, local_steps=1, lr=0.1, batch_size=1), 5)
    # G = min(6, 1 (r + 1)) = 2, 3, 4, 5, 6 groups of floor(6 / G); half of the groups, at least one
    sizes = [[len(g) for g in s["groups"]] for s in course.states[1:]]
    assert sizes == [[3, 3], [2, 2, 2], [1] * 4, [1] * 5, [1] * 6]
    draws = [sum(site.drawn for site in course.sim.sites.values())]
    assert draws == [1 * 3 + 1 * 2 + 2 + 2 + 3]


def test_groups_stay_where_they_may() -> None:
    task = targets({n: (2, 1.0) for n in NAMES})
    fields: dict[str, Any] = {"local_steps": 1, "lr": 0.1, "batch_size": 1}
    again = run(star(), task, FedGSP(**groups(3), **fields), 6)
    assert len({str(s["groups"]) for s in again.states[1:]}) > 1
    fixed = run(star(), task, FedGSP(**groups(3), regroup=False, **fields), 6)
    assert len({str(s["groups"]) for s in fixed.states[1:]}) == 1
    growing = run(star(), task, FedGSP(groups=2, rate=0.5, grouping="random", regroup=False, **fields), 4)  # G = 2, 4, 4, 6
    states = [s["groups"] for s in growing.states[1:]]
    assert states[1] == states[2]
    assert [len(g) for g in states] == [2, 4, 4, 6]


def test_icg_mixes_what_clients_hold() -> None:
    # three clients of each kind: two clusters of three, so that every group has one of each kind
    task = labelled({"a": [0] * 4, "b": [0] * 4, "c": [0] * 4, "d": [1] * 4, "e": [1] * 4, "f": [1] * 4})
    course = run(star(), task, FedGSP(**groups(3, "icg"), local_steps=1, batch_size=2), 8)
    for s in course.states[1:]:
        assert all(len(set(g) & set("abc")) == 1 for g in s["groups"])


# --- bytes and seconds -------------------------------------------------------------------------------------------------------------------


def test_counts_travel_once_unless_a_stream_changes_them() -> None:
    # float32 model of 6 values: 24 bytes; 2 counts of 4 bytes; 2 chains of 3 over the hub: 6 models down and up
    method = FedGSP(**groups(2, "icg"), fraction=1.0, local_steps=1, batch_size=2)
    task = labelled({n: [0, 1, 0, 1, 1] for n in NAMES})
    course = run(star(), task, method, 3)
    up, down = [[course.spent(t)[key] for t in range(3)] for key in ("bytes_up", "bytes_down")]
    assert up == [6 * 24 + 6 * 8, 6 * 24, 6 * 24]
    asked = 6 * 1  # a truth value to each client
    assert down == [6 * 24 + asked] * 3
    # one class at a time, the other one in the next window; a round lasts longer than a window, so that some rounds meet the other class and some
    # the same
    course = run(star(rate=24.0), replace(task, stream=Stream(window_s=1.3, samples=2, classes=1)), method, 6)
    up = [course.spent(t)["bytes_up"] - 6 * 24 for t in range(6)]
    windows = [int((course.stamps[t]["seconds"] + 1e-3) / 1.3) for t in range(6)]
    assert up == [6 * 8, *[6 * 8 * ((b - a) % 2) for a, b in pairwise(windows)]]
    assert len(set(up)) == 2


def test_random_groups_need_no_counts() -> None:
    spent = run(star(), labelled({n: [0, 1] for n in NAMES}), FedGSP(**groups(2), fraction=1.0, local_steps=1, batch_size=2), 1).spent(0)
    assert (spent["bytes_up"], spent["bytes_down"]) == (6 * 24, 6 * 24)


def test_over_peer_links_a_chain_sends_one_model_more_than_it_has_clients() -> None:
    # m = 2 groups of k = 3: m k models over the hub both ways, or m down, m (k - 1) between the clients, m up
    pairs = [(a, b) for i, a in enumerate(NAMES) for b in NAMES[i + 1 :]]
    method = FedGSP(**groups(2), fraction=1.0, local_steps=1, batch_size=1)
    task = least_squares({n: (np.ones((1, 1)), np.array([1.0])) for n in NAMES})
    spent = run(with_peers(star(), pairs, rate_bps=8e9, latency_s=0.0), task, method, 1).spent(0)
    assert (spent["bytes_down"], spent["bytes_peer"], spent["bytes_up"]) == (2 * 8, 2 * 2 * 8, 2 * 8)


@pytest.mark.parametrize(("count", "seconds"), [(1, 6 * 4.0), (2, 3 * 4.0), (3, 2 * 4.0), (6, 4.0)])
def test_a_round_takes_as_long_as_its_chains(count: int, seconds: float) -> None:
    # one parameter: 4 FLOPs per step at 1 FLOP/s, and radio of next to nothing: 4 s per visit; chains run side by side
    task = targets({n: (1, 1.0) for n in NAMES})
    spent = run(star(), task, FedGSP(**groups(count), fraction=1.0, local_steps=1, batch_size=1), 1).spent(0)
    assert spent["seconds"] == pytest.approx(seconds, abs=1e-3)


def test_clustering_takes_the_servers_time() -> None:
    # 20 (3 n k F + n^3) with n = 6, G = 3, k = 2, F = 1: 20 (36 + 216) = 5040 FLOPs at 1000 FLOP/s
    network = star(devices={"hub": device(1e3), **{n: device(1e12) for n in NAMES}})
    method = FedGSP(**groups(3, "icg"), local_steps=1, batch_size=1)
    assert run(network, targets({n: (1, 1.0) for n in NAMES}), method, 1).spent(0)["seconds"] == pytest.approx(5.04, abs=1e-3)


# --- loss --------------------------------------------------------------------------------------------------------------------------------


def lossy(changes: dict[str, Any], task: Task, rounds: int) -> Course:
    network = star(list(task.shards), churn=TraceChurn(changes=changes), detect_s=1.0)
    return run(network, task, FedGSP(**groups(2), fraction=1.0, local_steps=1, lr=1.0, batch_size=1), rounds, start=[5.0])


def test_a_group_that_loses_a_client_is_lost_for_the_round() -> None:
    # eta = 1: a chain ends at the optimum of its last client; a and b have 1, c and d have 3. d leaves while the first visits are under way.
    task = targets({"a": (1, 1.0), "b": (1, 1.0), "c": (1, 3.0), "d": (1, 3.0)})
    for seed in range(4):
        network = star(list("abcd"), churn=TraceChurn(changes={"d": [(2.0, False)]}), detect_s=1.0)
        method = FedGSP(**groups(2), fraction=1.0, local_steps=1, lr=1.0, batch_size=1, order=FixedOrder())
        course = run(network, task, method, 2, start=[5.0], seed=seed)
        whole = next(g for g in course.states[1]["groups"] if "d" not in g)
        assert course.states[1]["x"].flat.item() == pytest.approx({"a": 1.0, "b": 1.0, "c": 3.0}[whole[-1]])
        # three are left: two groups of one, and one client sits out
        assert [len(g) for g in course.states[2]["groups"]] == [1, 1]


def test_nobody_there_keeps_the_model() -> None:
    course = lossy({n: [(0.0, False)] for n in "ab"}, targets({"a": (1, 1.0), "b": (1, 2.0)}), 1)
    assert course.x.item() == 5.0
    assert course.states[-1]["groups"] == []


def test_bad_input() -> None:
    with pytest.raises(ScenarioError, match="must be >= 1, or groups become fewer"):
        FedGSP(growth="exp")
    with pytest.raises(ScenarioError, match=r"FedGSP\.groups"):
        FedGSP(groups=0)
