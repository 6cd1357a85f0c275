"""Calibration by hand: a run whose lines are written down, and the fleet that must come out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from airloom import api
from airloom.errors import RecordError, ScenarioError
from airloom.network.device import Work
from airloom.records.calibrate import FILE
from airloom.resolve import find_scenario
from airloom.scenarios.fleet import calibrated
from tests.tiny_world import tiny

WORLD = "tests.tiny_world:tiny"


def measured_run(folder: Path, lines: list[dict[str, Any]]) -> Path:
    """A record of the tiny world that says it was measured, with these lines."""
    api.run("fedavg", scenario=WORLD, set={"task.limit": 300}, budget={"rounds": 1}, target=None, out=folder, executor="loop")
    record = folder / "record.jsonl"
    record.write_text(record.read_text().replace('"clock":"simulated"', '"clock":"measured"'))
    (folder / FILE).write_text("".join(json.dumps({"round": 0, **line}) + "\n" for line in lines))
    return folder


def message(source: str, target: str, seconds: float, kind: str = "value") -> dict[str, Any]:
    return {"kind": kind, "from": source, "to": target, "bytes": 1000, "wire_bytes": 1400, "seconds": seconds}


LINES: list[dict[str, Any]] = [
    *[
        {"kind": "ping", "to": name, "seconds": s}
        for name, s in (("cloud", 0.0), ("edge0", 0.02), ("board0", 0.04), ("board0", 0.9), ("board1", 0.0))
    ],
    *[
        {"kind": "call", "place": "board0", "flops": 6e9, "steps": 2, "samples": 20, "width": 1.0, "seconds": s, "function": "f"}
        for s in (2.0, 2.0, 8.0)
    ],
    *[message("board0", "edge0", s) for s in (0.53, 0.53, 1.03)],
    message("cloud", "board1", 1.0, "probe"),
    message("board0", "cloud", 0.12, "probe"),
]


def test_a_fleet_by_hand(tmp_path: Path) -> None:
    found = api.calibrate(measured_run(tmp_path / "run", LINES), tmp_path / "fleet.json")["measured"]
    # the median call: 2 s for 6 GFLOP and 20 samples
    assert found["devices"].keys() == {"board0"}
    assert found["devices"]["board0"]["speed_flops_per_s"] == 3e9
    assert found["devices"]["board0"]["seconds_per_sample"] == {"1.0": 0.1}
    links = {(link["source"], link["target"]): link for link in found["links"]}
    up = links["board0", "edge0"]
    # half of the fastest pings: 0.02 s at board0, 0.01 s at edge0; 8000 bits in the other 0.5 s of the median message
    assert up["latency_s"] == pytest.approx(0.03) and up["rate_bps"] == pytest.approx(16e3) and up["messages"] == 3
    assert up["spread_bps"] == pytest.approx([8 * 1000 / (0.53 + 0.8 * 0.5 - 0.03), 16e3, 16e3], rel=0.2)
    # nothing went from the edge to board1: the root's probe did, at 8000 bit/s, and edge0 has no probe, so the link stays as declared
    assert "edge0 -> board1" in found["declared"] and ("edge0", "board1") not in links
    assert found["wire_overhead_bytes"] == 400


def test_a_message_that_took_less_than_nothing_still_gives_a_link(tmp_path: Path) -> None:
    early = message("edge0", "cloud", -0.001, "probe")  # clocks that are set by pings can show this
    found = api.calibrate(measured_run(tmp_path / "run", [*LINES, early]), tmp_path / "fleet.json")["measured"]
    (link,) = [link for link in found["links"] if (link["source"], link["target"]) == ("edge0", "cloud")]
    assert link["latency_s"] >= 0 and link["rate_bps"] > 0
    find_scenario(str(tmp_path / "fleet.json")).build(0)


def test_the_file_is_a_scenario_and_predicts(tmp_path: Path) -> None:
    api.calibrate(measured_run(tmp_path / "run", LINES), tmp_path / "fleet.json")
    world = find_scenario(str(tmp_path / "fleet.json"))
    network = world.build(0).network
    board = network.places["board0"].device
    assert board.seconds(Work(flops=1e9, samples=30, steps=3)) == pytest.approx(3.0)
    assert board.power_w == 3.0  # watts stay as declared
    assert network.links["board0", "edge0"].rate_bps == pytest.approx(16e3)
    assert network.links["edge0", "board0"].rate_bps == tiny(seed=0).network.links["edge0", "board0"].rate_bps
    assert world.fields["task"].limit == 300  # the world that was measured, with its fields
    told = api.predict("fedavg:local_steps=1,batch_size=10", scenario=str(tmp_path / "fleet.json"))
    plain = api.predict("fedavg:local_steps=1,batch_size=10", scenario=WORLD)
    # training 10 samples takes board0 1 s; its update of 2448 bytes 1.224 s + 0.03 s on the way to its edge server
    assert told["seconds_per_round"] - plain["seconds_per_round"] == pytest.approx(1.0 + 2448 * 8 / 16e3 + 0.03, abs=0.05)
    assert told["rounds"] == 3 and told["bytes_up"] == plain["bytes_up"]
    again = api.run("fedavg", scenario=str(tmp_path / "fleet.json"), budget={"rounds": 2}, target=None, out=tmp_path / "again", checkpoint_every_s=0)
    record = tmp_path / "again" / "record.jsonl"
    lines = record.read_text().splitlines(keepends=True)
    record.write_text("".join(lines[:-1]))  # as if it had been killed
    assert api.resume(tmp_path / "again").summary["digest"] == again.summary["digest"]  # type: ignore[union-attr]


def test_places_that_talk_straight_get_a_link(tmp_path: Path) -> None:
    """On Ray a model goes from client to client at once; the tree of the scenario would take it over four hops, one after the other."""
    boards = [f"board{i}" for i in range(4)]
    lines = [
        *[{"kind": "ping", "to": name, "seconds": 0.02} for name in ("cloud", *boards)],
        LINES[5],
        *[message(name, "cloud", 0.12, "probe") for name in boards],
        *[message("cloud", name, 0.22, "probe") for name in boards],
        message("board0", "cloud", 0.05),  # at the root's process; its program has it later
        message("board0", "cloud", 0.07, "handed"),
    ]
    folder = measured_run(tmp_path / "run", lines)
    (folder / "record.jsonl").write_text((folder / "record.jsonl").read_text().replace('"engine":"simulated"', '"engine":"ray"'))
    found = api.calibrate(folder, tmp_path / "fleet.json")["measured"]
    links = {(link["source"], link["target"]): link for link in found["links"]}
    assert links["board0", "board1"]["direction"] == "peer" and links["board0", "cloud"]["direction"] == "up"
    # 8000 bits up in 0.12 - 0.02 s and down in 0.22 - 0.02 s: from board to board as slow as the slower; board0 to the cloud as its program saw it
    assert links["board1", "board2"]["rate_bps"] == pytest.approx(40e3) and links["board0", "cloud"]["rate_bps"] == pytest.approx(160e3)
    network = find_scenario(str(tmp_path / "fleet.json")).build(0).network
    assert len(network.route("board0", "board3")) == len(network.route("cloud", "board2")) == 1


def test_what_is_no_measured_run_is_refused(tmp_path: Path) -> None:
    api.run("fedavg", scenario=WORLD, budget={"rounds": 1}, target=None, out=tmp_path / "run", executor="loop")
    with pytest.raises(RecordError, match=r"found no measured\.jsonl"):
        api.calibrate(tmp_path / "run", tmp_path / "fleet.json")
    (tmp_path / "run" / FILE).write_text("{}\n")
    with pytest.raises(RecordError, match="its clock is simulated"):
        api.calibrate(tmp_path / "run", tmp_path / "fleet.json")
    with pytest.raises(RecordError, match="no calls or no messages"):
        api.calibrate(measured_run(tmp_path / "short", LINES[:2]), tmp_path / "fleet.json")
    (tmp_path / "bad.json").write_text(json.dumps({"scenario": WORLD, "measured": {"devices": []}}))
    with pytest.raises(ScenarioError, match="no devices and links"):
        find_scenario(str(tmp_path / "bad.json"))
    with pytest.raises(ScenarioError, match="has no such place"):
        calibrated(tiny(seed=0), {"devices": {"moon": {}}, "links": []})
    with pytest.raises(ScenarioError, match="has no such link"):
        calibrated(tiny(seed=0), {"devices": {}, "links": [{"source": "a", "target": "b"}]})
