"""Every request is answered by the model of the device where it is asked.

    answer = A_device(x)

Paper: the baseline of L. Yuan, W. Fang, S. Wang et al., "Large Language Models over Networks: Collaborative Intelligence under Resource Constraints",
arXiv 2605.08626, 2026.
Symbols: x request, A the answer of an endpoint.
Left out: batching of requests at one device; they queue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from airloom.parts.assistant import Assistant, Reply
from airloom.program.node import Node
from airloom.tasks.requests import Request


@dataclass(frozen=True, kw_only=True)
class DeviceOnly(Assistant):
    """Answer here.

    Arguments: `timeout_s` as in all assistants; nothing is remote here.
    """

    paper: ClassVar[str] = "Yuan et al. 2026, arXiv 2605.08626 (baseline)"

    def serve(self, device: Node, above: list[str], asked: Request) -> Reply:
        return self.local(device, asked)
