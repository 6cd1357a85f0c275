"""The device answers first; what it is not sure of goes to the cloud (pattern V2, cascade).

    y, confidence = A_device(x)
    answer = A_cloud(x) if confidence < theta else y;   y where the cloud takes longer than timeout_s

Paper: L. Yuan, W. Fang, S. Wang et al., "Large Language Models over Networks: Collaborative Intelligence under Resource Constraints",
arXiv 2605.08626, 2026, vertical collaboration.
Symbols: x request, A the answer of an endpoint, theta `theta`.
Left out: calibration of the confidence per device; theta is one number for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from airloom.parts.assistant import Assistant, Reply
from airloom.program.method import ranged
from airloom.program.node import Node
from airloom.tasks.requests import Request


@dataclass(frozen=True, kw_only=True)
class Cascade(Assistant):
    """Escalate what the device doubts.

    Arguments:
        theta: least confidence with which the device's answer stands (0.5, ours); 0 is device only, more than 1 always escalates.
    """

    paper: ClassVar[str] = "Yuan et al. 2026, arXiv 2605.08626 (V2)"

    theta: float = ranged(0, 2, default=0.5, tune=(0.3, 0.5, 0.7, 0.9))

    def serve(self, device: Node, above: list[str], asked: Request) -> Reply:
        draft = self.local(device, asked)
        if draft.confidence >= self.theta:
            return draft
        return self.remote(device, above[-1], asked, otherwise=draft)
