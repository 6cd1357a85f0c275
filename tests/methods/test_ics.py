"""ICS: unbiased over all sets, its variance, FedAvg at q = 1, rounds of the planned length, empty draws, pilots, the published form, and losses."""

from __future__ import annotations

from itertools import product
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from airloom.engines.simnode import SimNode
from airloom.errors import ScenarioError
from airloom.methods.fedavg import FedAvg
from airloom.methods.ics import ICS
from airloom.models.params import Params
from airloom.network.cell import Cell
from airloom.plans import sampling
from airloom.plans.bandwidth import common_finish, equal_shares
from tests.methods.hand import away, star, targets
from tests.methods.quadratic import run
from tests.worlds import device, play, world

ONE: dict[str, Any] = {"local_steps": 1, "lr": 0.5, "batch_size": 1}
SIZES = {"a": (1, 0.0), "b": (2, 4.0), "c": (1, -2.0)}  # rows and target of each client; shares 1/4, 1/2, 1/4
MODEL = 8 + 8  # bytes of an answer: one parameter in float64, and the loss


def played(network: Any, task: Any, method: ICS, rounds: int, start: float = 1.0, seed: int = 0) -> list[dict[str, Any]]:
    """The reports of some rounds."""

    def text(node: SimNode) -> None:
        s = method.init(node, Params(task.model, torch.tensor([start], dtype=torch.float64)))
        for _ in range(rounds):
            s = method.round(node, s)
            node.sim.end_round()

    return play(network, text, task=task, seed=seed).reports


def one_round_from(S: str, q: dict[str, float]) -> float:
    """x after a round in which S joined, from 1, by the method's own text."""
    task, method = targets(SIZES), ICS(**ONE)

    def text(node: SimNode) -> float:
        x = Params(task.model, torch.tensor([1.0], dtype=torch.float64))
        with patch.object(ICS, "draw", lambda *_: list(S)):
            return method.step(node, x, method.world(node, x), q)[0].flat.item()

    return play(star(dict.fromkeys("abc", 1.0)), text, task=task).value


def test_mean_and_variance_over_all_sets() -> None:
    # from x = 1, one step of 1/2: deltas -1/2, 3/2, -3/2 to the targets 0, 4, -2; a = 1/4, 1/2, 1/4
    # full participation: 1 - 1/8 + 3/4 - 3/8 = 5/4; variance sum (1 - q)/q a^2 delta^2
    q = {"a": 0.5, "b": 0.8, "c": 0.25}
    a, delta = {"a": 0.25, "b": 0.5, "c": 0.25}, {"a": -0.5, "b": 1.5, "c": -1.5}
    mean = square = 0.0
    for joins in product([False, True], repeat=3):
        S = "".join(n for n, j in zip("abc", joins, strict=True) if j)
        chance = np.prod([q[n] if j else 1 - q[n] for n, j in zip("abc", joins, strict=True)])
        x = one_round_from(S, q)
        mean += chance * x
        square += chance * x * x
    assert mean == pytest.approx(1.25, abs=1e-12)
    assert square - mean**2 == pytest.approx(sum((1 - q[n]) / q[n] * a[n] ** 2 * delta[n] ** 2 for n in q), abs=1e-12)


def test_draws_are_independent_with_the_given_probabilities() -> None:
    q = {"a": 0.3, "b": 0.6, "c": 0.9}
    method = ICS()
    n = 4000

    def text(node: SimNode) -> Any:
        u = np.array([node.rng("join", "round", t, 0).random(3) for t in range(n)])  # draws as the text makes them, the empty ones too
        sets = [method.draw(node, q, "round", t) for t in range(200)]
        return u < np.array(list(q.values())), sets

    joins, sets = play(star(dict.fromkeys("abc", 1.0)), text).value
    for i, p in enumerate(q.values()):
        assert joins[:, i].mean() == pytest.approx(p, abs=3 * np.sqrt(p * (1 - p) / n))
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert abs(np.corrcoef(joins[:, i], joins[:, j])[0, 1]) < 3 / np.sqrt(n)
    assert all(sets[t] == [name for name, j in zip("abc", joins[t], strict=True) if j] for t in range(200) if joins[t].any())


def test_everybody_at_once_is_fedavg() -> None:
    network, task = star(dict.fromkeys("abc", 1.0)), targets(SIZES)
    mine, other = (run(network, task, method, 4, start=[1.0]) for method in (ICS(scheme="full", **ONE), FedAvg(**ONE)))
    np.testing.assert_allclose(mine.x.numpy(), other.x.numpy(), rtol=1e-14)
    assert mine.stamps[-1]["bytes_up"] == other.stamps[-1]["bytes_up"]
    assert mine.stamps[-1]["bytes_down"] == other.stamps[-1]["bytes_down"]


def cell(hz: float, **more: Any) -> Any:
    """Three clients of 2, 1 and 1/2 FLOP/s in a cell of so many Hz at 1 bit/s/Hz; the down-link is free."""
    air = Cell(name="air", bandwidth_hz=hz, sharing="tdma")
    return world(
        {(n, "hub"): air for n in "abc"}, devices={n: device(s) for n, s in zip("abc", (2.0, 1.0, 0.5), strict=True)}, downlink="free", **more
    )


@pytest.mark.parametrize("bandwidth", ["common", "equal"])
def test_the_engine_takes_as_long_as_the_plan_says(bandwidth: Any) -> None:
    # one step of one sample: 4 FLOPs, so tau = 2, 4, 8 s; answers of 16 + 4 bytes on 40 Hz: c = 8 * 20 / 40 = 4 s each
    method = ICS(scheme="full", bandwidth=bandwidth, **ONE)
    course = run(cell(40.0, framing_bytes=4), targets(SIZES), method, 2, start=[1.0])
    planned = (common_finish if bandwidth == "common" else equal_shares)([2.0, 4.0, 8.0], [4.0] * 3, 40.0).finish_s
    # equal: 8 + 4 * 3 = 20 s; common: 4/(T-2) + 4/(T-4) + 4/(T-8) = 1 is T^3 - 26 T^2 + 168 T - 288 = 0, whose root above 8 is 16.80
    assert planned == pytest.approx(20.0 if bandwidth == "equal" else max(np.roots([1, -26, 168, -288]).real))
    assert [course.spent(r)["seconds"] for r in (0, 1)] == pytest.approx([planned, planned], rel=1e-9)


def test_plans_are_reported_and_bound_the_round() -> None:
    reports = played(cell(40.0), targets(SIZES), ICS(scheme="fix", q=0.6, **ONE), 6)
    t = np.array([2.0, 4.0, 8.0]) + 8 * MODEL / 40
    assert [r["expected_s"] for r in reports] == pytest.approx([0.6 * t.sum()] * 6)
    seconds = np.diff([0.0, *[r["seconds"] for r in reports]])
    assert seconds.tolist() == pytest.approx([r["planned_s"] for r in reports], rel=1e-9)
    assert len({r["clients"] for r in reports}) > 1


def test_cells_are_shared_one_by_one_and_own_links_not_at_all() -> None:
    # a and b in one cell, c alone in another, d on a link of its own: 160 bit on 40 Hz or at 4 byte/s
    one, two = (Cell(name=n, bandwidth_hz=40.0, sharing="tdma") for n in ("one", "two"))
    network = world(
        {("a", "hub"): one, ("b", "hub"): one, ("c", "hub"): two, ("d", "hub"): 4.0}, devices={n: device(4.0) for n in "abcd"}, downlink="free"
    )
    task = targets({n: (1, 0.0) for n in "abcd"})
    course = run(network, task, ICS(scheme="full", **ONE), 1, start=[1.0])
    # tau = 1 s each; a and b: 1 + 2 * 3.2 = 7.4 s; c: 1 + 3.2; d: 1 + 16/4
    assert course.spent(0)["seconds"] == pytest.approx(7.4)
    assert course.sim.totals.bytes_by["up"] == 4 * MODEL


def test_the_cells_own_rule_can_stand() -> None:
    # tdma: b sends 2.. while a is through; a from 2 s alone, b from 4 s, c from 8 s, 3.2 s of air each
    course = run(cell(40.0), targets(SIZES), ICS(scheme="full", bandwidth="cell", **ONE), 1, start=[1.0])
    # a: 2 s alone, then half of the air: 1.2 s of work take 2.4 s until 6.4; b has 1.2 by then, 1.6 alone to 8.0, 0.4 left: shared with c to 8.8;
    # c has 0.4 of 3.2 by 8.8 and ends at 11.6
    assert course.spent(0)["seconds"] == pytest.approx(11.6)


def test_an_empty_draw_costs_the_slot_and_keeps_x() -> None:
    # two clients that join with 0.05 each: 90 % of the draws are empty
    network, task = star({"a": 1.0, "b": 1.0}), targets({"a": (1, 0.0), "b": (1, 4.0)})
    fields: dict[str, Any] = {"scheme": "fix", "q": 0.05, **ONE}
    free, slotted = (run(network, task, ICS(slot_s=slot_s, **fields), 5, start=[1.0]) for slot_s in (0.0, 100.0))
    assert torch.equal(free.x, slotted.x)  # the same sets
    empty = (slotted.stamps[-1]["seconds"] - free.stamps[-1]["seconds"]) / 100.0
    assert empty == pytest.approx(round(empty), abs=1e-6)
    assert 10 < empty < 150  # 0.9025 of the draws are empty: 46 on average before five sets, standard deviation 22
    for name in ("bytes_up", "bytes_down", "joules"):
        assert free.stamps[-1][name] == slotted.stamps[-1][name]


def test_probabilities_are_the_planners() -> None:
    network, task = cell(40.0), targets(SIZES)
    want = sampling.independent([0.25, 0.5, 0.25], np.array([2.0, 4.0, 8.0]) + 3.2, alpha=28.474, beta=2.2043)

    def text(node: SimNode) -> Any:
        method = ICS(**ONE)
        x = Params(task.model, torch.tensor([1.0], dtype=torch.float64))
        return method.probabilities(method.world(node, x), 28.474, 2.2043)

    q, m = play(network, text, task=task).value
    assert list(q) == list("abc") and list(q.values()) == pytest.approx(want.probabilities.tolist())
    assert m == pytest.approx(want.round_s)


def test_the_published_form_by_hand_is_biased() -> None:
    # q = 1 for all: each steps by a_n lr, then a plain mean: from 1 with deltas -1/2, 3/2, -3/2 times a = 1/4, 1/2, 1/4:
    # (-1/8 + 3/4 - 3/8) / 3 = 1/12, a third of the unbiased update
    course = run(star(dict.fromkeys("abc", 1.0)), targets(SIZES), ICS(scheme="full", mode="paper", **ONE), 1, start=[1.0])
    assert course.x.item() == pytest.approx(1 + 1 / 12)


def test_pilots_are_on_the_clock_and_find_beta() -> None:
    # full batches of one row, q = 1/2 and 1; what the pilots measured, the planner inverts
    task, fields = targets(SIZES), {"pilots": 2, "pilot_rounds": 6, "pilot_q": 0.5, "local_steps": 1, "lr": 0.2, "batch_size": 1}
    method = ICS(**fields)  # type: ignore[arg-type]
    plain = ICS(**{**fields, "pilots": 0})  # type: ignore[arg-type]
    mine, other = (played(cell(40.0), task, m, 1, start=9.0) for m in (method, plain))
    assert (other[0]["pilot_s"], other[0]["levels"], other[0]["beta"]) == (0.0, 0, 2.2043)
    assert mine[0]["pilot_s"] > 24 * 2.0 and mine[0]["levels"] >= 1
    assert mine[0]["seconds"] > mine[0]["pilot_s"]
    assert mine[0]["beta"] != 2.2043 and mine[0]["beta"] > 3 * 0.25 / 0.5  # above the least that lets the pilot at 1/2 converge


def test_pilots_that_tell_nothing_keep_the_given_constants() -> None:
    # one client alone at q_1 = 1/2: a round that it joins is the same as one at 1, so both curves look alike
    reports = played(star({"a": 1.0}), targets({"a": (1, 0.0)}), ICS(pilots=1, pilot_rounds=3, pilot_q=0.999, beta=1.5, **ONE), 1)
    assert (reports[0]["levels"], reports[0]["beta"]) == (0, 1.5)


def test_a_lost_update_is_left_out() -> None:
    # b leaves with its answer on the air; a's update has its weight of a full set: 1 + (1/2) (-1/2)
    network = star({"a": 1.0, "b": 1.0}, rate=8.0, churn=away(b=(7.0,)))
    course = run(network, targets({"a": (1, 0.0), "b": (1, 4.0)}), ICS(scheme="full", **ONE), 1, start=[1.0])
    assert course.x.item() == 0.75


def test_a_client_that_is_too_large_is_named() -> None:
    task = targets({"a": (18, 0.0), "b": (1, 4.0), "c": (1, 1.0)})
    with pytest.raises(ScenarioError, match=r"client 0 has the share 0.9 of the data; must be below sqrt\(beta / N\) = 0.8572"):
        run(star(dict.fromkeys("abc", 1.0)), task, ICS(**ONE), 1, start=[1.0])


@pytest.mark.parametrize("field", [{"q": 0.0}, {"q": 1.5}, {"floor": -0.1}, {"beta": 0.0}, {"pilot_q": 0.0}, {"pilot_rounds": 1}, {"slot_s": -1.0}])
def test_fields_are_checked(field: dict[str, Any]) -> None:
    with pytest.raises(ScenarioError, match=rf"ICS\.{next(iter(field))}: got .* allowed is"):
        ICS(**field)


def test_a_cell_without_bandwidth_is_refused() -> None:
    with pytest.raises(ScenarioError, match=r"Cell\('air'\).*bandwidth_hz"):
        cell(0.0)
