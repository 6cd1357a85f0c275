"""Device only: by hand, and queueing at the device."""

from __future__ import annotations

import pytest

from airloom.serving.device_only import DeviceOnly
from tests.serving.worlds import asked, column, served, skilled, star


def test_by_hand() -> None:
    network = star("phone0")
    points, played = served(DeviceOnly(), network, asked(network, {"phone0": skilled(1.0)}, 10.0, 11.0))
    # 11 tokens at 11 per s and 4 at 2 per s: 3 s. The second request waits until 13 s for the processor, so it takes 13 + 3 - 11 = 5 s
    assert column(points, "latency_s") == pytest.approx([3.0, 5.0])
    assert column(points, "first_s") == pytest.approx([1.5, 3.5])  # the first of four tokens comes three halves of a second before the last
    assert column(points, "where") == ["phone0", "phone0"] and column(points, "correct") == [1, 1]
    assert played.sim.stamp()["bytes_up"] == 0
    assert played.sim.stamp()["joules"] == pytest.approx(2 * 3.0 * 2.0)  # two answers, 3 s each, 2 W


def test_a_phone_without_an_endpoint_is_refused_by_name() -> None:
    network = star("phone0")
    with pytest.raises(Exception, match="resident model of 'phone0'"):
        served(DeviceOnly(), network, asked(network, {}, 1.0))
