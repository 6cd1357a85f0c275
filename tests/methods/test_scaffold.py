"""SCAFFOLD: rounds by hand, FedAvg in the first round, c = mean(c_n), twice the bytes, no drift, and all of it with clients that come and go."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from airloom.engines.pending import Later
from airloom.errors import ScenarioError
from airloom.methods.fedavg import FedAvg
from airloom.methods.scaffold import Scaffold
from airloom.network.churn import TraceChurn
from tests.methods.hand import NOTHING_S, away, star, targets
from tests.methods.quadratic import Course, gradient, least_squares, optimum, random_rows, run
from tests.worlds import task_for

ONE: dict[str, Any] = {"local_steps": 1, "lr": 0.5, "batch_size": 1}
TWO: dict[str, Any] = {"local_steps": 2, "lr": 0.5, "batch_size": 1}
FULL: dict[str, Any] = {"local_steps": 10, "lr": 0.2, "batch_size": 4}
NAMES = "abcdef"
ROWS = random_rows(list(NAMES), seed=1)


def variate(course: Course, client: str) -> torch.Tensor:
    """c_n as the server knows it: of the client's last two, the one whose update has come."""
    state = course.sim.sites[client].state
    if "bit" not in state:
        return torch.zeros_like(course.x)
    key = "c+" if state["bit"] == course.states[-1]["bit"][client] else "c"
    if isinstance(state[key], Later):  # nobody has asked for it yet
        course.sim.numerics.flush([state[key].call])
    return course.state(client, key)


def test_two_rounds_by_hand() -> None:
    # F_a = w^2 / 2, F_b = (w - 4)^2 / 2; eta = 1/2, H = 2, so H eta = 1
    # round 1 from 0: a stays at 0, c_a = 0; b goes 2, 3: c_b = 0 - 3 = -3; x = 3/2, c = -3/2
    # round 2 from 3/2: a is shifted by c - c_a = -3/2: 3/2 - (3/2 - 3/2) / 2 = 3/2, twice; c_a = 0 + 3/2 + 0 = 3/2
    #                   b by c - c_b = 3/2: 3/2 - (-5/2 + 3/2) / 2 = 2, then 2 - (-2 + 3/2) / 2 = 9/4; c_b = -3 + 3/2 + (3/2 - 9/4) = -9/4
    #                   x = (3/2 + 9/4) / 2 = 15/8, c = (3/2 - 9/4) / 2 = -3/8
    course = run(star({"a": 1.0, "b": 1.0}), targets({"a": (1, 0.0), "b": (1, 4.0)}), Scaffold(**TWO), 2, start=[0.0])
    first, second = course.states[1:]
    assert (first["x"].flat.item(), first["sum"].flat.item() / 2) == (1.5, -1.5)
    assert (second["x"].flat.item(), second["sum"].flat.item() / 2) == (1.875, -0.375)
    assert (variate(course, "a").item(), variate(course, "b").item()) == (1.5, -2.25)


def test_server_step() -> None:
    # two clients with targets 0 and 4, one step of 1/2 from 0: updates 0 and 2, mean 1; times 1/4
    course = run(star({"a": 1.0, "b": 1.0}), targets({"a": (1, 0.0), "b": (1, 4.0)}), Scaffold(server_lr=0.25, **ONE), 1, start=[0.0])
    assert course.x.item() == 0.25


def test_the_first_round_is_fedavg_with_equal_weights() -> None:
    # all variates are zero; x + mean(y - x) is mean(y) up to rounding
    network = star(dict.fromkeys("abcd", 1e9))
    fields: dict[str, Any] = {"local_steps": 3, "lr": 0.1, "batch_size": 8, "fraction": 0.5}
    mine, other = (run(network, task_for(network), method, 1) for method in (Scaffold(**fields), FedAvg(weights="equal", **fields)))
    np.testing.assert_allclose(mine.x.numpy(), other.x.numpy(), atol=1e-7)


def test_one_client_is_fedavg() -> None:
    # its own variate and the server's are one and the same: the shift is zero up to rounding in every round
    task = least_squares(random_rows(["a"]))
    mine, other = (run(star({"a": 1.0}), task, method, 4, start=[1.0, 2.0, 3.0]) for method in (Scaffold(**FULL), FedAvg(**FULL)))
    np.testing.assert_allclose(mine.x.numpy(), other.x.numpy(), rtol=1e-12)


def test_twice_the_bytes_of_fedavg() -> None:
    # down x and c (and one byte that says which variate counts), up dx and dc; FedAvg: the model down, the model and 8 bytes of loss up
    network, task = star(dict.fromkeys("abc", 1.0)), targets({n: (1, 1.0) for n in "abc"})
    mine, other = (run(network, task, method, 4, start=[0.0]).stamps[-1] for method in (Scaffold(**ONE), FedAvg(**ONE)))
    assert (other["bytes_down"], other["bytes_up"]) == (4 * 3 * 8, 4 * 3 * (8 + 8))
    assert (mine["bytes_down"], mine["bytes_up"]) == (4 * 3 * (2 * 8 + 1), 4 * 3 * 2 * 8)


def test_seconds_of_a_round() -> None:
    # 8 byte/s: 17 bytes down 17/8 s, one step of 4 FLOPs 4 s, 16 bytes up 2 s, and twice 1/4 s
    course = run(star({"a": 1.0}, rate=8.0, latency_s=0.25), targets({"a": (1, 1.0)}), Scaffold(**ONE), 1, start=[0.0])
    assert course.spent(0)["seconds"] == 17 / 8 + 4 + 2 + 0.5


@pytest.mark.parametrize("fraction", [0.5, 1.0])
def test_c_is_the_mean_of_all_variates(fraction: float) -> None:
    # also of those that never took part, whose variate is zero
    course = run(star(dict.fromkeys(NAMES, 1.0)), least_squares(ROWS), Scaffold(fraction=fraction, **FULL), 2, start=[0.0] * 3)
    total = sum(variate(course, n) for n in NAMES)
    np.testing.assert_allclose(course.states[-1]["sum"].flat.numpy(), total, atol=1e-14)  # type: ignore[arg-type]
    assert len(course.states[-1]["bit"]) == 6


def test_it_reaches_the_optimum_where_fedavg_drifts() -> None:
    best = optimum([ROWS[n] for n in NAMES])
    mine, other = (run(star(dict.fromkeys(NAMES, 1.0)), least_squares(ROWS), m, 60, start=[0.0] * 3) for m in (Scaffold(**FULL), FedAvg(**FULL)))
    assert np.linalg.norm(mine.x.numpy() - best) < 1e-12
    assert np.linalg.norm(other.x.numpy() - best) > 0.05
    for n in NAMES:  # there, each variate is its client's gradient
        np.testing.assert_allclose(variate(mine, n).numpy(), gradient(ROWS[n], best), atol=1e-10)


# --- loss --------------------------------------------------------------------------------------------------------------------------------


def test_a_lost_reply_does_not_move_the_variate() -> None:
    # 8 byte/s: 17/8 s down, 4 s of work, 2 s up. b leaves at 7 s, with its variate computed (at 6.125 s) and its reply on the air; a's has come
    # by 8.125 s: x = 0 + 0 = 0, c = 0. Had b moved c_b on, c would miss it for good.
    network = star({"a": 1.0, "b": 1.0}, rate=8.0, churn=away(b=(7.0, 7.5)))
    task = targets({"a": (1, 0.0), "b": (1, 4.0)})
    course = run(network, task, Scaffold(**ONE), 1, start=[0.0])
    assert course.x.item() == 0.0
    assert course.states[-1]["bit"] == {"a": True, "b": False}
    assert course.state("b", "c+").item() == -4.0  # what it computed: (0 - 2) / (1/2)
    assert variate(course, "b").item() == 0.0  # what counts
    # the next round is the first one of a world in which nothing was lost
    assert run(network, task, Scaffold(**ONE), 2, start=[0.0]).x.item() == 1.0


def test_with_clients_that_come_and_go_it_still_reaches_the_optimum() -> None:
    # a round takes 1 s of messages and 1 s of work; all but a are away for 1.7 s of each 7.3 s, at different times
    changes = {n: [(1.1 * k, False), (1.1 * k + 1.7, True)] for k, n in enumerate(NAMES) if k}
    network = star(dict.fromkeys(NAMES, 10 * 4 * 4 * 3.0), rate=98.0, churn=TraceChurn(changes=changes, period_s=7.3), detect_s=0.1)
    course = run(network, least_squares(ROWS), Scaffold(**FULL), 200, start=[0.0] * 3)
    replies = sum(course.sim.sites[n].drawn for n in NAMES) / 40
    assert replies * 48 - course.stamps[-1]["bytes_up"] > 1000  # of the replies of 48 bytes that were computed, so much never came
    np.testing.assert_allclose(course.states[-1]["sum"].flat.numpy(), sum(variate(course, n) for n in NAMES), atol=1e-12)  # type: ignore[arg-type]
    assert np.linalg.norm(course.x.numpy() - optimum([ROWS[n] for n in NAMES])) < 1e-9


def test_late_clients_count_from_when_they_are_seen() -> None:
    # b (target 4) is there from 5 s on. Round 1, a alone: x = 2 - (1/2) 2 = 1, c = c_a = 2. Round 2: N = 2, so that c = 2 / 2 = 1.
    #   a: shift c - c_a = -1: 1 - (1 - 1) / 2 = 1, c_a = 2 - 1 + 0 = 1; b: shift 1: 1 - (-3 + 1) / 2 = 2, c_b = 0 - 1 - 2 = -3; sum 1 - 3 = -2
    network = star({"a": 1.0, "b": 1.0}, churn=away(b=(0.0, 3.5)))
    course = run(network, targets({"a": (1, 0.0), "b": (1, 4.0)}), Scaffold(**ONE), 2, start=[2.0])
    assert [(s["x"].flat.item(), s["sum"].flat.item(), len(s["bit"])) for s in course.states[1:]] == [(1.0, 2.0, 1), (1.5, -2.0, 2)]
    assert course.sim.kernel.now == pytest.approx(8.0, abs=100 * NOTHING_S)


def test_nobody_came_changes_nothing() -> None:
    network = star({"a": 1.0, "b": 1.0}, churn=away(a=(1.0,), b=(2.0,)))
    course = run(network, targets({"a": (1, 0.0), "b": (1, 4.0)}), Scaffold(**ONE), 3, start=[2.0])
    assert (course.x.item(), course.states[-1]["sum"].flat.item(), course.states[-1]["bit"]) == (2.0, 0.0, {"a": False, "b": False})


@pytest.mark.parametrize("field", [{"server_lr": 0.0}, {"fraction": 0.0}, {"local_steps": 0}, {"lr": 0.0}, {"batch_size": 0}])
def test_fields_are_checked(field: dict[str, Any]) -> None:
    with pytest.raises(ScenarioError, match=rf"Scaffold\.{next(iter(field))}: got .* allowed is"):
        Scaffold(**field)
