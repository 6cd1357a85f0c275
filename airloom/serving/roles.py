"""A request goes through solver, checker and writer, from the device to the cloud, and only the last one's text comes back (pattern H3, role pipeline).

    y_0 = A_device(x);   y_i = A_i(x, y_{i-1}) at the next place upwards;   answer = y of the cloud, or y_0 where that takes longer than timeout_s

Paper: L. Yuan, W. Fang, S. Wang et al., "Large Language Models over Networks: Collaborative Intelligence under Resource Constraints",
arXiv 2605.08626, 2026, horizontal collaboration.
Symbols: x request, A_i the answer of endpoint i on the way from the device to the cloud, y_i `y`.
Left out: prompts that tell an endpoint its role; an unsure endpoint takes what it reads, a sure one writes its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from airloom.parts.assistant import Assistant, Reply
from airloom.program.node import Node
from airloom.tasks.requests import Request


@dataclass(frozen=True, kw_only=True)
class Roles(Assistant):
    """Solve, check, write.

    Arguments: `timeout_s` as in all assistants; it begins when the device's own answer is there.
    """

    paper: ClassVar[str] = "Yuan et al. 2026, arXiv 2605.08626 (H3)"

    def serve(self, device: Node, above: list[str], asked: Request) -> Reply:
        y = own = self.ask(device, device.name, asked)
        for place in above[:-1]:
            y = self.ask(device, place, asked, y)
        return self.remote(device, above[-1], asked, y, otherwise=self.local_of(device, own))
