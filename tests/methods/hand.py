"""Worlds for hand cases: clients with one-parameter least squares, on links where a model of 8 bytes takes whole seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from airloom.network.churn import TraceChurn
from airloom.network.network import Network
from airloom.tasks.task import Task
from tests.methods.quadratic import least_squares
from tests.worlds import device, world

NOTHING_S = 1e-9  # what a message of 8 bytes takes on a link that a case does not look at


def targets(clients: Mapping[str, tuple[int, float]]) -> Task:
    """Client n holds so many rows of F_n = (w - c_n)^2 / 2: a step moves w to w + eta (c_n - w). It costs 4 FLOPs per sample (2 forward, 2 back)."""
    return least_squares({name: (np.ones((n, 1)), np.full(n, c)) for name, (n, c) in clients.items()})


def star(speeds: Mapping[str, float], *, rate: Mapping[str, float] | float = 8 / NOTHING_S, **changes: Any) -> Network:
    """Clients by name with their FLOP/s, each on links of its own (byte/s both ways) to the hub."""
    rates = rate if isinstance(rate, Mapping) else dict.fromkeys(speeds, rate)
    return world({(name, "hub"): rates[name] for name in speeds}, devices={name: device(speed) for name, speed in speeds.items()}, **changes)


def away(**times: tuple[float, ...]) -> TraceChurn:
    """Places that leave at their first time, return at the second, and so on."""
    return TraceChurn(changes={name: [(time_s, k % 2 == 1) for k, time_s in enumerate(row)] for name, row in times.items()})


def with_facts(network: Network, facts: Mapping[str, Mapping[str, Any]]) -> Network:
    """The network with more facts declared for some places."""
    places = {name: replace(place, facts={**place.facts, **facts.get(name, {})}) for name, place in network.places.items()}
    return replace(network, places=places)
