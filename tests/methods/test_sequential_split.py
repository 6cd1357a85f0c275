"""Sequential split learning: the unsplit chain for every cut, seconds and bytes of a visit by hand, clipping, labels at home, FLOPs, loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from airloom.errors import ScenarioError
from airloom.methods.sequential_fl import SequentialFL
from airloom.methods.sequential_split import SequentialSplit
from airloom.models import zoo
from airloom.models.module import model
from airloom.network.network import Network
from airloom.network.topology import with_peers
from airloom.parts.order import FixedOrder
from airloom.tasks import TaskSettings, make_task
from airloom.tasks.task import Task
from tests.methods.hand import away, star
from tests.methods.quadratic import run
from tests.worlds import device, world

NAMES = list("abc")
FIELDS: dict[str, Any] = {"local_steps": 5, "lr": 0.1, "batch_size": 8}
CUTS = [("server", 0), ("server", 1), ("server", 2), ("server", 3), ("client", 0), ("client", 1), ("client", 2)]


def digits(dtype: torch.dtype = torch.float64) -> Task:
    """64-12-8-10: 780, 104 and 90 values."""
    spec = zoo.mlp(inputs=64, hidden=(12, 8), classes=10, dtype=dtype)
    return make_task(TaskSettings(partition="iid", limit=300), NAMES, 0, model=spec)


TASK, FLOAT32 = digits(), digits(torch.float32)


def plain(**changes: Any) -> Network:
    return star(dict.fromkeys(NAMES, 1e9), **changes)


# --- what it computes ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("labels", "cut"), CUTS)
def test_it_is_sequential_fl_on_the_unsplit_network_for_every_cut(labels: Any, cut: int) -> None:
    whole = run(plain(), TASK, SequentialFL(**FIELDS), 3)
    split = run(plain(), TASK, SequentialSplit(cut=cut, labels=labels, **FIELDS), 3)
    # 45 steps in float64: the same operations, so the same up to a few units in the last place
    np.testing.assert_allclose(split.x.numpy(), whole.x.numpy(), rtol=1e-10, atol=1e-13)


def test_clipping_the_halves_is_another_clipping_and_the_global_one_is_not() -> None:
    whole = run(plain(), TASK, SequentialFL(**FIELDS, clip_norm=0.5), 2)
    found = {
        clip: float((run(plain(), TASK, SequentialSplit(**FIELDS, clip_norm=0.5, clip=clip), 2).x - whole.x).abs().max())
        for clip in ("halves", "global")
    }
    assert found["global"] < 1e-12 < 1e-3 < found["halves"]
    # and where the bound does not bind, both are none (but for the factor 1 / (1 + 1e-6 / norm) that clipping never leaves out above it)
    free = run(plain(), TASK, SequentialSplit(**FIELDS), 2)
    for clip in ("halves", "global"):
        assert torch.equal(run(plain(), TASK, SequentialSplit(**FIELDS, clip_norm=1e6, clip=clip), 2).x, free.x)


def test_the_server_half_is_carried_through_all_visits() -> None:
    # 3 visits of 5 steps in one round are the server half of 15 steps: as in sequential FL, whose upper layers are those of one chain
    fixed: dict[str, Any] = {**FIELDS, "order": FixedOrder()}
    one = run(plain(), TASK, SequentialSplit(**fixed), 1)
    chain = run(plain(), TASK, SequentialFL(**fixed), 1)
    np.testing.assert_allclose(one.x.numpy()[780:], chain.x.numpy()[780:], rtol=1e-10, atol=1e-13)


# --- seconds, bytes and FLOPs --------------------------------------------------------------------------------------------------------------------


def test_bytes_of_a_visit_by_the_formula() -> None:
    # w_c 780 values of 4 bytes in and out, K n (|a| + |da|) = K * 8 * 12 * 4 each way, labels K * 8 bytes
    for K in (5, 10):
        spent = run(plain(), FLOAT32, SequentialSplit(**{**FIELDS, "local_steps": K}), 1).spent(0)
        assert spent["bytes_up"] == 3 * (780 * 4 + K * (8 * 12 * 4 + 8))
        assert spent["bytes_down"] == 3 * (780 * 4 + K * 8 * 12 * 4)
    # with labels at home h (8 values per row) comes down and dL/dh goes up instead; the head of 90 values travels with w_c
    spent = run(plain(), FLOAT32, SequentialSplit(**FIELDS, labels="client"), 1).spent(0)
    assert spent["bytes_up"] == 3 * (870 * 4 + 5 * 8 * (12 + 8) * 4)
    assert spent["bytes_down"] == 3 * (870 * 4 + 5 * 8 * (12 + 8) * 4)


def test_it_sends_less_than_whole_models_below_the_crossover() -> None:
    # K n (|a| + |da|) < 2 (|w| - |w_c|): here 2 K n 12 against 2 * 194 values; both relay through the server; labels apart
    whole = run(plain(), FLOAT32, SequentialFL(**FIELDS), 1).spent(0)
    for K, n, is_less in ((1, 8, True), (2, 8, True), (3, 8, False)):
        assert (2 * K * n * 12 < 2 * 194) == is_less
        spent = run(plain(), FLOAT32, SequentialSplit(local_steps=K, batch_size=n), 1).spent(0)
        sent = spent["bytes_up"] + spent["bytes_down"] - 3 * K * n
        assert (sent < whole["bytes_up"] + whole["bytes_down"]) == is_less


def test_seconds_of_a_visit_by_hand() -> None:
    # links of 384 byte/s, 0.25 s latency: w_c 3120 bytes 8.125 s, a and labels 392 bytes, da 384 bytes 1 s. Forward 2 * 8 * 768 = 12288 FLOP,
    # backward of the first layer the same: 2 s each at 6144 FLOP/s. The server's part: a forward and two backward products of 96 + 80 weights and
    # 8 rows: 3 * 2 * 8 * 176 = 8448 FLOP, 1 s at 8448 FLOP/s. One step: 2 + 392/384 + .25 + 1 + 1 + .25 + 2
    server = device(8448.0)
    network = world({("a", "hub"): 384.0}, devices={"a": device(6144.0), "hub": server}, latency_s=0.25)
    task = make_task(TaskSettings(partition="iid", limit=300), ["a"], 0, model=FLOAT32.model)
    for K in (1, 3):
        spent = run(network, task, SequentialSplit(**{**FIELDS, "local_steps": K}), 1).spent(0)
        step = 2 + 392 / 384 + 0.25 + 1 + 1 + 0.25 + 2
        assert spent["seconds"] == pytest.approx(2 * (8.125 + 0.25) + K * step, rel=1e-9)


def test_the_model_moves_from_client_to_client_where_links_are() -> None:
    network = with_peers(plain(), [("a", "b"), ("b", "c")], rate_bps=1e9, latency_s=0.0)
    spent = run(network, FLOAT32, SequentialSplit(**FIELDS, order=FixedOrder()), 1).spent(0)
    assert spent["bytes_peer"] == 2 * 780 * 4
    assert spent["bytes_down"] == 780 * 4 + 3 * 5 * 8 * 12 * 4


@pytest.mark.parametrize(("labels", "cut"), CUTS)
def test_flops_of_both_sides_are_those_of_the_whole(labels: Any, cut: int) -> None:
    speeds = {n: device(1.0) for n in NAMES} | {"hub": device(1.0)}
    network = world({(n, "hub"): 1e9 for n in NAMES}, devices=speeds)

    def flops(method: Any) -> dict[str, float]:
        course = run(network, FLOAT32, method, 1)
        return {n: sum(course.sim.sites[n].meter.busy_s.values()) for n in (*NAMES, "hub")}

    whole, split = flops(SequentialFL(**FIELDS)), flops(SequentialSplit(cut=cut, labels=labels, **FIELDS))
    assert sum(split.values()) == pytest.approx(sum(whole.values()), rel=1e-12)
    if labels == "server":
        assert (split["a"] == 0) == (cut == 0) and (split["hub"] == 0) == (cut == 3)


# --- loss, bad input -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hops", "is_kept"), [("direct", False), ("relayed", True)])
def test_a_lost_client_costs_the_round_or_its_visit(hops: Any, is_kept: bool) -> None:
    network = world({(n, "hub"): 1e3 for n in NAMES}, churn=away(c=(15.0,)), devices={"hub": device(1e9), **{n: device(1e6) for n in NAMES}})
    course = run(network, FLOAT32, SequentialSplit(**FIELDS, order=FixedOrder(), hops=hops), 2)
    assert torch.equal(course.states[1]["x"].flat, course.states[0]["x"].flat) != is_kept
    assert not torch.equal(course.states[2]["x"].flat, course.states[1]["x"].flat)  # a and b go on


def test_nobody_there_keeps_the_model() -> None:
    course = run(plain(churn=away(a=(0.0,), b=(0.0,), c=(0.0,))), FLOAT32, SequentialSplit(**FIELDS), 1)
    assert torch.equal(course.x, course.states[0]["x"].flat)


def test_bad_input() -> None:
    with pytest.raises(ScenarioError, match=r"cut of .*: got layers \[4\]; allowed are rising numbers from 0 to 3"):
        run(plain(), FLOAT32, SequentialSplit(**FIELDS, cut=4), 1)
    with pytest.raises(ScenarioError, match=r"got layers \[3, 2\]"):
        run(plain(), FLOAT32, SequentialSplit(**FIELDS, cut=3, labels="client"), 1)
    with pytest.raises(ScenarioError, match="allowed is clip='halves' with labels at the client"):
        SequentialSplit(labels="client", clip="global")
    with pytest.raises(ScenarioError, match=r"SequentialSplit\.fraction"):
        SequentialSplit(fraction=0.0)
    spec = model(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10)))
    task = make_task(TaskSettings(partition="iid", limit=300), NAMES, 0, model=spec)
    with pytest.raises(ScenarioError, match="running statistics, which a cut model would lose"):
        run(plain(), task, SequentialSplit(**FIELDS), 1)
