"""HIST: parts are disjoint and cover, writing back is exact, one cell is HFedAvg, bytes and seconds by hand, the planner, the sum over the air."""

from __future__ import annotations

from itertools import product
from math import inf
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from airloom.errors import ScenarioError
from airloom.methods.hfedavg import HFedAvg
from airloom.methods.hist import HIST, hidden
from airloom.models import zoo
from airloom.models.params import Params
from airloom.network.cell import Cell
from airloom.network.network import Network
from airloom.plans import partition
from airloom.program.reducer import air_sum, counted_mean
from airloom.tasks import TaskSettings, make_task
from airloom.tasks.task import Task
from tests.methods.hand import away
from tests.methods.quadratic import run
from tests.worlds import device, play, world

FIELDS: dict[str, Any] = {"group_rounds": 2, "local_steps": 2, "lr": 0.1, "batch_size": 8}
NAMES = list("abcd")


def two_cells(rate: float = 1e6, backhaul: float = 1e9, speeds: dict[str, float] | None = None, **changes: Any) -> Network:
    """Cell e with a and b, cell f with c and d."""
    pairs = {("e", "hub"): backhaul, ("f", "hub"): backhaul, **{(n, "ef"[i // 2]): rate for i, n in enumerate(NAMES)}}
    devices = {n: device((speeds or {}).get(n, 1e9)) for n in NAMES}
    return world(pairs, devices=devices, **changes)


def digits(*hidden_layers: int, names: list[str] = NAMES) -> Task:
    model = zoo.mlp(inputs=64, hidden=hidden_layers, classes=10)
    return make_task(TaskSettings(partition="iid", limit=300), names, 0, model=model)


# --- the parts -------------------------------------------------------------------------------------------------------------------------------


def test_every_second_fully_connected_layer_is_cut() -> None:
    assert hidden(zoo.mlp(inputs=4, hidden=(6, 5, 7), classes=2)) == {"hidden1": 6, "hidden3": 7}
    assert hidden(zoo.cnn(size=8, widths=(2, 4), hidden=16)) == {"hidden": 16}
    assert hidden(zoo.softmax_regression(inputs=4)) == {}


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.7, 0.2, 0.1]])
def test_parts_are_disjoint_and_cover_and_go_back_bit_for_bit(shares: list[float]) -> None:
    spec = zoo.mlp(inputs=5, hidden=(10, 4, 10), classes=3)
    x = spec.initial(0)

    def text(node: Any) -> None:
        parts = [x[sub] for sub in HIST().cut(node, spec, shares, 0)]
        counts, sums = torch.zeros(spec.size, dtype=torch.float64), torch.zeros(spec.size, dtype=torch.float64)
        for part in parts:
            part.scatter_into(sums, counts)
        # shared: the bias of layers that are not cut, and the output layer's bias; once: rows, biases and columns of the cut ones
        once = {"hidden1.weight", "hidden1.bias", "hidden2.weight", "hidden3.weight", "hidden3.bias", "out.weight"}
        for leaf in spec.leaves:
            held = counts[leaf.offset : leaf.offset + leaf.size]
            assert (held == (1 if leaf.name in once else len(shares))).all(), leaf.name
        # neurons in the shares, and what is partitioned adds up to d
        assert [part.spec.axes["hidden1"] for part in parts] == partition.whole(shares, 10)
        back = node.reduce([node.put(part) for part in parts], over=counted_mean(into=x.zeros()))
        assert torch.equal(back.flat, x.flat)

    play(two_cells(), text)


def test_parts_are_drawn_anew_unless_they_are_fixed() -> None:
    spec = zoo.mlp(inputs=5, hidden=(16,), classes=3)

    def text(node: Any) -> None:
        drawn = [[HIST(is_redrawn=r).cut(node, spec, [0.5, 0.5], t) for t in (0, 1)] for r in (True, False)]
        assert drawn[0][0] != drawn[0][1] and drawn[1][0] == drawn[1][1]

    play(two_cells(), text)


def test_one_cell_is_hfedavg() -> None:
    network = world({("e", "hub"): 1e9, **{(n, "e"): 1e6 for n in "abc"}})
    task = digits(12, names=list("abc"))
    mine, other = (run(network, task, m, 3) for m in (HIST(**FIELDS), HFedAvg(**FIELDS)))
    # the same sums: a mean of differences instead of models, in float32
    np.testing.assert_allclose(mine.x.numpy(), other.x.numpy(), atol=1e-6)


def test_a_model_without_hidden_layers_is_shared_by_all() -> None:
    task = make_task(TaskSettings(partition="iid", limit=300), NAMES, 0, model=zoo.softmax_regression(inputs=64))
    mine, other = (run(two_cells(), task, m, 2) for m in (HIST(**FIELDS), HFedAvg(**FIELDS)))
    np.testing.assert_allclose(mine.x.numpy(), other.x.numpy(), atol=1e-6)


def test_neurons_of_a_lost_cell_keep_their_values() -> None:
    # f is away from the start: all neurons go to e; it leaves in the round: its half stays
    task = digits(8)
    gone = run(two_cells(churn=away(f=(0.0,))), task, HIST(**FIELDS), 1)
    assert not torch.equal(gone.x, task.model.initial(0).flat)
    lost = run(two_cells(rate=1e3, churn=away(f=(0.5,))), task, HIST(**FIELDS), 1)
    rows = {name: t for name, t in Params(task.model, lost.x - task.model.initial(0).flat).named().items()}["hidden1.weight"]
    assert (rows.abs().sum(1) > 0).sum() == 4


# --- seconds and bytes -----------------------------------------------------------------------------------------------------------------------------


def test_bytes_of_a_round_by_hand() -> None:
    # 64-8-10: 64 * 8 + 8 + 80 + 10 = 610 values; each cell has 4 neurons (300 values) and the 10 output biases: 310 values of 4 bytes, and the list
    # of its neurons in the three leaves that it cuts
    task, network = digits(8), two_cells()
    spent = run(network, task, HIST(**FIELDS), 1).spent(0)
    sub = task.model.slice(HIST().cut(Drawn(), task.model, [0.5, 0.5], 0)[0])  # type: ignore[arg-type]
    part = 4 * 310 + sub.index_bytes
    assert 0 < sub.index_bytes <= 3 * 8 + 3 * 4 * 4
    # down: each client, each group round; up the same; on the backhaul one part down and up per cell
    assert spent["bytes_up"] == pytest.approx(4 * 2 * part, abs=4 * 2 * 24)
    assert spent["bytes_down"] == pytest.approx(4 * 2 * part, abs=4 * 2 * 24)
    assert spent["bytes_backhaul"] == pytest.approx(2 * 2 * part, abs=4 * 24)
    whole = run(network, task, HFedAvg(**FIELDS), 1).spent(0)
    assert 0.5 < spent["bytes_up"] / whole["bytes_up"] < 0.55


class Drawn:
    """A node that only draws."""

    def rng(self, *labels: object) -> np.random.Generator:
        return np.random.default_rng(0)


def test_the_planned_round_is_what_the_clock_shows() -> None:
    # cell e computes three times as fast as cell f, on links of its own without latency
    task = digits(40)
    speeds = {"a": 3e5, "b": 6e5, "c": 1e5, "d": 2e5}
    network = two_cells(rate=1e5, backhaul=1e5, speeds=speeds)
    taken = {}
    for split in ("equal", "latency"):
        seen: list[dict[str, Any]] = []

        def text(node: Any, split: Any = split, seen: list[dict[str, Any]] = seen) -> None:
            method = HIST(split=split, **FIELDS)
            s = method.round(node, method.init(node, task.model.initial(0)))
            seen.append({"seconds": node.now_s, "shares": method.shares(node, s["x"], ["e", "f"])})

        play(network, text, task=task)
        taken[split] = seen[0]
    plan = taken["latency"]["shares"]
    assert sum(plan.shares) == pytest.approx(1.0) and plan.shares[0] > 0.6
    # 40 neurons round the share; lists of neurons are longer than ranges: 5 %
    assert taken["latency"]["seconds"] == pytest.approx(plan.finish_s, rel=0.05)
    assert taken["latency"]["seconds"] < 0.85 * taken["equal"]["seconds"]


# --- the planner -----------------------------------------------------------------------------------------------------------------------------------


def test_the_planner_by_hand_and_at_its_bounds() -> None:
    # T = (1 + sum B / A) / sum 1 / A = (1 + 0.5 + 0) / (1/2 + 1) = 1, p = (1 - 1) / 2 = 0 and 1: the first cell is only worth having by force
    assert partition.shortest([[(2.0, 1.0)], [(1.0, 0.0)]], 0.0).shares == pytest.approx([0.0, 1.0])
    forced = partition.shortest([[(2.0, 1.0)], [(1.0, 0.0)]], 0.25)
    assert forced.shares == pytest.approx([0.25, 0.75]) and forced.finish_s == pytest.approx(1.5)
    # a client that is slow to send and one that is slow to compute: which of them is the slowest changes with p
    bent = partition.shortest([[(4.0, 0.0), (1.0, 1.0)], [(4.0, 0.0)]], 0.0)
    assert bent.cell_s[0] == pytest.approx(bent.cell_s[1]) and bent.finish_s == pytest.approx(2.0)


CELLS = st.lists(st.lists(st.tuples(st.floats(0.1, 5), st.floats(0, 2)), min_size=1, max_size=3), min_size=1, max_size=4)


@given(CELLS, st.floats(0, 1))
def test_plans_are_feasible_level_and_never_worse_than_equal(cells: list[list[tuple[float, float]]], part: float) -> None:
    least = part / len(cells)
    plan = partition.shortest(cells, least)
    assert sum(plan.shares) == pytest.approx(1.0)
    assert all(p >= least - 1e-9 for p in plan.shares)
    assert plan.finish_s <= partition.fixed(cells, [1 / len(cells)] * len(cells)).finish_s * (1 + 1e-9)
    active = [T for T, p in zip(plan.cell_s, plan.shares, strict=True) if least + 1e-6 < p < 1 - 1e-6]
    assert all(pytest.approx(plan.finish_s, rel=1e-6) == T for T in active) or any(
        p <= least + 1e-6 and pytest.approx(plan.finish_s) == T for T, p in zip(plan.cell_s, plan.shares, strict=True)
    )


def test_no_grid_of_shares_is_better() -> None:
    cells = [[(3.0, 0.5), (1.0, 1.2)], [(1.0, 0.3)], [(2.0, 0.0)]]
    plan = partition.shortest(cells, 0.05)
    grid = np.arange(0.05, 0.91, 0.01)
    best = min(partition.fixed(cells, [p, q, 1 - p - q]).finish_s for p, q in product(grid, grid) if 1 - p - q >= 0.05 - 1e-9)
    assert plan.finish_s <= best + 1e-9 and best < plan.finish_s + 0.05


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=6), st.integers(6, 200))
def test_whole_neurons_add_up(shares: list[float], n: int) -> None:
    shares = [p / sum(shares) for p in shares]
    counts = partition.whole(shares, n)
    assert sum(counts) == n and min(counts) >= 1
    if min(shares) * n >= 1:
        assert all(abs(c - p * n) < 1 + len(shares) / 2 for c, p in zip(counts, shares, strict=True))


# --- over the air ----------------------------------------------------------------------------------------------------------------------------------


def airy(names: list[str]) -> Network:
    """One base station with a cell of 100 Hz."""
    cell = Cell(name="cell", bandwidth_hz=100.0, sharing="tdma")
    return world({("e", "hub"): 1e9, **{(n, "e"): cell for n in names}}, downlink="free", devices={n: device(1e9) for n in names})


def test_without_noise_the_air_is_the_mean_and_takes_as_long_for_one_as_for_many() -> None:
    task = digits(8)
    fields: dict[str, Any] = {**FIELDS, "weights": "equal"}
    mean = run(airy(NAMES), task, HIST(**fields), 2)
    air = run(airy(NAMES), task, HIST(**fields, over=air_sum(inf, threshold=0.0)), 2)
    np.testing.assert_allclose(air.x.numpy(), mean.x.numpy(), atol=1e-6)
    # 610 values at 100 Hz are 6.1 s a group round for any number of clients; the lengths (8 bytes each) share the cell before
    few, many = (run(airy(names), digits(8, names=names), HIST(**fields, over=air_sum(inf, threshold=0.0)), 1).spent(0) for names in (["a"], NAMES))
    assert few["seconds"] == pytest.approx(2 * (6.1 + 0.64), rel=1e-3)
    assert many["seconds"] == pytest.approx(2 * (6.1 + 4 * 0.64), rel=1e-3)
    assert mean.spent(0)["seconds"] > 2 * 4 * 610 * 32 / 100  # by message, four models share the cell


def test_bad_input() -> None:
    with pytest.raises(ScenarioError, match=r"HIST\.least: got 1\.5; allowed is"):
        HIST(least=1.5)
    with pytest.raises(ScenarioError, match="a layer needs a neuron for every cell"):
        run(two_cells(), digits(1), HIST(**FIELDS), 1)
    with pytest.raises(ScenarioError, match="allowed are least shares from 0 to 1 / cells"):
        partition.shortest([[(1.0, 0.0)], [(1.0, 0.0)]], 0.6)
    with pytest.raises(ScenarioError, match="each needs a client"):
        partition.shortest([[]], 0.0)
