"""FedBuff: arrivals and staleness by hand, FedAvg and a chain as its two ends, bytes, and what happens when clients leave."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
import pytest

from airloom.engines.simnode import SimNode
from airloom.errors import ScenarioError
from airloom.methods.fedavg import FedAvg
from airloom.methods.fedbuff import FedBuff
from airloom.program.method import State
from tests.methods.hand import NOTHING_S, away, star, targets
from tests.methods.quadratic import Course, least_squares, random_rows, run
from tests.worlds import play

STEP: dict[str, Any] = {"local_steps": 1, "lr": 1.0, "batch_size": 1}  # an update is what is missing to the client's target
TWO = targets({"a": (1, 1.0), "b": (1, 4.0)})
FAST_SLOW = {"a": 2.0, "b": 0.8}  # a step of 4 FLOPs takes 2 s and 5 s
SOON = pytest.approx


def reports(speeds: dict[str, float], method: FedBuff, rounds: int, **changes: Any) -> tuple[Course, list[dict[str, Any]]]:
    """The course of a run from 0, and the points of its curve."""
    states: list[State] = []
    task = targets({n: (1, c) for n, c in zip(speeds, (1.0, 4.0, 7.0), strict=False)})

    def text(node: SimNode) -> None:
        states.append(method.init(node, task.model.zeros()))
        for _ in range(rounds):
            states.append(method.round(node, states[-1]))
            node.sim.end_round()

    played = play(star(speeds, **changes), text, task=task)
    return Course(played.sim, states, []), played.reports


def test_arrivals_by_hand() -> None:
    # K = 1: a arrives at 2, 4, 6 s, b at 5 s. tau: a began at step 0 and is step 0; at 2 s it begins again, is step 1: 0; b began at step 0 and is
    # step 2: 2; a began again at 4 s (step 2) and is step 3: 1.
    # x: a's update from 0 is 1, from 1 it is 0; b's from 0 is 4, times (1 + 2)^-1/2
    course, points = reports(FAST_SLOW, FedBuff(buffer=1, **STEP), 4)
    assert [p["seconds"] for p in points] == SOON([2.0, 4.0, 5.0, 6.0])
    assert [p["staleness"] for p in points] == [0, 0, 2, 1]
    assert [s["x"].flat.item() for s in course.states[1:]] == SOON([1.0, 1.0, 1 + 4 / sqrt(3), 1 + 4 / sqrt(3)])
    # eight bytes up per arrival; down for those that began: a at 0, 2, 4 and b at 0, 5 s (a's next message leaves after the point at 6 s)
    assert (points[-1]["bytes_up"], points[-1]["bytes_down"]) == SOON((4 * 8, 5 * 8))


def test_staleness_may_be_ignored_and_the_server_may_take_smaller_steps() -> None:
    course, _ = reports(FAST_SLOW, FedBuff(buffer=1, staleness_power=0.0, **STEP), 3)
    assert course.x.item() == 5.0
    course, _ = reports(FAST_SLOW, FedBuff(buffer=1, server_lr=0.5, **STEP), 1)
    assert course.x.item() == 0.5


def test_a_buffer_of_two_with_both_ways_to_refill() -> None:
    # "arrival": a at 2 and, from the same model, at 4 s fill the buffer: x = (1 + 1) / 2 = 1. Then b at 5 (tau 1) and a at 6 s (tau 0, update 0)
    course, points = reports(FAST_SLOW, FedBuff(buffer=2, **STEP), 2)
    assert [(p["seconds"], p["staleness"]) for p in points] == [(SOON(4.0), 0), (SOON(6.0), 0.5)]
    assert [s["x"].flat.item() for s in course.states[1:]] == SOON([1.0, 1 + 4 / sqrt(2) / 2])
    # "step": a at 2 s waits for b at 5 s, x = (1 + 4) / 2; again 5 s later, (1 - 5/2 + 4 - 5/2) / 2 = 0
    course, points = reports(FAST_SLOW, FedBuff(buffer=2, refill="step", **STEP), 2)
    assert [(p["seconds"], p["staleness"]) for p in points] == [(SOON(5.0), 0), (SOON(10.0), 0)]
    assert [s["x"].flat.item() for s in course.states[1:]] == SOON([2.5, 2.5])


def test_a_buffer_larger_than_the_fleet_takes_several_updates_of_a_client() -> None:
    for refill in ("arrival", "step"):
        course, points = reports(FAST_SLOW, FedBuff(buffer=4, refill=refill, **STEP), 1)  # type: ignore[arg-type]
        # a at 2, 4, 6 and b at 5 s; or both by 5 s, and both again by 10 s
        assert points[0]["seconds"] == SOON(6.0 if refill == "arrival" else 10.0)
        assert course.x.item() == SOON((3 * 1 + 4) / 4 if refill == "arrival" else (2 * 1 + 2 * 4) / 4)


@pytest.mark.parametrize("staleness_power", [0.0, 0.5])
def test_a_buffer_of_all_clients_is_fedavg(staleness_power: float) -> None:
    # refilled after the step, nothing is ever stale; x + sum(y - x) / N is mean(y) up to rounding. FedAvg sends 8 bytes of loss per client
    rows = random_rows(list("abcd"))
    network = star({"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}, rate=1e6)
    fields: dict[str, Any] = {"local_steps": 3, "lr": 0.2, "batch_size": 2}
    mine = run(network, least_squares(rows), FedBuff(buffer=4, refill="step", staleness_power=staleness_power, **fields), 4)
    other = run(network, least_squares(rows), FedAvg(weights="equal", **fields), 4)
    for s, t in zip(mine.states, other.states, strict=True):
        np.testing.assert_allclose(s["x"].flat.numpy(), t["x"].flat.numpy(), rtol=1e-12)
    assert mine.stamps[-1]["seconds"] == pytest.approx(other.stamps[-1]["seconds"], rel=1e-4)
    assert mine.stamps[-1]["bytes_down"] == other.stamps[-1]["bytes_down"]
    assert mine.stamps[-1]["bytes_up"] == other.stamps[-1]["bytes_up"] - 4 * 4 * 8


def test_one_client_at_a_time_is_a_chain() -> None:
    # M = 1, K = 1: each round one client goes on from where the last one stopped, so x is its target
    course, points = reports({"a": 4.0, "b": 4.0, "c": 4.0}, FedBuff(buffer=1, concurrency=0.01, **STEP), 12)
    assert [p["seconds"] for p in points] == SOON([float(t) for t in range(1, 13)])
    assert all(p["staleness"] == 0 for p in points)
    assert {s["x"].flat.item() for s in course.states[1:]} == {1.0, 4.0, 7.0}


@pytest.mark.parametrize(("concurrency", "expected"), [(0.1, 1), (0.5, 3), (0.75, 4), (1.0, 6)])  # round(6 M); 4.5 rounds to even
def test_so_many_train_at_any_time(concurrency: float, expected: int) -> None:
    task = targets({n: (1, 1.0) for n in "abcdef"})
    course = run(star({n: 1.0 + k for k, n in enumerate("abcdef")}), task, FedBuff(buffer=2, concurrency=concurrency, **STEP), 5)
    assert all(len(s["flying"]) == expected - 1 for s in course.states[1:])  # one arrived and filled the buffer


# --- loss --------------------------------------------------------------------------------------------------------------------------------


def test_a_place_that_is_freed_by_a_loss_is_given_away() -> None:
    # one of two at a time; b leaves while it trains, or is never asked: a carries on alone
    network = star({"a": 2.0, "b": 0.8}, churn=away(b=(1.0,)))
    course = run(network, TWO, FedBuff(buffer=1, concurrency=0.5, **STEP), 4, start=[0.0])
    assert course.x.item() == 1.0
    assert [s["t"] for s in course.states] in ([0, 1, 2, 3, 4], [0, 0, 1, 2, 3])


def test_a_client_that_was_lost_is_asked_again() -> None:
    # b is away from 3 to 5 s: its first update is lost, it begins again at 6 s with a's next arrival, and arrives at 11 s; no round waits for it
    _, points = reports(FAST_SLOW, FedBuff(buffer=1, **STEP), 6, churn=away(b=(3.0, 5.0)))
    assert [p["seconds"] for p in points] == SOON([2.0, 4.0, 6.0, 8.0, 10.0, 11.0])
    assert [p["staleness"] for p in points] == [0, 0, 0, 0, 0, 2]


def test_an_update_in_the_buffer_outlives_its_client() -> None:
    # a arrives at 2 s and leaves at 3 s; b at 5 s fills the buffer
    course, points = reports(FAST_SLOW, FedBuff(buffer=2, refill="step", **STEP), 1, churn=away(a=(3.0,)))
    assert points[0]["seconds"] == SOON(5.0)
    assert course.x.item() == 2.5


def test_the_buffer_waits_until_somebody_returns() -> None:
    # a's first update is in the buffer when both leave at 3 s; back at 10 s, a fills it at 12 s: x = (1 + 1) / 2
    method = FedBuff(buffer=2, **STEP)
    network = star(FAST_SLOW, churn=away(a=(3.0, 10.0), b=(3.0, 10.0)))

    def text(node: SimNode) -> Any:
        s = method.round(node, method.init(node, TWO.model.zeros()))
        alone = (s["t"], len(s["buffer"]), node.now_s)
        node.sleep(10.0)
        s = method.round(node, s)
        return alone, (s["t"], len(s["buffer"]), s["x"].flat.item(), node.now_s)

    assert play(network, text, task=TWO).value == ((0, 1, SOON(3.0)), (1, 0, 1.0, SOON(12.0, abs=100 * NOTHING_S)))


@pytest.mark.parametrize(
    "field", [{"buffer": 0}, {"concurrency": 0.0}, {"server_lr": 0.0}, {"staleness_power": -1.0}, {"local_steps": 0}, {"lr": 0.0}, {"batch_size": 0}]
)
def test_fields_are_checked(field: dict[str, Any]) -> None:
    with pytest.raises(ScenarioError, match=rf"FedBuff\.{next(iter(field))}: got .* allowed is"):
        FedBuff(**field)
