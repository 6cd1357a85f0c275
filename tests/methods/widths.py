"""Worlds for methods that train parts of a model's width: four boards with measured seconds by width, digits, a small network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airloom.models import zoo
from airloom.network.network import Network
from airloom.network.profiles import WHALE_FL
from airloom.tasks import TaskSettings, make_task
from airloom.tasks.task import Task
from tests.worlds import world

NAMES = ["macbook_pro_2018", "xavier", "tx2", "raspberry_pi"]  # the fastest first


def boards(rate: Mapping[str, float] | float = 1e5, **changes: Any) -> Network:
    """A star of the boards, byte/s both ways."""
    rates = rate if isinstance(rate, Mapping) else dict.fromkeys(NAMES, rate)
    return world({(n, "hub"): rates[n] for n in NAMES}, devices={n: WHALE_FL[n] for n in NAMES}, **changes)


def digits(partition: str = "shards", hidden: int = 16) -> Task:
    """Digits for the boards, in shards of few labels each or evenly."""
    model = zoo.mlp(inputs=64, hidden=(hidden,), classes=10)
    return make_task(TaskSettings(partition=partition, limit=400, minimum=1), NAMES, 0, model=model)
