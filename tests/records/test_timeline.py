"""The timeline's file: what is written, where it ends, what a resume makes of it; and the trace made from it."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import airloom
from airloom.clock.span import Span
from airloom.errors import RecordError, ScenarioError
from airloom.records.record import load
from airloom.records.timeline import FILE, Timeline, TimelineWriter, load_timeline
from airloom.records.trace import to_chrome
from tests.tiny_world import tiny


def span(start_s: float, end_s: float, **changes: Any) -> Span:
    return Span("call", 0, 1, "a", "hub", "a", "cpu", "work", start_s, end_s, 0.0, 0.0, 2.0, False)._replace(**changes)


def run(out: Path, **options: Any) -> None:
    airloom.run("fedavg", scenario=tiny, target=None, executor="loop", out=out, **{"budget": {"rounds": 3}, **options})


# --- the file -------------------------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read(tmp_path: Path) -> None:
    writer = TimelineWriter(tmp_path, "hub", 2)
    spans = [span(0.0, 1 / 3), span(1 / 3, 2.0, number=2)]
    writer.span(spans[0])
    assert writer.round(0, 1 / 3)
    writer.span(spans[1])
    assert not writer.round(1, 2.0)  # two rounds were asked for
    writer.close()
    found = load_timeline(tmp_path)
    assert (found.root, found.spans, found.rounds, found.is_cut) == ("hub", spans, {0: 1 / 3, 1: 2.0}, False)
    assert found.bounds() == {0: (0.0, 1 / 3), 1: (1 / 3, 2.0)}


def test_a_full_file_says_so(tmp_path: Path) -> None:
    writer = TimelineWriter(tmp_path, "hub", 9, limit=2)
    for i in range(3):
        writer.span(span(float(i), i + 1.0))
    assert not writer.round(0, 3.0)
    writer.close()
    found = load_timeline(tmp_path)
    assert (len(found.spans), found.rounds, found.is_cut) == (2, {}, True)


def test_a_resume_drops_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    writer = TimelineWriter(tmp_path, "hub", 9)
    for i in range(3):
        writer.span(span(float(i), i + 1.0))
        writer.round(i, i + 1.0)
    writer.close()
    with (tmp_path / FILE).open("a") as file:
        file.write('["call",0')  # a killed process left half a line
    writer = TimelineWriter.reopen(tmp_path, 9, 1)
    writer.span(span(1.0, 5.0))
    writer.round(1, 5.0)
    writer.close()
    found = load_timeline(tmp_path)
    assert [s.end_s for s in found.spans] == [1.0, 5.0]
    assert found.rounds == {0: 1.0, 1: 5.0}


def test_a_damaged_file_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="--timeline 10"):
        load_timeline(tmp_path)
    TimelineWriter(tmp_path, "hub", 1).close()
    with (tmp_path / FILE).open("a") as file:
        file.write("[1, 2]\n")
    with pytest.raises(RecordError, match="line 2"):
        load_timeline(tmp_path)


# --- of runs --------------------------------------------------------------------------------------------------------------------------


def test_a_run_records_its_first_rounds_and_stays_the_same_run(tmp_path: Path) -> None:
    run(tmp_path / "with", timeline=2)
    run(tmp_path / "without", timeline=0)
    assert not (tmp_path / "without" / FILE).exists()
    one, other = load(tmp_path / "with"), load(tmp_path / "without")
    assert one.summary is not None and other.summary is not None
    assert one.summary["digest"] == other.summary["digest"]
    found = load_timeline(tmp_path / "with")
    assert found.rounds == {0: one.points[0]["seconds"], 1: one.points[1]["seconds"]}
    assert {s.round for s in found.spans} == {0, 1}
    # 4 clients, 2 rounds: as many calls; their bytes and joules are those of the second point
    point = one.points[1]
    assert sum(s.kind == "call" for s in found.spans) == 8
    assert sum(s.bytes for s in found.spans if s.on == "up") == pytest.approx(point["bytes_up"])
    assert sum(s.bytes for s in found.spans if s.on == "down") == pytest.approx(point["bytes_down"])
    assert sum(s.joules for s in found.spans) == pytest.approx(point["joules"] + point["joules_server"])


def test_the_payload_log_is_the_same_with_and_without(tmp_path: Path) -> None:
    run(tmp_path / "with", timeline=1, log_payloads=True)
    run(tmp_path / "without", timeline=0, log_payloads=True)
    texts = [(tmp_path / name / "payloads.jsonl").read_text() for name in ("with", "without")]
    assert texts[0] == texts[1] and texts[0].count("\n") >= 24


def test_a_resumed_run_has_the_timeline_of_an_unbroken_one(tmp_path: Path) -> None:
    run(tmp_path / "whole")

    def stop(point: Any) -> None:
        if point["round"] == 2:
            raise KeyboardInterrupt

    run(tmp_path / "broken", progress=stop, checkpoint_every_s=0.0)
    airloom.resume(tmp_path / "broken", scenario=tiny)
    whole, broken = load_timeline(tmp_path / "whole"), load_timeline(tmp_path / "broken")
    assert broken.rounds == whole.rounds
    assert [s._replace(number=0) for s in broken.spans] == [s._replace(number=0) for s in whole.spans]


def test_a_negative_number_of_rounds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="timeline"):
        run(tmp_path / "run", timeline=-1)


# --- the trace ------------------------------------------------------------------------------------------------------------------------


def test_a_trace_has_one_track_per_resource(tmp_path: Path) -> None:
    run(tmp_path / "run", timeline=2)
    trace = json.loads(json.dumps(to_chrome(load_timeline(tmp_path / "run"))))
    events = trace["traceEvents"]
    names = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    tracks = {(names[e["pid"]], e["args"]["name"]) for e in events if e["name"] == "thread_name"}
    assert {("board0", "cpu"), ("board0", "up"), ("board0", "down")} <= tracks
    boxes: dict[Any, list[tuple[float, float]]] = {}
    for event in events:
        if event["ph"] == "X":
            boxes.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["ts"] + event["dur"]))
    assert len(boxes) == len(tracks)
    for own in boxes.values():  # nothing overlaps on a track, so every viewer draws it right
        assert all(before[1] <= after[0] + 1e-3 for before, after in pairwise(sorted(own)))


def test_overlapping_calls_get_a_track_each() -> None:
    # two slots: 0..2 and 1..3 overlap, 2..4 fits behind the first
    spans = [span(0.0, 2.0), span(1.0, 3.0), span(2.0, 4.0)]
    events = to_chrome(Timeline(root="hub", spans=spans, rounds={0: 4.0}))["traceEvents"]
    tids = [event["tid"] for event in events if event.get("cat") == "compute"]
    assert tids[0] == tids[2] != tids[1]
    assert [event["args"]["name"] for event in events if event["name"] == "thread_name"] == ["rounds", "cpu", "cpu (2)"]
