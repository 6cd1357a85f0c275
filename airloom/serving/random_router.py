"""A coin decides who answers: what any router has to beat at the same share of cloud answers.

    u ~ U(0, 1) per request;  answer = A_cloud(x) if u < share else A_device(x)

Paper: the baseline of L. Yuan, W. Fang, S. Wang et al., "Large Language Models over Networks: Collaborative Intelligence under Resource Constraints",
arXiv 2605.08626, 2026.
Symbols: x request, A the answer of an endpoint.
Left out: nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from airloom.parts.assistant import Assistant, Reply
from airloom.program.method import ranged
from airloom.program.node import Node
from airloom.tasks.requests import Request


@dataclass(frozen=True, kw_only=True)
class RandomRouter(Assistant):
    """Route by chance.

    Arguments:
        share: of the requests that go to the cloud (ours).
    """

    paper: ClassVar[str] = "Yuan et al. 2026, arXiv 2605.08626 (baseline)"

    share: float = ranged(0, 1, default=0.5)

    def serve(self, device: Node, above: list[str], asked: Request) -> Reply:
        if device.rng("route", asked.number).random() < self.share:
            return self.remote(device, above[-1], asked)
        return self.local(device, asked)
