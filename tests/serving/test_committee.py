"""Committee: agreement stays near by, disagreement goes to the cloud, and a cut link costs no accuracy below the device's."""

from __future__ import annotations

import pytest

from airloom.serving.committee import Committee
from tests.serving.worlds import NEVER, asked, column, served, skilled, star, three_tiers


@pytest.mark.parametrize(("skills", "where", "latency_s"), [((1.0, 1.0), "phone0", 4.0), ((0.0, 1.0), "cloud", 9.0), ((1.0, 0.0), "cloud", 9.0)])
def test_by_hand(skills: tuple[float, float], where: str, latency_s: float) -> None:
    network = three_tiers()
    task = asked(network, {"phone0": skilled(skills[0]), "edge": skilled(skills[1], "b"), "cloud": skilled(1.0, "c")}, 10.0)
    points, _ = served(Committee(), network, task)
    # the station is one hop away: 3 + 1 s; then the cloud two hops away: 3 + 2 s more
    assert column(points, "where") == [where] and column(points, "latency_s") == pytest.approx([latency_s], abs=1e-6)


def test_a_cut_link_costs_one_time_out_only() -> None:
    network = star("phone0", up=NEVER)
    points, _ = served(Committee(timeout_s=5.0), network, asked(network, {"phone0": skilled(1.0), "cloud": skilled(1.0)}, 10.0))
    assert column(points, "latency_s") == pytest.approx([5.0]) and column(points, "correct") == [1] and column(points, "is_fallback") == [1]
