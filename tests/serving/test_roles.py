"""Role pipeline: seconds of a chain add up, and texts do not come back in between."""

from __future__ import annotations

import pytest

from airloom.serving.roles import Roles
from tests.serving.worlds import NEVER, asked, column, served, skilled, star, three_tiers

PLACES = ("phone0", "edge", "cloud")


def test_by_hand() -> None:
    network = three_tiers()
    points, played = served(Roles(), network, asked(network, {place: skilled(1.0, place) for place in PLACES}, 10.0))
    # 3 s here; a hop of 0.5 s, 15/11 + 2 s at the station (it reads the draft's 4 tokens too); a hop, the same in the cloud; two hops back
    assert column(points, "latency_s") == pytest.approx([3.0 + 2 * (0.5 + 15 / 11 + 2.0) + 2 * 0.5], abs=1e-6)
    assert played.sim.stamp()["bytes_up"] == 44 + 44 + 48  # the question to both, the draft to the station: what the station wrote never comes down


def test_an_unsure_cloud_keeps_what_it_reads() -> None:
    network = three_tiers()
    task = asked(network, {"phone0": skilled(0.0), "edge": skilled(1.0, "b"), "cloud": skilled(0.0, "c")}, 10.0)
    assert column(served(Roles(), network, task)[0], "correct") == [1]


def test_the_device_answers_without_a_link() -> None:
    network = star("phone0", up=NEVER)
    points, _ = served(Roles(timeout_s=5.0), network, asked(network, {"phone0": skilled(1.0), "cloud": skilled(1.0)}, 10.0))
    assert column(points, "latency_s") == pytest.approx([8.0]) and column(points, "is_fallback") == [1]
