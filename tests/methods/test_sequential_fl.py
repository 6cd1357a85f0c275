"""Sequential federated learning: closed forms on quadratics, equality with FedAvg for one client, bytes and seconds of a chain, loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from airloom.errors import ScenarioError
from airloom.methods.fedavg import FedAvg
from airloom.methods.sequential_fl import SequentialFL
from airloom.network.churn import TraceChurn
from airloom.network.network import Network
from airloom.network.topology import with_peers
from airloom.parts.order import FixedOrder, Orderer, RandomReshuffle, ShuffleOnce
from airloom.parts.select import Selector
from airloom.tasks.task import Task
from tests.methods.quadratic import Course, gradient, least_squares, random_rows, run
from tests.worlds import device, task_for, world


def star(names: str, **rest: Any) -> Network:
    return world({(name, "hub"): 1e6 for name in names}, **rest)


def bowls(clients: dict[str, tuple[float, float]]) -> Task:
    """F_m(w) = h_m (w - x_m)^2 / 2 for (h_m, x_m)."""
    return least_squares({name: (np.array([[h**0.5]]), np.array([h**0.5 * x])) for name, (h, x) in clients.items()})


def chain(**fields: Any) -> SequentialFL:
    return SequentialFL(**{"order": FixedOrder(), "batch_size": 1, **fields})


# --- what it computes --------------------------------------------------------------------------------------------------------------------


def test_one_client_is_fedavg_bit_for_bit() -> None:
    network, fields = star("a"), {"local_steps": 3, "lr": 0.1, "batch_size": 8}
    mine = run(network, task_for(network), SequentialFL(**fields), 3)  # type: ignore[arg-type]
    other = run(network, task_for(network), FedAvg(**fields), 3)  # type: ignore[arg-type]
    assert torch.equal(mine.x, other.x)


TURNS = "cadbac"


@dataclass(frozen=True, kw_only=True)
class InTurn(Orderer):
    """Visits first whose turn it is."""

    def next(self, names: Any, state: Any, rng: Any) -> Any:
        t = state["t"] if state else 0
        return [TURNS[t], *[n for n in names if n != TURNS[t]]], {"t": t + 1}


@dataclass(frozen=True, kw_only=True)
class WhoseTurn(Selector):
    """Chooses whose turn it is."""

    def _chosen(self, names: Any, k: int, history: Any, rng: Any) -> list[str]:
        return [TURNS[history["round"]]]


def test_one_participant_a_round_is_the_parallel_method_with_one_participant_bit_for_bit() -> None:
    rows = least_squares(random_rows(list("abcd")))
    fields: dict[str, Any] = {"local_steps": 3, "lr": 0.1, "batch_size": 4, "fraction": 0.25}
    both = (SequentialFL(**fields, order=InTurn()), FedAvg(**fields, select=WhoseTurn()))
    mine, other = (run(star("abcd"), rows, method, len(TURNS), start=[1.0, -1.0, 2.0]) for method in both)
    assert {n: mine.sim.sites[n].drawn for n in "abcd"} == {"a": 24, "b": 12, "c": 24, "d": 12}  # 3 steps of 4 rows a turn
    assert all(torch.equal(a["x"].flat, b["x"].flat) for a, b in zip(mine.states, other.states, strict=True))


def test_equal_clients_and_one_step_are_gradient_descent() -> None:
    # S = 4 clients with the same rows, K = 1: S gradient steps a round, whatever the order
    rows = random_rows(["a"])["a"]
    course = run(
        star("abcd"), least_squares(dict.fromkeys("abcd", rows)), SequentialFL(local_steps=1, lr=0.3, batch_size=4), 3, start=[1.0, -1.0, 2.0]
    )
    w = np.array([1.0, -1.0, 2.0])
    for _ in range(4 * 3):
        w = w - 0.3 * gradient(rows, w)
    np.testing.assert_allclose(course.x.numpy(), w, atol=1e-13)


@pytest.mark.parametrize(("order", "sign"), [("ab", 1), ("ba", -1)])
def test_closed_form_of_a_fixed_order(order: str, sign: int) -> None:
    # F_a = x^2/2 + x, F_b = x^2/2 - x, optima -1 and 1; with q = (1 - eta)^K a visit to a maps x to -1 + q (x + 1), a visit to b to 1 + q (x - 1).
    # a then b: x = 1 + q (-2 + q (x + 1)) = (1 - q)^2 + q^2 x, so x = (1 - q) / (1 + q); b then a: its negative
    optima = {"a": (1.0, -1.0), "b": (1.0, 1.0)}
    task = bowls({name: optima[name] for name in order})
    course = run(star(order), task, chain(local_steps=5, lr=0.05), 60, start=[3.0])
    q = 0.95**5
    assert course.x.item() == pytest.approx(sign * (1 - q) / (1 + q), abs=1e-12)
    assert course.x.item() == pytest.approx(sign * 0.127535, abs=1e-6)
    # in parallel the mean of both visits is q x: it converges to the optimum 0
    parallel = run(star(order), task, FedAvg(local_steps=5, lr=0.05, batch_size=1), 10, start=[3.0])
    assert parallel.x.item() == pytest.approx(3.0 * q**10, rel=1e-12)


def test_a_random_order_has_no_fixed_bias() -> None:
    # the two orders pull to opposite sides, so that the mean over rounds lies nearer to 0 than the point where either order would stay
    task = bowls({"a": (1.0, -1.0), "b": (1.0, 1.0)})
    course = run(star("ab"), task, SequentialFL(local_steps=5, lr=0.05, batch_size=1), 120, start=[0.0])
    assert abs(np.mean([s["x"].flat.item() for s in course.states[20:]])) < 0.127535 / 2


def test_unequal_curvature_biases_the_parallel_method() -> None:
    # a visit maps x to x_m + q_m (x - x_m), q_m = (1 - eta h_m)^K. The mean of the visits stays where sum (1 - q_m) (x - x_m) = 0.
    clients = {"a": (0.2, -1.0), "b": (1.0, 2.0), "c": (0.5, 0.5)}
    course = run(star("abc"), bowls(clients), FedAvg(local_steps=4, lr=0.3, batch_size=1), 60, start=[0.0])
    pull = {name: 1 - (1 - 0.3 * h) ** 4 for name, (h, _) in clients.items()}
    biased = sum(pull[name] * x for name, (_, x) in clients.items()) / sum(pull.values())
    optimum = sum(h * x for h, x in clients.values()) / sum(h for h, _ in clients.values())
    assert course.x.item() == pytest.approx(biased, abs=1e-12)
    assert abs(biased - optimum) > 0.1


def test_clipping_bounds_each_step() -> None:
    # w = 0, optimum 10, gradient -10 clipped to -1: two steps of 1/2
    task = bowls({"a": (1.0, 10.0)})
    assert run(star("a"), task, chain(local_steps=2, lr=0.5, clip_norm=1.0), 1, start=[0.0]).x.item() == pytest.approx(1.0, abs=1e-6)
    assert run(star("a"), task, chain(local_steps=2, lr=0.5), 1, start=[0.0]).x.item() == 7.5


# --- who is visited, in which order ------------------------------------------------------------------------------------------------------

# eta = 1/2 halves the distance to the client's optimum: 0 -> 4 -> 4 -> 2 in the order a, b, c
HALVES = {"a": (1.0, 8.0), "b": (1.0, 4.0), "c": (1.0, 0.0)}


@pytest.mark.parametrize("hops", ["direct", "relayed"])
def test_a_fixed_order_is_cyclic(hops: Any) -> None:
    course = run(star("abc"), bowls(HALVES), chain(local_steps=1, lr=0.5, hops=hops), 2, start=[0.0])
    # second round: 2 -> 5 -> 4.5 -> 2.25
    assert [s["x"].flat.item() for s in course.states] == [0.0, 2.0, 2.25]


def drawn(course: Course, names: str) -> list[int]:
    return [course.sim.sites[name].drawn for name in names]


def test_a_fraction_of_the_clients_in_a_new_order_every_round() -> None:
    names = "abcdefgh"
    task = bowls({name: (1.0, float(i)) for i, name in enumerate(names)})
    course = run(star(names), task, SequentialFL(fraction=0.25, local_steps=1, lr=1.0, batch_size=1), 12, start=[0.0])
    assert sum(drawn(course, names)) == 12 * 2
    assert max(drawn(course, names)) < 12  # not the same two for ever
    # eta = 1: the model is the optimum of whoever was last
    assert len({s["x"].flat.item() for s in course.states[1:]}) > 3
    # a fixed order takes the first S; at least one is always visited
    assert drawn(run(star(names), task, chain(fraction=0.25, local_steps=1), 3), names) == [3, 3, 0, 0, 0, 0, 0, 0]
    assert drawn(run(star(names), task, chain(fraction=0.01, local_steps=1), 1), names) == [1, 0, 0, 0, 0, 0, 0, 0]


def test_orders_are_drawn_as_they_say() -> None:
    task = bowls({name: (1.0, float(i)) for i, name in enumerate("abcdef")})
    last = {}
    for order in (RandomReshuffle(), ShuffleOnce()):
        course = run(star("abcdef"), task, SequentialFL(order=order, local_steps=1, lr=1.0, batch_size=1), 8, start=[9.0])
        last[type(order)] = {s["x"].flat.item() for s in course.states[1:]}
    assert len(last[ShuffleOnce]) == 1
    assert len(last[RandomReshuffle]) > 1


# --- seconds and bytes -------------------------------------------------------------------------------------------------------------------

# One parameter: 8 bytes, 4 FLOPs per step. a: 8 B/s, 1 FLOP/s: hop 1 s, work 4 s; b: 4 B/s, 2 FLOP/s: 2 s, 2 s; c: 2 B/s, 4 FLOP/s: 4 s, 1 s.
# Latency 1/4 s per hop.
RATES = {("a", "hub"): 8, ("b", "hub"): 4, ("c", "hub"): 2}
SPEEDS = {"a": device(1.0), "b": device(2.0), "c": device(4.0)}


@pytest.mark.parametrize("hops", ["direct", "relayed"])
def test_a_chain_on_a_star_takes_the_sum_of_its_hops(hops: Any) -> None:
    # every hop goes over the server: (1 + 4 + 1) + (2 + 2 + 2) + (4 + 1 + 4) = 21 s and six latencies; S models down and S up
    course = run(world(RATES, devices=SPEEDS, latency_s=0.25), bowls(HALVES), chain(local_steps=1, hops=hops), 2)
    for t in range(2):
        spent = course.spent(t)
        assert spent["seconds"] == pytest.approx(21 + 6 * 0.25, abs=1e-9)
        assert (spent["bytes_down"], spent["bytes_up"], spent["bytes_peer"]) == (24, 24, 0)


def test_a_chain_over_peer_links_sends_one_model_more_than_it_has_clients() -> None:
    # server -> a (1), a -> b and b -> c over peer links of 16 B/s (1/2 each), c -> server (4), work 4 + 2 + 1: 13 s and four latencies
    network = with_peers(world(RATES, devices=SPEEDS, latency_s=0.25), [("a", "b"), ("b", "c")], rate_bps=8 * 16, latency_s=0.25)
    course = run(network, bowls(HALVES), chain(local_steps=1, lr=0.5), 1, start=[0.0])
    spent = course.spent(0)
    assert spent["seconds"] == pytest.approx(13 + 4 * 0.25, abs=1e-9)
    assert (spent["bytes_down"], spent["bytes_peer"], spent["bytes_up"]) == (8, 16, 8)
    assert course.x.item() == 2.0
    # relayed, the same network is used as a star
    relayed = run(network, bowls(HALVES), chain(local_steps=1, hops="relayed"), 1).spent(0)
    assert (relayed["bytes_down"], relayed["bytes_peer"], relayed["bytes_up"]) == (24, 0, 24)


def test_the_parallel_method_takes_the_slowest_client() -> None:
    # the same world; FedAvg's clients send their loss (8 bytes) beside the model: max(1 + 4 + 2, 2 + 2 + 4, 4 + 1 + 8) = 13 s and two latencies
    spent = run(world(RATES, devices=SPEEDS, latency_s=0.25), bowls(HALVES), FedAvg(local_steps=1, batch_size=1), 2).spent(1)
    assert spent["seconds"] == pytest.approx(13 + 2 * 0.25, abs=1e-9)
    assert (spent["bytes_down"], spent["bytes_up"]) == (24, 48)


# --- loss --------------------------------------------------------------------------------------------------------------------------------


def lossy(name: str, at_s: float, hops: Any, rounds: int = 1) -> Course:
    """Each visit takes 4 s and next to no radio; `name` leaves for good."""
    network = star("abc", churn=TraceChurn(changes={name: [(at_s, False)]}), detect_s=1.0)
    return run(network, bowls(HALVES), chain(local_steps=1, lr=0.5, hops=hops), rounds, start=[0.0])


def test_direct_hops_lose_the_round_with_a_client() -> None:
    # b leaves while it trains (4 to 8 s): the chain is lost, the model stays 0; the next round visits a and c: 0 -> 4 -> 2
    course = lossy("b", 6.0, "direct", rounds=2)
    assert [s["x"].flat.item() for s in course.states] == [0.0, 0.0, 2.0]
    assert course.stamps[1]["seconds"] == pytest.approx(7.0, abs=1e-3)  # told 1 s later
    # b leaves before its turn: the server cannot know; c leaves after b has begun: the same
    assert lossy("b", 1.0, "direct").x.item() == 0.0
    assert lossy("c", 5.0, "direct").x.item() == 0.0
    # a leaves after it has passed the model on: nothing is lost
    assert lossy("a", 5.0, "direct").x.item() == 2.0


def test_relayed_hops_go_on_without_the_lost_client() -> None:
    # a: 4, b is lost, c: 2; 4 s, then 2 + 1 s until the server is told, then 4 s
    course = lossy("b", 6.0, "relayed", rounds=2)
    assert [s["x"].flat.item() for s in course.states] == [0.0, 2.0, 2.5]
    assert course.stamps[1]["seconds"] == pytest.approx(11.0, abs=1e-3)
    # c leaves before its turn: 0 -> 4 -> 4
    assert lossy("c", 5.0, "relayed").x.item() == 4.0


@pytest.mark.parametrize("hops", ["direct", "relayed"])
def test_nobody_there_keeps_the_model(hops: Any) -> None:
    network = star("ab", churn=TraceChurn(changes={name: [(0.0, False)] for name in "ab"}))
    assert run(network, bowls({"a": (1.0, 1.0), "b": (1.0, 2.0)}), chain(hops=hops), 1, start=[5.0]).x.item() == 5.0


def test_fields_are_checked() -> None:
    with pytest.raises(ScenarioError, match=r"SequentialFL\.fraction"):
        SequentialFL(fraction=0.0)
