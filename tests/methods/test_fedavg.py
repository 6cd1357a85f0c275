"""FedAvg: rounds by hand, its equalities with gradient descent and centralized training, selection, seconds, bytes and losses."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from airloom.errors import ScenarioError
from airloom.methods.centralized import Centralized
from airloom.methods.fedavg import FedAvg
from airloom.network.cell import Cell
from airloom.parts.select import Oort, Selector, selector
from airloom.plans.star import star_round
from tests.methods.hand import away, star, targets
from tests.methods.quadratic import gradient, least_squares, random_rows, run
from tests.worlds import device, task_for, world

STEP: dict[str, Any] = {"local_steps": 1, "lr": 1.0, "batch_size": 1}  # a client's model is its target
TWO = targets({"a": (1, 1.0), "b": (3, 5.0)})


def test_a_round_by_hand() -> None:
    # eta = 1/2, two steps from 0: a goes 0, 1/2, 3/4; b goes 0, 5/2, 15/4. By samples (3/4 + 3 * 15/4) / 4 = 3, equal (3/4 + 15/4) / 2 = 9/4
    fields: dict[str, Any] = {"local_steps": 2, "lr": 0.5, "batch_size": 1}
    course = run(star({"a": 1.0, "b": 1.0}), TWO, FedAvg(**fields), 1, start=[0.0])
    assert course.x.item() == 3.0
    assert run(star({"a": 1.0, "b": 1.0}), TWO, FedAvg(weights="equal", **fields), 1, start=[0.0]).x.item() == 2.25
    # mean loss of the two steps, for selectors: a (1 + 1/4) / 2 / 2, b (25 + 25/4) / 2 / 2
    assert course.states[-1]["history"]["loss"] == {"a": 0.3125, "b": 7.8125}
    # the model down, the model and the loss up
    assert (course.stamps[-1]["bytes_down"], course.stamps[-1]["bytes_up"]) == (2 * 8, 2 * (8 + 8))


def test_epochs_are_passes_over_a_clients_own_data() -> None:
    # B = 2, E = 2: a's row fills one batch per pass, b's three rows two. eta = 1/2: a after 2 steps 3/4, b after 4 steps 5 (1 - 1/16)
    course = run(star({"a": 1.0, "b": 1.0}), TWO, FedAvg(local_epochs=2, lr=0.5, batch_size=2), 1, start=[0.0])
    assert (course.sim.sites["a"].drawn, course.sim.sites["b"].drawn) == (2 * 2, 4 * 2)
    assert course.x.item() == pytest.approx((0.75 + 3 * 5 * 15 / 16) / 4)


def test_one_full_step_is_gradient_descent() -> None:
    # FedSGD (E = 1, B = all): x - eta mean_n grad F_n(x), for clients of equal size
    names = list("abc")
    rows = random_rows(names)
    w = np.array([0.5, -1.0, 2.0])
    course = run(star(dict.fromkeys(names, 1.0)), least_squares(rows), FedAvg(local_epochs=1, lr=0.3, batch_size=4), 3, start=w.tolist())
    for _ in range(3):
        w = w - 0.3 * np.mean([gradient(rows[n], w) for n in names], axis=0)
    np.testing.assert_allclose(course.x.numpy(), w, rtol=1e-12)


def test_one_client_is_centralized_training() -> None:
    # full batches: the same steps, up to the order of rows in a sum
    task = least_squares(random_rows(["a"]))
    fields: dict[str, Any] = {"local_steps": 5, "lr": 0.3, "batch_size": 4}
    mine, other = (run(star({"a": 1.0}), task, method, 3, start=[1.0, 2.0, 3.0]) for method in (FedAvg(**fields), Centralized(**fields)))
    np.testing.assert_allclose(mine.x.numpy(), other.x.numpy(), rtol=1e-12)


# --- seconds -----------------------------------------------------------------------------------------------------------------------------


def test_seconds_of_a_round_on_own_links() -> None:
    # H = 2, B = 3: 2 * 3 * 4 = 24 FLOPs
    speeds, rates = {"a": 24.0, "b": 12.0, "c": 48.0}, {"a": 4.0, "b": 16.0, "c": 2.0}
    task = targets({name: (2, 1.0) for name in speeds})
    course = run(star(speeds, rate=rates, latency_s=0.25), task, FedAvg(local_steps=2, lr=0.1, batch_size=3), 2)
    plan = star_round(
        down_bits=64.0, down_bps=[8 * r for r in rates.values()], down_latency_s=0.25, compute_s=[24 / s for s in speeds.values()],
        up_bits=128.0, up_bps=[8 * r for r in rates.values()], up_latency_s=0.25, downlink="unicast", is_down_shared=False, is_up_shared=False,
    )  # fmt: skip
    assert plan.round_s == 4.25 + 0.5 + 8.25  # c: 8 B and 16 B at 2 B/s
    for t in range(2):
        assert course.spent(t)["seconds"] == pytest.approx(plan.round_s, abs=1e-9)
    assert course.states[1]["history"]["duration_s"] == pytest.approx(dict(zip(speeds, plan.arrived_s.tolist(), strict=True)))


@pytest.mark.parametrize("downlink", ["unicast", "broadcast", "free"])
def test_seconds_of_a_round_in_a_cell(downlink: Any) -> None:
    cell = Cell(name="cell", bandwidth_hz=64.0, sharing="tdma")  # 8 byte/s
    speeds = {"a": 1.0, "b": 4.0, "c": 0.5}
    network = world({(n, "hub"): cell for n in speeds}, devices={n: device(s) for n, s in speeds.items()}, downlink=downlink)
    course = run(network, targets({n: (1, 1.0) for n in speeds}), FedAvg(local_steps=1, lr=0.1, batch_size=1), 1)
    plan = star_round(
        down_bits=64.0, down_bps=64.0, down_latency_s=0.0, compute_s=[4 / s for s in speeds.values()],
        up_bits=128.0, up_bps=64.0, up_latency_s=0.0, downlink=downlink, is_down_shared=True, is_up_shared=True,
    )  # fmt: skip
    assert course.spent(0)["seconds"] == pytest.approx(plan.round_s, abs=1e-9)


# --- selection ---------------------------------------------------------------------------------------------------------------------------

SIX = targets({name: (4 + k, float(k)) for k, name in enumerate("abcdef")})


def chosen(course: Any) -> list[set[str]]:
    """Who took part, by round."""
    picks = [s["history"]["picks"] for s in course.states]
    return [{n for n in after if after[n] != before.get(n, 0)} for before, after in pairwise(picks)]


@pytest.mark.parametrize(("fraction", "expected"), [(0.01, 1), (0.25, 2), (0.5, 3), (1.0, 6)])  # round(6 C), at least 1; 1.5 rounds to even
def test_a_fraction_of_the_clients_takes_part(fraction: float, expected: int) -> None:
    network = star(dict.fromkeys("abcdef", 1.0))
    first, again, other = (run(network, SIX, FedAvg(fraction=fraction, **STEP), 20, start=[0.0], seed=seed) for seed in (0, 0, 1))
    assert [len(names) for names in chosen(first)] == [expected] * 20
    assert chosen(first) == chosen(again)
    assert chosen(first) != chosen(other) or expected == 6
    assert set.union(*chosen(first)) == set("abcdef")


@pytest.mark.parametrize("text", ["uniform", "weighted", "power_of_choice(candidates=4)", "oort", "oort(pacer_step_s=5.0)"])
def test_every_selector_runs_with_clients_that_come_and_go(text: str) -> None:
    # f is there from 30 s on only, a is away for a while; a round takes 4 s
    churn = away(f=(0.0, 30.0), a=(9.0, 21.0))
    course = run(star(dict.fromkeys("abcdef", 1.0), churn=churn), SIX, FedAvg(fraction=0.5, select=selector(text), **STEP), 20, start=[0.0])
    assert all(1 <= len(names) <= 3 for names in chosen(course))
    assert set.union(*chosen(course)) == set("abcdef")


def test_power_of_choice_takes_the_client_with_the_largest_last_loss() -> None:
    # all six are candidates; after six rounds everybody was seen once (unseen ones count as infinitely lossy)
    select = selector("power_of_choice(candidates=6)")
    course = run(star(dict.fromkeys("abcdef", 1.0)), SIX, FedAvg(fraction=0.1, select=select, **STEP), 9, start=[0.0])
    assert set.union(*chosen(course)[:6]) == set("abcdef")
    for t in (6, 7, 8):
        loss = course.states[t]["history"]["loss"]
        assert chosen(course)[t] == {max(loss, key=lambda n: loss[n])}


def test_oort_shuns_a_slow_client() -> None:
    # equal data; d takes 40 s, the others 4 s; with T = 5 s d's utility is worth (5/40)^2 of theirs
    task = targets({name: (4, 3.0) for name in "abcd"})
    select: Selector = Oort(pacer_step_s=5.0)
    network = star({"a": 1.0, "b": 1.0, "c": 1.0, "d": 0.1})
    course = run(network, task, FedAvg(fraction=0.5, select=select, local_steps=1, lr=1e-3, batch_size=1), 30, start=[0.0])
    picks = course.states[-1]["history"]["picks"]
    assert picks["d"] < min(picks[n] for n in "abc") / 3


# --- loss --------------------------------------------------------------------------------------------------------------------------------


def lossy(rounds: int, speeds: dict[str, float] | None = None, **times: tuple[float, ...]) -> Any:
    """TWO with steps to the target; a round takes 4 s."""
    return run(star(speeds or {"a": 1.0, "b": 1.0}, churn=away(**times)), TWO, FedAvg(**STEP), rounds, start=[7.0])


def test_the_mean_goes_over_those_that_came() -> None:
    course = lossy(2, b=(1.0, 3.0))
    assert course.states[1]["x"].flat.item() == 1.0  # a alone
    assert course.states[1]["history"]["picks"] == {"a": 1}
    assert course.states[2]["x"].flat.item() == (1 + 3 * 5) / 4  # both again


def test_nobody_came_keeps_the_model() -> None:
    # both are lost by 1.5 s; a, back at 1.2 s, is alone in the next round
    course = lossy(2, a=(1.0, 1.2), b=(1.5, 1.6))
    assert [s["x"].flat.item() for s in course.states] == [7.0, 7.0, 1.0]


def test_nobody_there_keeps_the_model() -> None:
    assert lossy(1, a=(0.0,), b=(0.0,)).x.item() == 7.0


def test_an_update_that_has_arrived_outlives_its_client() -> None:
    # a is done at 1 s and leaves at 2 s, b at 4 s
    course = lossy(1, {"a": 4.0, "b": 1.0}, a=(2.0,))
    assert course.x.item() == 4.0
    assert course.states[-1]["history"]["picks"] == {"a": 1, "b": 1}


# --- fields ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "field", [{"fraction": 0.0}, {"fraction": 1.1}, {"local_steps": 0}, {"local_steps": 1.5}, {"local_epochs": -1}, {"lr": 0.0}, {"batch_size": 0}]
)
def test_fields_are_checked(field: dict[str, Any]) -> None:
    with pytest.raises(ScenarioError, match=rf"FedAvg\.{next(iter(field))}: got .* allowed is"):
        FedAvg(**field)


def test_it_learns_digits() -> None:
    network = star(dict.fromkeys("ab", 1e9))
    task = task_for(network)
    course = run(network, task, FedAvg(), 5)
    assert task.evaluate(course.states[-1]["x"])["accuracy"] > 0.5 > 0.2 > task.evaluate(course.states[0]["x"])["accuracy"]
