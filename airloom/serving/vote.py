"""Several endpoints answer at once, and the majority decides (pattern H1, parallel vote).

    answer = majority of A_1(x), ..., A_n(x); of equals the first, so the device's before the station's before the cloud's

Paper: L. Yuan, W. Fang, S. Wang et al., "Large Language Models over Networks: Collaborative Intelligence under Resource Constraints",
arXiv 2605.08626, 2026, horizontal collaboration.
Symbols: x request, A_i the answer of endpoint i on the way from the device to the cloud, n `agents`.
Left out: best of n by a judge; several samples of one endpoint (its answer is always the same).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from airloom.parts.assistant import Assistant, Reply
from airloom.program.method import ranged
from airloom.program.node import Node
from airloom.tasks.requests import Request


@dataclass(frozen=True, kw_only=True)
class Vote(Assistant):
    """Ask n endpoints, take the majority.

    Arguments:
        agents: how many, from the device upwards (3, ours).
    """

    paper: ClassVar[str] = "Yuan et al. 2026, arXiv 2605.08626 (H1)"

    agents: int = ranged(1, 100, default=3)

    def serve(self, device: Node, above: list[str], asked: Request) -> Reply:
        said = [self.ask(device, place, asked) for place in [device.name, *above][: self.agents]]
        return self.vote(device, said, own=said[0])
