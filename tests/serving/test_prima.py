"""Prima on the clock: messages, bytes, and the timeline that the planner predicted."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from airloom import api
from airloom.errors import DoesNotFit, ScenarioError
from airloom.network.churn import Churn
from airloom.network.network import Network
from airloom.plans.pagecache import timeline
from airloom.scenarios.home import HOSTS, home, sizes
from airloom.serving.prima import Prima, declared, touched
from tests.worlds import Played, play


def decoded(method: Prima, **fields: object) -> tuple[Played, Network]:
    scenario = home(seed=0, **fields)  # type: ignore[arg-type]
    return play(scenario.network, method.run, task=scenario.task), scenario.network


@pytest.mark.parametrize(("devices", "turns"), [(4, 1), (4, 2), (3, 4), (1, 2)])
@pytest.mark.parametrize("prefetch", [0, 1])
def test_seconds_of_the_last_token_are_the_timelines(devices: int, turns: int, prefetch: int) -> None:
    # two pieces of text, one physics: the planner's play of caches and disks, and calls on the cpu and disk of each place
    method = Prima(turns=turns, prefetch=prefetch, tokens=4)
    played, network = decoded(method, devices=devices)
    model, ring = declared({name: place.facts for name, place in network.places.items()}, network.root)
    predicted = timeline(model, ring, method.plan(model, ring), is_prefetched=bool(prefetch))
    assert sum(predicted.loads) > 0  # the model does not fit, so that disks matter
    assert played.reports[-1]["token_s"] == pytest.approx(predicted.token_s, rel=1e-9)


def test_each_token_makes_k_m_messages_of_four_bytes_per_value() -> None:
    method = Prima(turns=2, tokens=3)
    played, network = decoded(method, devices=4)
    width = sizes("70b", 1024)[0].width
    # per token: 2 turns x 4 hops x 4 e bytes; of the 4 hops of a turn one leaves the head, one comes to it, two are between peers
    stamp = played.reports[-1]
    assert stamp["bytes_down"] == stamp["bytes_up"] == 3 * 2 * 4 * width
    assert stamp["bytes_peer"] == 2 * stamp["bytes_down"]
    assert len(network.places) == 4


def test_prefetch_helps_with_two_turns_and_hurts_with_one() -> None:
    def last_s(*, turns: int, prefetch: int) -> float:
        return decoded(Prima(tokens=4, turns=turns, prefetch=prefetch), devices=4)[0].reports[-1]["token_s"]

    assert last_s(turns=2, prefetch=1) < last_s(turns=2, prefetch=0)
    assert last_s(turns=1, prefetch=1) > last_s(turns=1, prefetch=0)  # what is read ahead pushes out what is used first


def test_a_planner_that_looks_at_seconds_beats_one_that_looks_at_memory() -> None:
    seconds = {name: decoded(Prima(planner=name, tokens=2), model="65b")[0].reports[-1]["token_s"] for name in ("exact", "memsched", "perfsched")}
    assert seconds["exact"] < seconds["perfsched"] < seconds["memsched"]


def test_pages_of_a_window() -> None:
    # three layers fit; windows of two: [0, 1], then [2, 3] pushes out 0
    loads, pages = touched([], 0, 2, 3)
    assert (loads, pages) == (2, [0, 1])
    loads, pages = touched(pages, 1, 2, 3)
    assert (loads, pages) == (2, [1, 2, 3])
    assert touched(pages, 1, 2, 3) == (0, [1, 2, 3])
    assert touched([2, 3, 1], 1, 2, 3) == (0, [1, 2, 3])  # used pages become the newest
    assert touched([2, 3, 1], 1, 2, 3, is_read=True) == (0, [2, 3, 1])  # asking for what is there changes nothing
    assert touched([], 0, 2, 0) == (2, [])


def test_plan_says_who_holds_what_and_why() -> None:
    rows, whole = api.planned("prima", "home", set={"scenario.model": "70b"})
    assert sum(row["count"] for row in rows) == 80
    assert [row["device"] for row in rows] == [host.name for host in HOSTS]
    assert rows[0]["why"].startswith("head")
    assert any(row["why"].startswith("left out") for row in rows)
    assert whole["turns"] == 1 and whole["token_s"] > 0
    with pytest.raises(ScenarioError, match="decides nothing before it runs"):
        api.planned("fedavg", "home")


def test_a_measured_profile_takes_the_place_of_the_testbed(tmp_path) -> None:
    file = tmp_path / "me.json"
    mine = {
        "name": "me", "system": "linux", "free_bytes": 8e9, "disk_bytes_per_s": 1e9, "cpu_flops_per_s": 1e11, "cpu_bytes_per_s": 1e10,
        "wifi_bps": 1e9, "latency_s": 0.001, "power_w": 20.0,
    }  # fmt: skip
    file.write_text(json.dumps([mine, {**mine, "name": "you"}]))
    rows, _ = api.planned("prima", "home", set={"scenario.model": "8b", "scenario.profile": str(file)})
    assert [row["device"] for row in rows] == ["me", "you"]
    file.write_text(json.dumps([mine, mine]))
    with pytest.raises(ScenarioError, match="names of computers must differ"):
        home(seed=0, profile=str(file))
    file.write_text("{}")
    with pytest.raises(ScenarioError, match="doctor --profile"):
        home(seed=0, profile=str(file))


def test_bad_input_is_named(tmp_path) -> None:
    with pytest.raises(ScenarioError, match=r"Prima\.planner: got 'best'"):
        Prima(planner="best")
    with pytest.raises(ScenarioError, match="model='7b'"):
        home(seed=0, model="7b")
    with pytest.raises(ScenarioError, match="allowed are 1 to 6"):
        home(seed=0, devices=7)
    with pytest.raises(ScenarioError, match="no place declares facts"):
        declared({"phone": {}}, "phone")
    slow = {
        "name": "old", "system": "linux", "free_bytes": 2e9, "disk_bytes_per_s": 5e7, "cpu_flops_per_s": 1e11, "cpu_bytes_per_s": 1e10,
        "wifi_bps": 1e9, "latency_s": 0.001, "power_w": 20.0,
    }  # fmt: skip
    file = tmp_path / "old.json"
    file.write_text(json.dumps(slow))
    with pytest.raises(DoesNotFit, match=r"add .* GB of memory, or give old a disk"):
        api.planned("prima", "home", set={"scenario.profile": str(file)})


class Leaves(Churn):
    """One peer is there for the first seconds only."""

    def __init__(self, name: str, until_s: float) -> None:
        self.name, self.until_s = name, until_s

    def present(self, place: str, at_s: float, seed: int) -> bool:
        return place != self.name or at_s < self.until_s

    def next_change(self, place: str, after_s: float, seed: int) -> float | None:
        return self.until_s if place == self.name and after_s < self.until_s else None


def test_a_peer_that_leaves_is_planned_around() -> None:
    scenario = home(seed=0, devices=4)
    network = replace(scenario.network, churn=Leaves("mate40", 10.0), detect_s=0.5)
    reports = play(network, Prima(tokens=5).run, task=scenario.task).reports
    assert [report["token"] for report in reports] == [0, 1, 2, 3, 4]
    assert [report["plans"] for report in reports] == sorted(report["plans"] for report in reports)
    assert reports[0]["plans"] == 1 and reports[-1]["plans"] == 2
    alone = play(home(seed=0, devices=3).network, Prima(tokens=4).run, task=home(seed=0, devices=3).task).reports
    assert reports[-1]["planned_s"] == pytest.approx(alone[-1]["planned_s"])  # as if it had never been there
