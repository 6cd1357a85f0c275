"""Oracle: it asks the cloud exactly where the device would be wrong, and foresight is free."""

from __future__ import annotations

from airloom.serving.oracle import Oracle
from tests.serving.worlds import asked, column, served, skilled, star


def test_device_where_it_is_right_cloud_where_it_is_not() -> None:
    network = star("phone0")
    for skill, where in ((1.0, "phone0"), (0.0, "cloud")):
        task = asked(network, {"phone0": skilled(skill), "cloud": skilled(1.0)}, 10.0)
        points, _ = served(Oracle(), network, task)
        assert column(points, "where") == [where] and column(points, "correct") == [1]


def test_foresight_takes_no_time_and_no_energy() -> None:
    network = star("phone0")
    points, played = served(Oracle(), network, asked(network, {"phone0": skilled(0.0), "cloud": skilled(1.0)}, 10.0))
    assert column(points, "latency_s") == [27.0]  # that of cloud only
    assert played.sim.device_totals()["phone0"]["joules_compute"] == 0
