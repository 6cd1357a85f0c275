"""Random router: its ends, its share, and that it is the seed's."""

from __future__ import annotations

import pytest

from airloom.errors import ScenarioError
from airloom.serving.cloud_only import CloudOnly
from airloom.serving.device_only import DeviceOnly
from airloom.serving.random_router import RandomRouter
from tests.serving.worlds import asked, column, served, skilled, star

TIMES = tuple(100.0 * i for i in range(1, 41))


def test_share_0_is_device_only_and_1_is_cloud_only() -> None:
    network = star("phone0")
    task = asked(network, {"phone0": skilled(0.0), "cloud": skilled(1.0)}, *TIMES[:3])
    for share, other in ((0.0, DeviceOnly()), (1.0, CloudOnly())):
        assert served(RandomRouter(share=share), network, task)[0] == served(other, network, task)[0]


def test_the_share_is_met_within_chance_and_belongs_to_the_seed() -> None:
    network = star("phone0")
    task = asked(network, {"phone0": skilled(0.0), "cloud": skilled(1.0)}, *TIMES)
    chosen = [column(served(RandomRouter(share=0.5), network, task, seed=seed)[0], "where") for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert 8 <= chosen[0].count("cloud") <= 32  # 40 draws at one half: outside with probability 1e-4


def test_a_share_is_between_0_and_1() -> None:
    with pytest.raises(ScenarioError, match=r"RandomRouter.share: got 1.5"):
        RandomRouter(share=1.5)
