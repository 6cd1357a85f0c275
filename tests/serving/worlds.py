"""One phone under one cloud, endpoints that are as right as a table says, and messages that take whole seconds.

A question "1+1=" with 40 bytes of context is 44 bytes: 11 s up at 4 byte/s. It is 1 + 10 = 11 tokens. A reply of n tokens is 4 n bytes of text and
32 bytes of numbers beside it: 12 s down with n = 4. Latency is 0.5 s each way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from airloom.models.endpoint import Declared, Endpoint
from airloom.network.churn import Churn
from airloom.network.network import Network
from airloom.network.topology import Level, tree
from airloom.network.trace import Trace
from airloom.program.method import Service
from airloom.tasks.arithmetic import solve
from airloom.tasks.requests import Request
from airloom.tasks.task import Task
from tests.worlds import Played, device, play, task_for, world

NEVER = Trace(times_s=(0.0, 1e6), rates_bps=(0.0, 32.0))  # an up-link that is cut for longer than any test looks


def skilled(skill: float, name: str = "x", *, read: float = 11.0, write: float = 2.0, tokens: int = 4, **changes: Any) -> Endpoint:
    """An endpoint that is right with a chance of `skill`: 1 s for the 11 tokens of a question, 2 s for the 4 of a reply."""
    solver = Declared(solve=solve, skill=lambda _: skill, reply_tokens=tokens, name=name)
    return Endpoint(solver=solver, prefill_per_s=read, decode_per_s=write, **{"price_in": 0.0, "price_out": 0.0, "joules_per_token": 0.0, **changes})


def star(*phones: str, up: Trace | float = 32.0, churn: Churn | None = None) -> Network:
    """Phones under "cloud" with 4 byte/s both ways."""
    level = Level(name="phone", count=max(1, len(phones)), devices=device(), up_bps=up, down_bps=32.0, latency_s=0.5)
    return tree([level], root=device(), churn=churn)


def three_tiers() -> Network:
    """phone, edge, cloud: links so fast that only latency (0.5 s a hop) counts."""
    return world({("edge", "cloud"): 1e12, ("phone0", "edge"): 1e12}, latency_s=0.5)


def asked(network: Network, endpoints: Mapping[str, Endpoint], *at_s: float, question: str = "1+1=") -> Task:
    """The same question at phone0 at these times."""
    context = [np.zeros(40, np.uint8) for _ in at_s]
    stream = tuple(Request(i, t, question, solve(question), c) for i, (t, c) in enumerate(zip(at_s, context)))
    return replace(task_for(network), residents=dict(endpoints), requests={"phone0": stream})


def served(service: Service, network: Network, task: Task, **options: Any) -> tuple[list[dict[str, Any]], Played]:
    """Run a service; return the points of its answers, and all that the run left."""
    played = play(network, service.run, task=task, **options)
    return [point for point in played.reports if "correct" in point], played


def column(points: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    return [point[name] for point in points]
