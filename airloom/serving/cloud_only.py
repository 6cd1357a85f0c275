"""Every request goes to the cloud's model.

    answer = A_cloud(x), or A_device(x) where that takes longer than timeout_s

Paper: the baseline of L. Yuan, W. Fang, S. Wang et al., "Large Language Models over Networks: Collaborative Intelligence under Resource Constraints",
arXiv 2605.08626, 2026.
Symbols: x request, A the answer of an endpoint.
Left out: batching of requests in the cloud; they queue for its slots.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from airloom.parts.assistant import Assistant, Reply
from airloom.program.node import Node
from airloom.tasks.requests import Request


@dataclass(frozen=True, kw_only=True)
class CloudOnly(Assistant):
    """Ask the cloud.

    Arguments: `timeout_s` as in all assistants.
    """

    paper: ClassVar[str] = "Yuan et al. 2026, arXiv 2605.08626 (baseline)"

    def serve(self, device: Node, above: list[str], asked: Request) -> Reply:
        return self.remote(device, above[-1], asked)
