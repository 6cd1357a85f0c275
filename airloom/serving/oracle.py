"""A router that knows beforehand whether the device will be right: the bound that no router passes.

    answer = A_device(x) if that is right else A_cloud(x)

Paper: the baseline of L. Yuan, W. Fang, S. Wang et al., "Large Language Models over Networks: Collaborative Intelligence under Resource Constraints",
arXiv 2605.08626, 2026.
Symbols: x request, A the answer of an endpoint.
Left out: foresight costs nothing, and it looks at answers only: a request that neither gets right goes to the cloud.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from airloom.parts.assistant import Assistant, Reply
from airloom.program.here import Here
from airloom.program.node import Node
from airloom.tasks.requests import Request


@dataclass(frozen=True, kw_only=True)
class Oracle(Assistant):
    """Route by foresight.

    Arguments: `timeout_s` as in all assistants.
    """

    paper: ClassVar[str] = "Yuan et al. 2026, arXiv 2605.08626 (bound)"

    def serve(self, device: Node, above: list[str], asked: Request) -> Reply:
        if device.fetch(device.call(self.foresee, device.name, asked.question, on=None)) == asked.truth:
            return self.local(device, asked)
        return self.remote(device, above[-1], asked)

    def foresee(self, here: Here, question: str) -> str:
        here.cost(seconds=0.0)
        return here.model.reply(question, 0)["text"]
