"""The assistant: its world, its fields, and the comparison that the README promises."""

from __future__ import annotations

from pathlib import Path

import pytest

import airloom
from airloom.errors import ScenarioError
from airloom.scenarios.assistant import assistant, edge_skill

TINY = {"scenario.devices": 2, "scenario.base_stations": 1, "scenario.requests": 5}


def test_every_place_has_an_endpoint_and_every_phone_requests() -> None:
    world = assistant(seed=3)
    assert set(world.task.residents) == set(world.network.places)
    assert {name: len(asked) for name, asked in world.task.requests.items()} == {f"phone{i}": 30 for i in range(6)}
    again = assistant(seed=3).task.requests["phone0"]
    assert [r.question for r in again] == [r.question for r in world.task.requests["phone0"]]
    assert [r.at_s for r in again] != [r.at_s for r in assistant(seed=4).task.requests["phone0"]]


def test_tiers_know_more_and_cost_more_upwards() -> None:
    ends = [assistant(seed=0).task.residents[name] for name in ("phone0", "edge0", "cloud")]
    assert ends[0].price_out < ends[1].price_out < ends[2].price_out
    assert (edge_skill("1+1="), edge_skill("1+1+1="), edge_skill("1+1*1=")) == (1.0, 0.9, 0.5)


def test_compare_makes_a_table_and_a_figure(tmp_path: Path) -> None:
    found = airloom.compare(["device_only", "cloud_only", "cascade"], scenario="assistant", set=TINY, seeds=1, workers=1, out=tmp_path / "out")
    accuracy = {row["method"]: row["metrics"]["accuracy"]["mean"] for row in found.rows}
    price = {row["method"]: row["metrics"]["price_each"]["mean"] for row in found.rows}
    assert accuracy["cloud_only"] == 1.0 >= accuracy["cascade"] >= accuracy["device_only"]
    assert price["device_only"] < price["cloud_only"] and price["device_only"] <= price["cascade"]
    assert (tmp_path / "out" / "compare.png").stat().st_size > 10_000


def test_a_trace_of_rates_takes_the_place_of_the_link(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    file.write_text("t_s,rate_bps\n0,8e6\n10,0\n20,8e6\n", encoding="utf-8")
    world = assistant(seed=0, devices=2, base_stations=1, trace=str(file))
    down, up = world.network.links["edge0", "phone0"].trace, world.network.links["phone0", "edge0"].trace
    assert down is not None and up is not None
    assert (down.rate_bps(5.0), down.rate_bps(15.0), down.period_s, up.rate_bps(5.0)) == (8e6, 0.0, 21.0, 2e6)


def test_outages_take_their_share_of_the_time() -> None:
    world = assistant(seed=0, outage=0.25, outage_s=10.0, up_bps=1.0, down_bps=1.0)
    shares = []
    for i in range(6):
        link = world.network.links[world.network.places[f"phone{i}"].parent, f"phone{i}"]  # type: ignore[index]
        assert link.trace is not None and link.trace.period_s is not None
        shares.append(1 - link.trace.bits(0.0, link.trace.period_s) / link.trace.period_s)
    assert sum(shares) / 6 == pytest.approx(0.25, abs=0.06)  # 600 outages: four standard deviations


@pytest.mark.parametrize("fields", [{"devices": 5, "base_stations": 2}, {"outage": 1.0}, {"outage_s": 0.0}, {"hard": 1.5}, {"requests": 0}])
def test_bad_fields_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ScenarioError):
        assistant(seed=0, **fields)  # type: ignore[arg-type]
