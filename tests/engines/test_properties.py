"""Properties of the engine on random worlds, and loss at every event of a small run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airloom.engines.simnode import SimNode
from airloom.errors import AirloomError, DeviceLost
from airloom.network.cell import Cell
from airloom.network.churn import TraceChurn
from airloom.network.network import Network
from airloom.plans.star import star_round
from airloom.program.ref import Ref
from tests.worlds import body, play, work, world


@given(
    st.lists(st.tuples(st.floats(0.1, 5), st.integers(1_000, 2_000_000), st.floats(1e5, 1e7)), min_size=1, max_size=8),
    st.booleans(),
    st.integers(1_000, 1_000_000),
)
@settings(max_examples=60)
def test_a_synchronous_star_round_equals_its_closed_form(clients: list[tuple[float, int, float]], is_cell: bool, down: int) -> None:
    names = [f"c{i}" for i in range(len(clients))]
    cell = Cell(name="cell", bandwidth_hz=8e6, sharing="tdma")
    network = world({(name, "hub"): cell if is_cell else rate for name, (_, _, rate) in zip(names, clients, strict=True)}, latency_s=0.03)
    rates = [8e6 if is_cell else 8.0 * rate for _, _, rate in clients]

    def text(node: SimNode) -> list[float]:
        refs = node.map(work, names, each=[(seconds, up, body(down)) for seconds, up, _ in clients])
        node.fetch(refs)
        return [ref.arrived_s for ref in refs]  # type: ignore[misc]

    expected = star_round(
        down_bits=np.full(len(names), 8.0 * (down + 16)),  # two numbers ride along
        down_bps=np.array(rates),
        down_latency_s=np.full(len(names), 0.03),
        compute_s=np.array([seconds for seconds, _, _ in clients]),
        up_bits=np.array([8.0 * up for _, up, _ in clients]),
        up_bps=np.array(rates),
        up_latency_s=np.full(len(names), 0.03),
        downlink="unicast",
        is_down_shared=is_cell,
        is_up_shared=is_cell,
    )
    assert play(network, text).value == pytest.approx(list(expected.arrived_s), rel=1e-9)


def group(node: SimNode, rounds: int) -> float:
    """An edge server that goes on with whoever is left."""
    for _ in range(rounds):
        refs = node.map(work, node.children, 1.0, 50_000, body(20_000))
        arrived, _, _ = node.first(refs, len(refs))
        if arrived:
            node.fetch(arrived)
    return node.now_s


def busy(node: SimNode) -> tuple[int, int]:
    """A text that uses every way of waiting: programs, chains, parts, puts, k of n, timeouts."""
    lost = 0
    kept: Ref = node.put(body(10_000))
    for _ in range(2):
        programs: list[Any] = [node.program(edge, group, 2) for edge in node.children]
        chain: Any = body(5_000)
        for name in node.clients[:3]:
            chain = node.call(work, name, 0.5, 5_000, chain, kept)
        flying = node.map(work, node.clients, 0.7, 30_000)
        _, rest, gone = node.first(flying, max(len(flying) // 2, 1), timeout_s=3.0)
        lost += len(gone)
        for refs in (rest, programs):
            _, _, gone = node.first(refs, len(refs))
            lost += len(gone)
        if isinstance(chain, Ref):
            try:
                node.fetch(chain)
            except DeviceLost:
                lost += 1
        node.sleep(node.now_s + 0.1)
    return lost, len(node.clients)


def small(churn: TraceChurn | None = None) -> Network:
    left, right = Cell(name="left", bandwidth_hz=2e6, sharing="tdma"), Cell(name="right", bandwidth_hz=1e6, sharing="fdma")
    pairs: dict[tuple[str, str], Any] = {
        ("e", "hub"): 1e6,
        ("f", "hub"): 1e6,
        ("a", "e"): left,
        ("b", "e"): left,
        ("c", "f"): right,
        ("d", "f"): right,
    }
    return world(pairs, latency_s=0.01, churn=churn, detect_s=0.2)


def event_times() -> list[float]:
    """Times of all events of the undisturbed run."""
    seen: list[float] = []

    def log(time_s: float, *_: object) -> None:
        seen.append(time_s)

    end = play(small(), busy, log=log).sim.kernel.now
    return sorted({*seen, *np.linspace(0.01, end, 10).tolist()})


@pytest.mark.parametrize("name", ["a", "d", "e"])
def test_a_loss_at_any_event_never_hangs_and_conserves(name: str) -> None:
    for time_s in event_times():
        for back in (None, 0.7):
            changes = [(time_s, False)] + ([(time_s + back, True)] if back is not None else [])
            played = play(small(TraceChurn(changes={name: changes})), busy)  # a deadlock raises
            sim = played.sim
            stamp = sim.stamp()
            wires = sim.wires.wires.values()
            by: dict[str, float] = {}
            for wire in wires:
                by[wire.direction] = by.get(wire.direction, 0.0) + wire.bytes
            flying, _ = sim.wires.under_way()
            for direction, key in (("up", "bytes_up"), ("down", "bytes_down"), ("backhaul", "bytes_backhaul")):
                assert stamp[key] == pytest.approx(by.get(direction, 0.0) + flying.get(direction, 0.0))
            sites = [s for s in sim.sites.values() if not s.meter.is_server]
            assert sum(s.meter.bytes_up for s in sites) + flying.get("up", 0.0) == pytest.approx(stamp["bytes_up"])
            assert all(busy_s <= sim.kernel.now + 1e-9 for s in sim.sites.values() for busy_s in s.meter.busy_s.values())


def test_time_never_goes_back() -> None:
    seen: list[float] = []

    def log(time_s: float, *_: object) -> None:
        seen.append(time_s)

    play(small(), busy, log=log)
    assert seen == sorted(seen)
    assert len(seen) > 20


def test_errors_of_a_text_come_out_as_they_are() -> None:
    def text(node: SimNode) -> None:
        node.sleep(1.0)
        raise AirloomError("mine")

    with pytest.raises(AirloomError, match="mine"):
        play(small(), text)
