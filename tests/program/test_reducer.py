"""Reducers: folds in float64, slices at their own coordinates, sums over the air."""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np
import pytest
import torch

from airloom.engines.simnode import SimNode
from airloom.errors import ScenarioError, Unsupported
from airloom.models import zoo
from airloom.models.params import Params, join
from airloom.models.submodel import layers, width
from airloom.network.cell import Cell
from airloom.program.here import Here
from airloom.program.reducer import MEAN, SUM, Accumulator, air_sum, counted_mean, scatter_sum
from tests.worlds import play, world

MODEL = zoo.mlp(inputs=3, hidden=(4,), classes=2)
STAR = world({("a", "hub"): 1e6, ("b", "hub"): 1e6})


def keep(here: Here, value: Any) -> Any:
    here.cost(seconds=1.0)
    return value


def test_a_mean_is_folded_in_float64_and_keeps_the_kind() -> None:
    fold = Accumulator()
    for value, weight in ((1e8, 0.25), (1.0, 0.75)):
        fold.add({"x": torch.tensor([value], dtype=torch.float32), "n": np.array([value]), "none": None}, weight)
    out = fold.value()
    assert out["x"].dtype == torch.float32
    assert out["n"].tolist() == [25_000_000.75]
    assert out["none"] is None
    with pytest.raises(ScenarioError, match="str"):
        Accumulator().add("text", 1.0)


def test_mean_normalizes_and_sum_does_not() -> None:
    def text(node: SimNode) -> Any:
        refs = [node.call(keep, "a", 2.0), node.call(keep, "b", 5.0)]
        return node.reduce(refs, [1, 3]), node.reduce(refs, [1, 3], over=SUM), node.reduce(refs, over=MEAN)

    # (2 + 15) / 4, 2 + 15, 3.5
    assert play(STAR, text).value == (4.25, 17.0, 3.5)


def test_counted_mean_counts_each_coordinate_and_keeps_the_rest() -> None:
    x = MODEL.initial(0)
    small = x[width(0.5)]

    def text(node: SimNode) -> Params:
        refs = [node.call(keep, "a", small.zeros()), node.call(keep, "b", x * 3.0)]
        return node.reduce(refs, [1, 2], over=counted_mean(into=x))

    got = play(STAR, text).value
    # held by both: (0 + 2 * 3x) / 3 = 2x; held by b alone: 3x
    assert torch.allclose(got[width(0.5)].flat, 2 * small.flat)
    outside = torch.ones(len(x), dtype=torch.bool)
    outside[small.spec.index] = False
    assert torch.allclose(got.flat[outside], 3 * x.flat[outside])

    def only_a(node: SimNode) -> Params:
        return node.reduce([node.call(keep, "a", small.zeros())], over=counted_mean(into=x))

    assert torch.equal(play(STAR, only_a).value.flat[outside], x.flat[outside])


def test_disjoint_parts_are_written_back() -> None:
    x = MODEL.initial(0)
    low, high = x[layers(0, 1)] * 2.0, x[layers(1, 2)] * 5.0

    def text(node: SimNode) -> Params:
        return node.reduce([node.call(keep, "a", low), node.call(keep, "b", high)], over=counted_mean(into=x))

    assert torch.equal(play(STAR, text).value.flat, join(low, high).flat)


def test_scatter_sum_adds_slices_where_they_belong() -> None:
    x = MODEL.initial(0)
    small = x[width(0.5)]

    def text(node: SimNode) -> Params:
        refs = [node.call(keep, "a", small), node.call(keep, "b", small)]
        return node.reduce(refs, [1.0, 0.5], over=scatter_sum(into=x.zeros()))

    got = play(STAR, text).value
    assert torch.allclose(got[width(0.5)].flat, 1.5 * small.flat)
    assert got.flat.abs().sum() == pytest.approx(1.5 * small.flat.abs().sum().item(), rel=1e-6)


def air_world() -> Any:
    cell = Cell(name="air", bandwidth_hz=1e6, sharing="tdma")
    return world({(name, "hub"): cell for name in "abcdefgh"}, downlink="free")


def test_the_air_adds_without_noise_in_one_use_of_the_channel() -> None:
    x = MODEL.initial(0)

    def text(node: SimNode) -> Any:
        values = [node.call(keep, name, x * float(i)) for i, name in enumerate(node.clients)]
        mean = node.reduce(values, over=air_sum(inf, threshold=0.0))
        return mean, node.now_s

    played = play(air_world(), text)
    mean, now = played.value
    assert torch.allclose(mean.flat, x.flat * 3.5, atol=1e-6)
    # one second of work, then d values at one per Hz and second; nothing is sent as a message
    assert now == pytest.approx(1.0 + len(x) / 1e6)
    assert played.sim.stamp()["bytes_up"] == 0


def test_the_noise_of_the_air_has_the_stated_spread() -> None:
    model = zoo.mlp(inputs=60, hidden=(100,), classes=10)
    x = model.initial(0)

    def text(node: SimNode) -> Any:
        values = node.map(keep, node.clients, x)
        return node.reduce(values, over=air_sum(10.0, threshold=0.8)), node.now_s

    mean, now = play(air_world(), text, seed=3).value
    # the channels as the engine draws them: names, place and time are the labels
    from airloom.clock.rng import generator

    made_s = 1.0
    for attempt in range(100):
        h = [abs(complex(*generator(3, "air", name, "hub", repr(made_s), attempt).normal(0.0, 0.5, 2))) for name in "abcdefgh"]
        ok = [gain for gain in h if gain >= 0.8]
        if ok:
            break
    d, m = len(x), len(ok)
    spread = np.sqrt(x.square_norm() / (10.0 * min(ok) ** 2 * d)) / m
    found = (mean.flat.double() - x.flat.double()).std().item()
    assert found == pytest.approx(spread, rel=3 / np.sqrt(2 * d))
    assert now == pytest.approx(made_s + d / 1e6)


def test_the_air_reaches_one_hop_only() -> None:
    network = world({("e", "hub"): 1e6, ("a", "e"): 1e6})

    def text(node: SimNode) -> Any:
        return node.reduce([node.call(keep, "a", MODEL.initial(0))], over=air_sum(10.0))

    with pytest.raises(Unsupported, match="2 hops"):
        play(network, text)
    with pytest.raises(Unsupported, match="on a wire"):
        play(STAR, text)


def test_slices_are_needed_where_slices_are_counted() -> None:
    with pytest.raises(ScenarioError, match="counted_mean: got a float"):
        play(STAR, lambda node: node.reduce([node.call(keep, "a", 1.0)], over=counted_mean(into=MODEL.initial(0))))
    with pytest.raises(ScenarioError, match="allowed are reducers"):
        play(STAR, lambda node: node.reduce([node.call(keep, "a", 1.0)], over="mean"))
