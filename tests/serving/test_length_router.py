"""Length router: the threshold, and its ends."""

from __future__ import annotations

import pytest

from airloom.serving.cloud_only import CloudOnly
from airloom.serving.device_only import DeviceOnly
from airloom.serving.length_router import LengthRouter
from tests.serving.worlds import asked, column, served, skilled, star


@pytest.mark.parametrize(
    ("question", "longest", "where"), [("1+1=", 4, "phone0"), ("1+1=", 3, "cloud"), ("1+1*2=", 4, "cloud"), ("1+1*2=", 6, "phone0")]
)
def test_longer_than_the_threshold_goes_to_the_cloud(question: str, longest: int, where: str) -> None:
    network = star("phone0")
    task = asked(network, {"phone0": skilled(1.0), "cloud": skilled(1.0)}, 10.0, question=question)
    assert column(served(LengthRouter(longest=longest), network, task)[0], "where") == [where]


def test_its_ends_are_cloud_only_and_device_only() -> None:
    network = star("phone0")
    task = asked(network, {"phone0": skilled(0.0), "cloud": skilled(1.0)}, 10.0, 60.0)
    assert served(LengthRouter(longest=0), network, task)[0] == served(CloudOnly(), network, task)[0]
    assert served(LengthRouter(longest=99), network, task)[0] == served(DeviceOnly(), network, task)[0]
