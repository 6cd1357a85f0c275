"""The critical path and its words: three rounds worked out by hand, then paths through trees, queues, barriers, losses and whole runs."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import airloom
from airloom.clock.span import Span
from airloom.engines.simnode import SimNode
from airloom.network.cell import Cell
from airloom.network.churn import TraceChurn
from airloom.network.network import Network
from airloom.records.explain import Piece, critical_path, explain
from airloom.records.record import Record, load
from airloom.records.timeline import Timeline, load_timeline
from tests.tiny_world import tiny
from tests.worlds import body, play, work, world

MB = 1_000_000
STAR = world({("a", "hub"): 1e6, ("b", "hub"): 1e6, ("c", "hub"): 1e6})


def recorded(network: Network, text: Callable[[SimNode], Any]) -> Timeline:
    """Play a text as one round and return its timeline."""
    spans: list[Span] = []
    played = play(network, text, span=spans.append)
    return Timeline(root=network.root, spans=spans, rounds={0: played.sim.kernel.now})


def record_of(summary: dict[str, Any] | None = None) -> Record:
    header = {"method": "hand", "scenario": {"name": "star"}, "seed": 0}
    return Record(folder=Path("hand"), header=header, points=[{"seconds": 1.0, "round": 0}], summary=summary)


def steps(path: list[Piece]) -> list[tuple[str, str, float]]:
    """Kind, device and seconds of each piece that is longer than the few bytes of an order."""
    return [(piece.part, piece.device, round(piece.seconds, 3)) for piece in path if piece.seconds > 1e-3]


# --- the three hand cases -------------------------------------------------------------------------------------------------------------


def test_a_round_bound_by_computing() -> None:
    # all three: 1 MB (and 16 bytes of numbers) down at 1 MB/s, 8 s of computing, 1 MB up: 1 + 8 + 1 = 10 s, of which 80 % computing
    found = recorded(STAR, lambda node: node.fetch(node.map(work, node.children, 8.0, MB, body(MB))))
    made = explain(record_of(), found)
    assert made.seconds == pytest.approx(10.0, abs=1e-4)
    assert made.bound_by == "compute"
    assert made.shares == pytest.approx({"compute": 0.8, "up": 0.1, "down": 0.1}, abs=1e-4)
    assert made.upload_to_compute == pytest.approx(1 / 8, abs=1e-4)
    assert (made.median_s, made.last_s) == pytest.approx((10.0, 10.0), abs=1e-4)
    assert made.sentences == (
        "hand in star, seed 0: its only round took 10 s.",
        "Along the critical path: 80 % computing, 10 % down-links, 10 % up-links.",
        "The rounds wait for 1 of 3 devices: a (in 1 of 1); their uploads take 0.12x their compute.",
        "The median device is done 10 s into a round, the last one after 10 s.",
        "Computing decides: at no cost there, these rounds would end at most 80 % earlier.",
    )


def test_a_round_bound_by_the_radio() -> None:
    # one cell of 8 MHz at 1 bit/s/Hz carries 1 MB/s for all: 3 x 0.3 MB down take 0.9 s, computing 1 s, 3 x 1 MB up take 3 s; 4.9 s together
    cell = Cell(name="air", bandwidth_hz=8e6, sharing="tdma")
    found = recorded(
        world({("a", "hub"): cell, ("b", "hub"): cell, ("c", "hub"): cell}),
        lambda node: node.fetch(node.map(work, node.children, 1.0, MB, body(300_000))),
    )
    made = explain(record_of(), found)
    assert made.seconds == pytest.approx(4.9, abs=1e-3)
    assert made.bound_by == "up"
    assert made.shares == pytest.approx({"up": 3 / 4.9, "compute": 1 / 4.9, "down": 0.9 / 4.9}, abs=1e-3)
    assert made.upload_to_compute == pytest.approx(3.0, abs=1e-3)  # "their uploads take 3x their compute"
    assert "their uploads take 3x their compute." in made.sentences[2]
    assert made.sentences[-1] == "Up-links decide: at no cost there, these rounds would end at most 61 % earlier."


def test_a_round_with_one_straggler() -> None:
    # a and b compute 1 s, c 9 s: they are done at 1 + 1 + 1 = 3 s, c at 1 + 9 + 1 = 11 s, so that from 3 s to 11 s, 8 / 11 = 73 %, two of three idle
    each = [(seconds, MB, body(MB)) for seconds in (1.0, 1.0, 9.0)]
    made = explain(record_of(), recorded(STAR, lambda node: node.fetch(node.map(work, node.children, each=each))))
    assert (made.median_s, made.last_s) == pytest.approx((3.0, 11.0), abs=1e-4)
    assert (made.bound_by, made.waited_for) == ("straggler", {"c": 1})
    assert made.shares == pytest.approx({"compute": 9 / 11, "up": 1 / 11, "down": 1 / 11}, abs=1e-4)
    assert made.sentences[3] == (
        "The median device is done 3 s into a round, the last one after 11 s: 73 % of that time most devices have nothing left to do."
    )
    assert made.sentences[4].startswith("One straggler decides: without c,")


# --- paths ----------------------------------------------------------------------------------------------------------------------------


def test_calls_and_messages_that_queue_lead_to_what_they_waited_for() -> None:
    # a gets one order for two calls: 2 s each on one cpu, then 1 MB and 2 MB up on one link: the second message waits for nothing (4 s > 2 + 1 s)
    def text(node: SimNode) -> None:
        node.fetch([node.call(work, "a", 2.0, MB), node.call(work, "a", 2.0, 2 * MB)])

    assert steps(critical_path(recorded(STAR, text))) == [("compute", "a", 2.0), ("compute", "a", 2.0), ("up", "a", 2.0)]

    # with 1 s of computing and 3 MB first, the second message is made at 2 s and waits on the link until 1 + 3 = 4 s
    def late(node: SimNode) -> None:
        node.fetch([node.call(work, "a", 1.0, 3 * MB), node.call(work, "a", 1.0, 2 * MB)])

    assert steps(critical_path(recorded(STAR, late))) == [("compute", "a", 1.0), ("up", "a", 3.0), ("up", "a", 2.0)]


def ask(node: SimNode) -> Any:
    return node.fetch(node.call(work, "leaf", 5.0, MB))[:10]


def test_a_path_goes_down_a_tree_and_up_again() -> None:
    # program at the edge asks its leaf: latency 0.5 s per hop and control bytes only on the way down, 5 s of computing, 1 MB up, 10 bytes on
    network = world({("edge", "cloud"): 1e6, ("leaf", "edge"): 1e6}, latency_s=0.5)
    path = critical_path(recorded(network, lambda node: node.fetch(node.program("edge", ask))))
    assert steps(path) == [
        ("latency", "cloud", 0.5),
        ("latency", "leaf", 0.5),
        ("compute", "leaf", 5.0),
        ("up", "leaf", 1.0),
        ("latency", "leaf", 0.5),
        ("latency", "edge", 0.5),
    ]


def test_sleeping_is_waiting() -> None:
    def text(node: SimNode) -> None:
        node.fetch(node.call(work, "a", 1.0, MB))  # until 2 s
        node.sleep(5.0)
        node.fetch(node.call(work, "b", 1.0, MB))  # until 7 s

    path = critical_path(recorded(STAR, text))
    assert steps(path) == [
        ("compute", "a", 1.0),
        ("up", "a", 1.0),
        ("wait", "hub", 3.0),
        ("compute", "b", 1.0),
        ("up", "b", 1.0),
    ]


def test_a_lost_device_is_on_the_path_until_it_left() -> None:
    # b leaves at 2.5 s while it computes for 9 s; its loss ends the round
    network = world({("a", "hub"): 1e6, ("b", "hub"): 1e6}, churn=TraceChurn(changes={"b": [(2.5, False)]}))

    def text(node: SimNode) -> None:
        refs = [node.call(work, "a", 1.0), node.call(work, "b", 9.0)]
        node.first(refs, 2)

    found = recorded(network, text)
    assert [(span.place, span.end_s) for span in found.spans if span.is_lost] == [("b", 2.5)]
    path = critical_path(found)
    assert sum(piece.seconds for piece in path) == pytest.approx(2.5)
    assert path[-1].device == "b"


@pytest.mark.parametrize("method", ["fedavg", "hfedavg", "mtgc", "fedbuff:concurrency=1.0,buffer=2", "sequential_fl"])
def test_paths_of_whole_runs_are_without_gap_and_overlap(tmp_path: Path, method: str) -> None:
    out = tmp_path / "run"
    airloom.run(method, scenario=tiny, budget={"rounds": 4}, target=None, executor="loop", out=out)
    timeline = load_timeline(out)
    path = critical_path(timeline)
    assert timeline.rounds.keys() == {0, 1, 2, 3}
    assert path[0].start_s == timeline.start_s == 0.0
    assert path[-1].end_s == timeline.end_s == load(out).points[-1]["seconds"]
    assert all(before.end_s == after.start_s for before, after in pairwise(path))
    assert not [piece for piece in path if piece.part == "wait"]  # nobody sleeps in these methods
    assert sum(explain(load(out), timeline).shares.values()) == pytest.approx(1.0)


def test_energy_is_that_of_the_summary(tmp_path: Path) -> None:
    out = tmp_path / "run"
    airloom.run("fedavg", scenario=tiny, budget={"rounds": 2}, target=None, executor="loop", out=out)
    record, timeline = load(out), load_timeline(out)
    made = explain(record, timeline)
    assert record.summary is not None
    assert made.joules["compute"] + made.joules["radio"] == pytest.approx(record.summary["joules"])
    own = {span.place for span in timeline.spans if span.on == "cpu"}
    spent = sum(span.joules for span in timeline.spans if span.kind == "call" and span.place in own)
    assert made.joules["compute"] == pytest.approx(spent)
