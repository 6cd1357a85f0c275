"""Builders: names, rates dealt out in turn, and shapes."""

from __future__ import annotations

import pytest

from airloom.errors import ScenarioError
from airloom.network.profiles import LAB_RATES_BPS, WHALE_FL
from airloom.network.topology import Level, chain, lab, mesh, ring, star, tree
from airloom.network.trace import Trace

NANO, TX2 = WHALE_FL["nano"], WHALE_FL["tx2"]


def test_star_deals_rates_in_turn_and_takes_traces() -> None:
    trace = Trace(times_s=(0.0,), rates_bps=(5e6,))
    net = star([NANO, TX2, NANO], root=TX2, up_bps=[1e6, 2e6], down_bps=trace, latency_s=0.1)
    assert [net.links[f"client{i}", "cloud"].rate_bps for i in range(3)] == [1e6, 2e6, 1e6]
    assert net.links["cloud", "client0"].trace is trace
    assert net.places["client1"].device is TX2
    assert net.places["cloud"].role == "cloud"
    assert net.links["client0", "cloud"].latency_s == 0.1


def test_a_tree_of_three_levels() -> None:
    levels = [
        Level(name="region", count=2, devices=TX2, up_bps=1e9, down_bps=1e9, latency_s=0.02, wired=True),
        Level(name="edge", count=2, devices=TX2, up_bps=1e8, down_bps=1e8, latency_s=0.01, wired=True),
        Level(name="client", count=2, devices=[NANO, TX2], up_bps=1e6, down_bps=1e7, latency_s=0.0),
    ]
    net = tree(levels, root=TX2)
    assert len(net.places) == 1 + 2 + 4 + 8
    assert net.places["client7"].parent == "edge3"
    assert net.places["edge3"].parent == "region1"
    assert len(net.route("client0", "client7")) == 6
    assert net.places["client0"].role == "client"
    assert net.places["edge0"].role == net.places["region0"].role == "edge"


def test_peer_shapes() -> None:
    assert ring([NANO] * 5, rate_bps=1e6, latency_s=0.0).neighbors("node0") == ("node1", "node4")
    assert len(ring([NANO] * 2, rate_bps=1e6, latency_s=0.0).links) == 2
    line = chain([NANO] * 4, rate_bps=1e6, latency_s=0.0)
    assert line.neighbors("node0") == ("node1",)
    assert len(line.route("node0", "node3")) == 3
    full = mesh([NANO] * 4, rate_bps=1e6, latency_s=0.0)
    assert len(full.links) == 12
    assert full.neighbors("node2") == ("node0", "node1", "node3")
    assert len(mesh([NANO], rate_bps=1e6, latency_s=0.0).places) == 1


def test_lab_is_the_product_of_boards_and_rates() -> None:
    net = lab(root=TX2)
    clients = net.clients("cloud")
    pairs = {(net.places[c].device.profile, net.links[c, "cloud"].rate_bps) for c in clients}
    assert len(clients) == len(pairs) == 20
    assert {rate for _, rate in pairs} == set(LAB_RATES_BPS)


def test_builders_refuse_nothing_to_build() -> None:
    with pytest.raises(ScenarioError, match="levels"):
        tree([], root=NANO)
    with pytest.raises(ScenarioError, match="count"):
        tree([Level(name="a", count=0, devices=NANO, up_bps=1e6, down_bps=1e6, latency_s=0.0)], root=NANO)
    with pytest.raises(ScenarioError, match="devices"):
        ring([], rate_bps=1e6, latency_s=0.0)
    with pytest.raises(ScenarioError, match="rate_bps"):
        star([NANO], root=NANO, up_bps=0.0, down_bps=1e6, latency_s=0.0)
