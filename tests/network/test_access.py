"""The builder of radio cells: geometry, link budgets, unreachable phones, interference, speed of building."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import numpy as np
import pytest

from airloom.errors import ScenarioError
from airloom.network.access import CellPlan, cells, hexagonal_grid
from airloom.network.channel import linear, watts
from airloom.network.network import Network
from airloom.network.profiles import CLOUD, EDGE_BOX, phones


def build(n: int = 60, stations: int = 3, seed: int = 0, **change: Any) -> Network:
    return cells(phones(n, seed=seed), base_stations=stations, base_station=EDGE_BOX, root=CLOUD, seed=seed, plan=CellPlan(**change))


def distances(net: Network) -> np.ndarray:
    found = []
    for name in net.clients(net.root):
        place = net.places[name]
        assert place.parent is not None
        found.append(math.dist(place.position_m or (0, 0), net.places[place.parent].position_m or (0, 0)))
    return np.array(found)


def test_default_plan_by_hand() -> None:
    # 51 * 360 kHz = 18.36 MHz; up 0.25 * 0.92 of it, down 0.75 * 0.86
    plan = CellPlan()
    assert plan.band_hz == 18.36e6
    assert plan.bandwidth_hz("up") == pytest.approx(4.2228e6)
    assert plan.bandwidth_hz("down") == pytest.approx(11.8422e6)
    # top rates: 2.0 * 4.2228 * 0.9 = 7.601 Mbit/s up, 4.4 * 11.8422 * 0.9 = 46.895 down
    net = build()
    up = max(net.links[c, "edge0"].cell.rate_bps(net.links[c, "edge0"], 4.2228e6, at_s=0.0, bits=1e9, seed=0) for c in net.children("edge0"))  # pyright: ignore[reportOptionalMemberAccess]
    assert up <= 7.60105e6
    assert plan.latency_s == pytest.approx(0.013)
    assert CellPlan(block_error=0.0).latency_s == 0.005


def test_phones_are_uniform_in_the_ring_of_their_cell() -> None:
    d = distances(build(n=6000, stations=3))
    assert d.min() >= 10.0
    assert d.max() <= 150.0
    # uniform in area: (d^2 - 10^2) / (150^2 - 10^2) is uniform; its mean over 6,000 is within 4 * 0.289 / sqrt(6000) of a half
    u = (d**2 - 100.0) / (22_500.0 - 100.0)
    assert u.mean() == pytest.approx(0.5, abs=0.015)
    assert np.quantile(u, 0.25) == pytest.approx(0.25, abs=0.025)


def test_link_budget_is_the_same_both_ways_and_power_control_follows_it() -> None:
    net = build()
    for name in net.clients(net.root):
        up, down = net.route(name, "cloud")[0], net.route("cloud", name)[1]
        assert up.gain_db == down.gain_db
        assert up.rice_db == down.rice_db
        # P0 + alpha PL, in dBm per 180 kHz
        assert up.power_w_per_hz == pytest.approx(watts(-80.0 - 0.8 * (up.gain_db or 0.0)) / 180e3)
        assert down.power_w_per_hz == pytest.approx(watts(44.0) / 18.36e6)
        assert (up.direction, down.direction) == ("up", "down")
        assert up.latency_s == pytest.approx(0.013)
    assert net.route("phone0", "cloud")[1].rate_bps == 1e9
    assert net.route("phone0", "cloud")[1].latency_s == 0.01


def test_without_shadowing_gain_is_path_loss() -> None:
    net = build(shadowing=False, environment="uma", radius_m=400.0)
    for name, d in zip(net.clients(net.root), distances(net)):
        up = net.route(name, "cloud")[0]
        d3 = math.hypot(d, 23.5)
        direct = 28.0 + 22.0 * math.log10(d3) + 20.0 * math.log10(3.5)
        if up.rice_db > -math.inf and d < 4 * 24 * 0.5 * 3.5e9 / 299_792_458.0:
            assert up.gain_db == pytest.approx(-direct)
        elif up.rice_db == -math.inf:
            assert up.gain_db == pytest.approx(-max(direct, 13.54 + 39.08 * math.log10(d3) + 20.0 * math.log10(3.5)))


def test_a_world_belongs_to_its_seed_and_a_cell_does_not_depend_on_the_others() -> None:
    gains = [[link.gain_db for link in build(n, stations, seed).links.values() if link.target == "edge0"] for n, stations, seed in
             ((60, 3, 0), (60, 3, 0), (60, 3, 1), (80, 4, 0))]  # fmt: skip
    assert gains[0] == gains[1] == gains[3]
    assert gains[0] != gains[2]


def test_phones_that_no_band_reaches_are_absent_and_reported() -> None:
    net = build(n=400, stations=4, radius_m=1500.0, shadowing=False)
    assert net.unreachable
    assert len(net.unreachable) < 400
    for name in net.clients(net.root):
        up, down = net.route(name, "cloud")[0], net.route("cloud", name)[1]
        assert up.cell is not None
        assert down.cell is not None
        reached = up.cell.reachable(up) and down.cell.reachable(down)
        assert reached == (name not in net.unreachable) == net.present(name, 5.0, 0) == net.churn.present(name, 5.0, 0)
    found = net.describe()
    assert found["unreachable"] == len(net.unreachable)
    assert json.loads(json.dumps(found)) == found


def test_at_150_m_nearly_every_phone_is_reached_and_at_500_m_a_whole_band_often_is_not() -> None:
    assert len(build(n=2000, stations=4).unreachable) < 20
    far = build(n=2000, stations=4, radius_m=500.0)
    links = [far.route(name, "cloud")[0] for name in far.clients(far.root)]
    narrowed = sum(link.cell is not None and link.cell.best_band_hz(link) < link.cell.bandwidth_hz for link in links) / 2000
    assert 0.15 < narrowed < 0.5  # the "third of the phones" that would be in outage if they kept the whole band


def test_interference_from_the_geometry() -> None:
    lone = build(n=50, stations=1, interference="geometry")
    assert all(link.noise_rise_db == 0.0 for link in lone.links.values() if link.direction == "down")
    crowd = build(n=700, stations=7, interference="geometry")
    rises = {link.target: link.noise_rise_db for link in crowd.links.values() if link.direction == "down"}
    inner = np.median([rises[c] or 0.0 for c in crowd.children("edge0")])
    outer = np.median([rises[c] or 0.0 for c in crowd.children("edge6")])
    assert inner > outer > 0.0  # the center cell has six neighbors around it, an outer one three
    # capped: no other station is heard louder than the own one, so the SINR is at least 1 / (6 * 0.5) less the noise
    for name in crowd.children("edge0"):
        link = crowd.links["edge0", name]
        assert link.cell is not None
        sinr = link.cell.sinr(link, link.cell.bandwidth_hz)
        snr = watts(44.0) / 18.36e6 * linear(link.gain_db or 0.0) / watts(-165.0)
        assert sinr >= 1.0 / (3.0 + 1.0 / snr) * (1 - 1e-9)
    busy = build(n=70, stations=7, interference="geometry", load=1.0)
    calm = build(n=70, stations=7, interference="geometry", load=0.1)
    assert all((busy.links[k].noise_rise_db or 0.0) >= (calm.links[k].noise_rise_db or 0.0) for k in busy.links)


def test_hexagonal_grid() -> None:
    points = hexagonal_grid(19, 100.0)
    radii = np.round(np.hypot(points[:, 0], points[:, 1]), 6)
    # a center, six at 100 m, six at 173.2 m, six at 200 m
    assert radii.tolist() == [0.0] + [100.0] * 6 + [173.205081] * 6 + [200.0] * 6
    apart = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1))
    assert np.sort(apart, axis=1)[:, 1].min() == pytest.approx(100.0)


@pytest.mark.parametrize(
    "change",
    [
        {"environment": "moon"},
        {"blocks": 0},
        {"carrier_hz": math.nan},
        {"radius_m": 5.0},
        {"radius_m": 6000.0},
        {"radius_m": 200.0, "environment": "indoor_open"},
        {"min_distance_m": 5.0},
        {"device_height_m": 1.0},
        {"carrier_hz": 200e9},
        {"up_share": 1.0},
        {"load": 0.0},
        {"power_control_alpha": 1.2},
        {"interference": "magic"},
        {"base_height_m": 0.0},
        {"speed_m_per_s": -1.0},
    ],
)
def test_plan_refuses(change: dict[str, Any]) -> None:
    with pytest.raises(ScenarioError, match=next(iter(change))):
        CellPlan(**change)


def test_builder_refuses_more_cells_than_phones() -> None:
    with pytest.raises(ScenarioError, match="base_stations"):
        build(n=2, stations=0)
    with pytest.raises(ScenarioError, match="devices"):
        build(n=2, stations=3)


def test_ten_thousand_phones_are_built_in_seconds() -> None:
    start = time.process_time()
    net = build(n=10_000, stations=100)
    # 0.3 s on a quiet core; the bound leaves room for a busy one
    assert time.process_time() - start < 3.0
    assert len(net.places) == 10_101
