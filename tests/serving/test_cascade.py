"""Cascade: by hand, its two ends, and the draft as the fall-back."""

from __future__ import annotations

import pytest

from airloom.serving.cascade import Cascade
from airloom.serving.cloud_only import CloudOnly
from airloom.serving.device_only import DeviceOnly
from tests.serving.worlds import NEVER, asked, column, served, skilled, star


def test_by_hand() -> None:
    network = star("phone0")
    doubtful = {"phone0": skilled(0.4), "cloud": skilled(1.0, price_out=1.0)}
    points, played = served(Cascade(theta=0.5), network, asked(network, doubtful, 10.0))
    assert column(points, "latency_s") == pytest.approx([3.0 + 27.0])  # the draft, then all of a cloud answer
    assert played.sim.stamp()["price"] == 4.0
    points, played = served(Cascade(theta=0.4), network, asked(network, doubtful, 10.0))
    assert column(points, "latency_s") == pytest.approx([3.0]) and played.sim.stamp()["price"] == 0.0


def test_theta_0_is_device_only() -> None:
    network = star("phone0")
    task = asked(network, {"phone0": skilled(0.3), "cloud": skilled(1.0)}, 10.0, 12.0)
    assert served(Cascade(theta=0.0), network, task)[0] == served(DeviceOnly(), network, task)[0]


def test_theta_above_every_confidence_answers_as_cloud_only_and_pays_for_both() -> None:
    network = star("phone0")
    task = asked(network, {"phone0": skilled(1.0), "cloud": skilled(1.0, price_out=1.0)}, 10.0, 99.0)
    always, both = served(Cascade(theta=1.1), network, task)
    cloud, _ = served(CloudOnly(), network, task)
    device, alone = served(DeviceOnly(), network, task)
    for name in ("correct", "where"):
        assert column(always, name) == column(cloud, name)
    assert column(always, "latency_s") == pytest.approx([a + b for a, b in zip(column(cloud, "latency_s"), column(device, "latency_s"))])
    assert both.sim.device_totals()["phone0"]["joules_compute"] == alone.sim.device_totals()["phone0"]["joules_compute"]


def test_the_draft_answers_where_the_cloud_does_not() -> None:
    network = star("phone0", up=NEVER)
    points, _ = served(Cascade(theta=1.1, timeout_s=7.0), network, asked(network, {"phone0": skilled(0.5), "cloud": skilled(1.0)}, 10.0))
    assert column(points, "latency_s") == pytest.approx([3.0 + 7.0])  # no second answer is made
    assert column(points, "is_fallback") == [1]
