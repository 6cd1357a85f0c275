"""Networks with other physics: each change by hand on small networks, and in runs by name."""

from __future__ import annotations

from pathlib import Path

import pytest

import airloom
from airloom.errors import ScenarioError
from airloom.network.device import Work
from airloom.network.network import Network
from airloom.network.scale import FIELDS, Physics
from airloom.network.topology import star
from airloom.network.trace import Trace
from airloom.scenarios.phones import phones
from tests.tiny_world import tiny
from tests.worlds import device


def small() -> Network:
    rates = [1e6, Trace(times_s=(0.0,), rates_bps=(2e6,))]
    return star({"a": device(2.0), "b": device(2.0)}, root=device(5.0), up_bps=rates, down_bps=4e6, latency_s=0.1)


def test_nothing_changes_by_default() -> None:
    network = small()
    assert Physics().apply(network) is network


def test_rates_of_access_links() -> None:
    fixed = Physics(rate_bps=3e6).apply(small())
    root = fixed.root
    assert fixed.links["a", root].rate_bps == fixed.links[root, "a"].rate_bps == 3e6
    assert fixed.links["b", root].trace is not None  # a trace stays a trace
    double = Physics(rate_factor=2.0, latency_s=0.5).apply(small())
    trace = double.links["b", root].trace
    assert double.links["a", root].rate_bps == 2e6 and trace is not None and trace.rate_bps(0.0) == 4e6
    assert double.links["a", root].latency_s == 0.5
    # 3 dB count as a factor of two where there is no channel
    assert Physics(gain_db=-3.0).apply(small()).links["a", root].rate_bps == 0.5e6


def test_speeds_of_clients() -> None:
    network = Physics(speed_factor=4.0).apply(small())
    work = Work(flops=8.0)
    # 8 FLOP at 2 FLOP/s take 4 s, at 8 FLOP/s 1 s; the server stays as it is
    assert small().places["a"].device.seconds(work) == 4.0 and network.places["a"].device.seconds(work) == 1.0
    assert network.places[network.root].device == small().places[small().root].device
    assert network.places["a"].device is network.places["a"].device


def test_gains_and_bands_of_cells() -> None:
    network = phones(seed=0, devices=4, base_stations=1).network
    name = next(iter(network.clients(network.root)))
    before = next(link for link in network.links.values() if link.source == name)
    after = Physics(gain_db=3.0, rate_factor=2.0).apply(network).links[before.source, before.target]
    assert before.gain_db is not None and before.cell is not None and after.cell is not None
    assert after.gain_db == before.gain_db + 3.0
    assert after.cell.bandwidth_hz == 2 * before.cell.bandwidth_hz
    changed = Physics(rate_factor=2.0).apply(network)
    assert len({id(link.cell) for link in changed.links.values()}) == len({id(link.cell) for link in network.links.values()})  # still shared
    with pytest.raises(ScenarioError, match="no access link of this network has a fixed rate"):
        Physics(rate_bps=1e6).apply(network)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"link.rate_bps": 0}, "> 0"),
        ({"link.latency_s": -1}, ">= 0"),
        ({"link.color": 1}, ", ".join(FIELDS)),
        ({"device.speed_factor": "x"}, "number"),
    ],
)
def test_bad_values(given: dict[str, object], message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        Physics.of(given)


def test_a_run_takes_them_by_name_and_its_record_says_so(tmp_path: Path) -> None:
    def seconds(**changes: float) -> float:
        names = {name.replace("_", ".", 1): value for name, value in changes.items()}
        run = airloom.run(
            "fedavg", scenario=tiny, set=names, budget={"rounds": 1}, target=None, executor="loop", out=tmp_path / str(len(list(tmp_path.iterdir())))
        )
        assert {**run.header["scenario"]["fields"], **names} == run.header["scenario"]["fields"]
        return run.points[0]["seconds"]

    assert seconds(link_rate_factor=0.5) > seconds() > seconds(device_speed_factor=2.0)
