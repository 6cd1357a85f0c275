"""Faults that methods have met in the engine, each as the smallest case that showed it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from airloom.engines.simnode import SimNode
from airloom.network.cell import Cell
from airloom.network.churn import TraceChurn
from airloom.program.here import Here
from airloom.tasks import TaskSettings, make_task
from airloom.tasks.stream import Stream
from tests.worlds import body, play, work, world

STAR = {("a", "hub"): 1e6, ("b", "hub"): 1e6}
MB = 1_000_000


def away(name: str, *times: float) -> TraceChurn:
    """A place that leaves at the first time, returns at the second, and so on."""
    return TraceChurn(changes={name: [(time_s, k % 2 == 1) for k, time_s in enumerate(times)]})


def pair(here: Here, *_: Any) -> dict[str, Any]:
    here.cost(seconds=1.0)
    return {"x": body(1000), "n": 3.0}


def test_a_part_of_a_value_that_has_arrived_outlives_its_device() -> None:
    # a's value arrives whole at 1 s, a leaves at 2 s, b holds the round until 5 s; asking for the part then costs nothing and loses nothing
    network = world(STAR, churn=away("a", 2.0))

    def text(node: SimNode) -> Any:
        ref = node.call(pair, "a")
        node.first([ref, node.call(work, "b", 5.0)], 2)
        before = node.sim.stamp()["bytes_up"]
        return node.fetch(ref["n"]), node.clients, node.sim.stamp()["bytes_up"] - before

    assert play(network, text).value == (3.0, ["b"], 0.0)


def test_a_part_that_has_not_arrived_goes_with_its_device() -> None:
    network = world(STAR, churn=away("a", 2.0))

    def text(node: SimNode) -> int:
        ref = node.call(pair, "a")
        node.fetch(ref["n"])
        node.sleep(3.0)
        return len(node.first([ref], 1)[2])

    assert play(network, text).value == 1


def test_a_value_whose_transfer_was_lost_can_be_sent_again() -> None:
    # 1 MB takes 1 s to a, which is away from 0.5 to 2 s; asked for again at 3 s it is there at 4 s
    network = world(STAR, churn=away("a", 0.5, 2.0))

    def text(node: SimNode) -> Any:
        y = node.put(body(MB))
        node.first([node.call(work, "a", 0.0, 0, y)], 1)
        node.sleep(3.0)
        node.fetch(node.call(work, "a", 0.0, 0, y))
        return node.now_s, node.sim.stamp()["bytes_down"]

    assert play(network, text).value == (4.0, 1.5 * MB)


@pytest.mark.parametrize(("on_leave", "ends_s"), [("keep", 3.0), ("wipe", 4.0)])
def test_a_wiped_device_gets_a_value_again_and_pays_for_it(on_leave: Any, ends_s: float) -> None:
    # a has the megabyte at 1 s and is away from 1.5 to 2 s; asked for at 3 s it is still there, or has to come again
    network = world(STAR, churn=away("a", 1.5, 2.0), on_leave=on_leave)

    def text(node: SimNode) -> Any:
        y = node.put(body(MB))
        node.fetch(node.call(work, "a", 0.0, 0, y))
        node.sleep(3.0)
        node.fetch(node.call(work, "a", 0.0, 0, y))
        return node.now_s, node.sim.stamp()["bytes_down"]

    assert play(network, text).value == (ends_s, (ends_s - 2.0) * MB)


def test_a_call_behind_a_lost_one_starts() -> None:
    # a's first call waits for b, which leaves at 0.5 s; its second call has all it needs and runs from then on: 1.5 s
    network = world(STAR, churn=away("b", 0.5))

    def text(node: SimNode) -> Any:
        late = node.call(work, "b", 5.0, 10)
        refs = [node.call(work, "a", 1.0, 0, late), node.call(work, "a", 1.0)]
        arrived, _, lost = node.first(refs, 2)
        return arrived == refs[1:], lost == refs[:1], node.now_s

    assert play(network, text).value == (True, True, pytest.approx(1.5, abs=1e-4))


def test_a_handler_may_be_running_when_its_device_leaves() -> None:
    network = world(STAR, churn=away("a", 0.5))

    def text(node: SimNode) -> Any:
        _, _, lost = node.first([node.call(work, "a", 5.0, on=None)], 1)
        return len(lost), node.now_s

    assert play(network, text).value == (1, 0.5)


TREE = {("e", "hub"): 1e6, ("a", "e"): 1e6, ("b", "e"): 1e6}


def test_a_client_that_leaves_while_it_sends_over_a_relay_falls_silent() -> None:
    # of a's megabyte half is sent when it leaves at 0.5 s, and no more by 2 s; nothing reaches the backhaul but the call's two numbers
    network = world(TREE, churn=away("a", 0.5), downlink="free")

    def text(node: SimNode) -> Any:
        _, _, lost = node.first([node.call(work, "a", 0.0, MB)], 1)
        node.sleep(2.0)
        stamp = node.sim.stamp()
        return len(lost), stamp["bytes_up"], stamp["bytes_backhaul"]

    assert play(network, text).value == (1, pytest.approx(MB / 2, rel=1e-3), 16)


def test_a_relay_that_leaves_while_it_receives_gets_the_copy_again() -> None:
    # a megabyte for a and b passes e, which is away from 0.5 to 1 s: half of it is wasted; then once over the backhaul and once to each
    network = world(TREE, churn=away("e", 0.5, 1.0))

    def text(node: SimNode) -> Any:
        x = body(MB)
        _, _, lost = node.first(node.map(work, ["a", "b"], 0.0, 0, x), 2)
        node.sleep(1.0)
        node.fetch(node.map(work, ["a", "b"], 0.0, 0, x))
        stamp = node.sim.stamp()
        return len(lost), node.now_s, stamp["bytes_down"], stamp["bytes_backhaul"]

    assert play(network, text).value == (2, *[pytest.approx(value, rel=1e-4) for value in (3.0, 2 * MB, 1.5 * MB)])


def draw(here: Here) -> torch.Tensor:
    here.cost(seconds=1.0)
    ids = here.batch(4).ids
    assert ids is not None
    return ids


def test_draws_come_from_the_rows_that_a_stream_shows_at_the_start_of_the_call() -> None:
    # windows of 10 s; a draw at 25 s is made of the rows of the third window
    network = world(STAR)
    task = make_task(TaskSettings(partition="iid", stream=Stream(window_s=10.0, samples=8)), ["a", "b"], seed=0)

    def text(node: SimNode) -> Any:
        node.sleep(25.0)
        return set(node.fetch(node.call(draw, "a")).tolist())

    assert play(network, text, task=task).value <= set(task.data("a", 25.0).ids.tolist())


def test_an_estimate_counts_every_byte_that_moves() -> None:
    # the value is 1,000 bytes and a number of 8; the arguments are two numbers; 4 bytes of framing each way
    def text(node: SimNode) -> Any:
        foreseen = node.estimate(pair, "a", 1.0, 2.0)
        node.fetch(node.call(pair, "a", 1.0, 2.0))
        stamp = node.sim.stamp()
        return (foreseen.bytes_up, foreseen.bytes_down), (stamp["bytes_up"], stamp["bytes_down"])

    foreseen, moved = play(world(STAR, framing_bytes=4), text).value
    assert foreseen == moved == (1012, 20)


def test_a_snapshot_names_the_cells_that_clients_share() -> None:
    cell = Cell(name="air", bandwidth_hz=40.0, sharing="tdma")
    network = world({("a", "hub"): cell, ("b", "hub"): cell, ("c", "hub"): 1e6})
    assert play(network, lambda node: [node.network.cell[n] for n in "abc"]).value == ["air", "air", ""]
