"""Cloud only: seconds, bytes and price by hand; the device answers where the cloud cannot be reached."""

from __future__ import annotations

import pytest

from airloom.serving.cloud_only import CloudOnly
from airloom.serving.device_only import DeviceOnly
from tests.serving.worlds import NEVER, asked, column, served, skilled, star


def test_by_hand() -> None:
    network = star("phone0")
    cloud = skilled(1.0, price_in=2.0, price_out=10.0)
    points, played = served(CloudOnly(), network, asked(network, {"phone0": skilled(0.0), "cloud": cloud}, 10.0))
    # 44 bytes up 11 s, 0.5 s, 1 s read, 2 s written, 48 bytes down 12 s, 0.5 s; the first token three halves of a second before the last
    assert column(points, "latency_s") == pytest.approx([27.0]) and column(points, "first_s") == pytest.approx([25.5])
    assert column(points, "where") == ["cloud"] and column(points, "correct") == [1]
    stamp = played.sim.stamp()
    assert stamp["bytes_up"] == 44 and stamp["price"] == 11 * 2.0 + 4 * 10.0
    assert stamp["bytes_down"] == 48 + len("cloud") + 8  # and the start of the program: the path above the phone, and a time
    per_place = played.sim.device_totals()
    assert sum(place.get("price", 0.0) for place in per_place.values()) == stamp["price"] == per_place["cloud"]["price"]


def test_two_requests_queue_in_the_cloud_and_on_the_link() -> None:
    network = star("phone0")
    task = asked(network, {"phone0": skilled(0.0), "cloud": skilled(1.0)}, 10.0, 10.0)
    points, _ = served(CloudOnly(timeout_s=99.0), network, task)
    # up: 11 s each in turn, so the second is in the cloud at 32.5 and answered at 35.5; the first goes down from 24.5 to 36.5:
    # 36.5 + 12 + 0.5 - 10
    assert column(points, "latency_s") == pytest.approx([27.0, 39.0])


def test_a_cut_link_falls_back_to_the_device_after_the_time_out() -> None:
    network = star("phone0", up=NEVER)
    task = asked(network, {"phone0": skilled(1.0), "cloud": skilled(1.0)}, 10.0, 50.0)
    points, _ = served(CloudOnly(timeout_s=5.0), network, task)
    assert column(points, "latency_s") == pytest.approx([5.0 + 3.0] * 2)  # the wait, then the device's own answer
    assert column(points, "is_fallback") == [1, 1] and column(points, "where") == ["phone0"] * 2
    local, _ = served(DeviceOnly(), network, task)
    assert column(points, "correct") == column(local, "correct")  # never below device only
