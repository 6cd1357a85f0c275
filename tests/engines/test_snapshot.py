"""What planners see of routes: every link in order, with its rate now, latency and framing."""

from __future__ import annotations

from math import inf
from typing import Any

from airloom.network.cell import Cell
from airloom.network.link import Hop
from airloom.network.network import Network
from tests.worlds import play, world


def hops(network: Network, source: str, target: str) -> tuple[Hop, ...]:
    """The route as the root's program sees it."""
    return play(network, lambda node: node.network.hops(source, target)).value


def tree(**changes: Any) -> Network:
    cell = Cell(name="cell", bandwidth_hz=800.0, sharing="tdma")
    pairs: dict[tuple[str, str], Any] = {("e", "hub"): 500.0, ("a", "e"): 20.0, ("b", "e"): cell, ("c", "e"): cell}
    return world(pairs, latency_s=0.5, framing_bytes=3, **changes)


def test_a_route_up_and_down_again() -> None:
    # a sends 20 byte/s; b and c share 800 bit/s
    assert hops(tree(), "a", "b") == (Hop("a", "e", 160.0, 0.5, 3), Hop("e", "b", 400.0, 0.5, 3))
    assert hops(tree(), "c", "hub") == (Hop("c", "e", 400.0, 0.5, 3), Hop("e", "hub", 4000.0, 0.5, 3))
    assert hops(tree(), "a", "a") == ()


def test_a_free_down_link_takes_no_time() -> None:
    assert hops(tree(downlink="free"), "hub", "a") == (Hop("hub", "e", 4000.0, 0.5, 3), Hop("e", "a", inf, 0.0, 0))
