"""The clock and the tally of real machines, by hand."""

from __future__ import annotations

import time

import pytest

from airloom.engines.executors import Spent
from airloom.engines.measured import Tally, WallClock
from airloom.engines.placed import pack, unpack
from airloom.network.device import RadioEnergy, Work
from tests.worlds import device, world


def test_the_clock_stands_still_in_pauses() -> None:
    clock = WallClock()
    clock.start(at_s=10.0)
    clock.stop()
    stands_s = clock.now_s()
    time.sleep(0.02)
    assert clock.now_s() == stands_s
    clock.stop()  # harmless when it stands
    clock.go_on()
    assert clock.paused_s >= 0.02
    assert 10.0 <= stands_s <= clock.now_s() < 10.5
    clock.hear(5.0)  # another place knows of a longer pause
    assert clock.paused_s == 5.0
    clock.hear(1.0)
    assert clock.paused_s == 5.0


def test_messages_are_charged_on_every_hop_of_their_route() -> None:
    radio = RadioEnergy.measured("lte")
    network = world(
        {("edge", "hub"): 1e6, ("a", "edge"): 1e3, ("b", "edge"): 1e3}, devices={"a": device(radio=radio), "b": device()}, framing_bytes=20
    )
    tally = Tally(network)
    tally.message("a", "hub", 100, 2.0)  # up, then backhaul
    tally.message("hub", "b", 50, 1.0)  # backhaul, then down
    tally.message("a", "b", 0, 1.0)  # an empty message has no framing either
    assert tally.bytes_by == {"up": 120.0, "down": 70.0, "backhaul": 190.0, "peer": 0.0}
    assert (tally.place("a")["bytes_up"], tally.place("b")["bytes_down"]) == (120.0, 70.0)
    # LTE up: 2.926 W x 2 s + 76.7 nJ/bit x 960 bit; b has no radio
    assert tally.place("a")["joules_radio"] == pytest.approx(2.926 * 2.0 + 76.7e-9 * 960)
    assert tally.place("b")["joules_radio"] == 0.0


def test_tallies_add_up_to_a_stamp() -> None:
    network = world({("a", "hub"): 1e3, ("b", "hub"): 1e3})
    one, two = Tally(network), Tally(network)
    spent = Spent(Work(flops=3.0), 0.0, 0.0, 0)
    one.work("a", "cpu", 2.0, spent)
    two.work("a", "cpu", 1.0, spent)
    two.work("hub", None, 1.0, spent)
    two.message("a", "hub", 8, 1.0)
    one.add(two.as_json())
    assert one.place("a") == {"bytes_up": 8.0, "bytes_down": 0.0, "joules_compute": 6.0, "joules_radio": 0.0, "busy_s": {"cpu": 3.0}, "flops": 6.0}
    stamp = one.stamp(10.0)
    # unit devices: 2 W while computing, 0.5 W idle; a computes 3 s, the hub 1 s; two clients are on for 10 s
    assert (stamp["joules"], stamp["joules_server"], stamp["joules_idle"]) == (6.0, 2.0, 10.0)
    assert (stamp["seconds"], stamp["bytes_up"], stamp["bytes_down"]) == (10.0, 8.0, 0.0)


def test_messages_of_several_blobs_come_apart_again() -> None:
    assert unpack(pack({"x": [1, None]}, b"", b"\x00ab")) == ({"x": [1, None]}, [b"", b"\x00ab"])
