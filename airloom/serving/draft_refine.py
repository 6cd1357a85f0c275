"""The device drafts, the cloud corrects (pattern V4, draft then refine).

    y = A_device(x);   answer = A_cloud(x, y), or y where that takes longer than timeout_s

Paper: L. Yuan, W. Fang, S. Wang et al., "Large Language Models over Networks: Collaborative Intelligence under Resource Constraints",
arXiv 2605.08626, 2026, vertical collaboration.
Symbols: x request, y draft, A the answer of an endpoint.
Left out: that a model corrects a draft with fewer tokens than it needs for an answer of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from airloom.parts.assistant import Assistant, Reply
from airloom.program.node import Node
from airloom.tasks.requests import Request


@dataclass(frozen=True, kw_only=True)
class DraftRefine(Assistant):
    """Draft here, refine in the cloud.

    Arguments: `timeout_s` as in all assistants.
    """

    paper: ClassVar[str] = "Yuan et al. 2026, arXiv 2605.08626 (V4)"

    def serve(self, device: Node, above: list[str], asked: Request) -> Reply:
        y = self.ask(device, device.name, asked)
        return self.remote(device, above[-1], asked, y, otherwise=self.local_of(device, y))
