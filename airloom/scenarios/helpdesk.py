"""A help desk on phones: customers' requests with names, orders and cards in them, tools on the phone, a planner in the cloud."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from airloom.scenarios.assistant import assistant
from airloom.scenarios.scenario import Scenario
from airloom.tasks.requests import poisson
from airloom.tasks.retail import Planner, draw

SUITED: Mapping[str, Mapping[str, Any]] = {}


def helpdesk(
    *, seed: int, devices: int = 4, base_stations: int = 1, requests: int = 10, per_minute: float = 1.0, outage: float = 0.0, outage_s: float = 60.0
) -> Scenario:
    """Refunds, settled by tools on the phone as a planner in the cloud says; network, speeds and prices are those of `assistant`.

    Arguments:
        seed: of the world: fleet, requests, outages.
        devices, base_stations, requests, per_minute, outage, outage_s: as in `assistant`.
    """
    world = assistant(seed=seed, devices=devices, base_stations=base_stations, outage=outage, outage_s=outage_s)
    ends = dict(world.task.residents)
    ends[world.network.root] = replace(ends[world.network.root], solver=Planner(reply_tokens=160))
    phones = world.network.clients(world.network.root)
    asked = poisson(phones, count=requests, per_s=per_minute / 60.0, context_bytes=0, draw=draw, seed=seed)
    fields = {"devices": devices, "requests": requests, "outage": outage}
    task = replace(world.task, name="refunds", residents=ends, requests=asked)
    return replace(world, name="helpdesk", task=task, suited=SUITED, fields=fields)
