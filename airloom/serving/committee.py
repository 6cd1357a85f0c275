"""Device and station answer side by side; where they disagree, the cloud decides (hybrid of vote and cascade).

    answer = y where A_device(x) = A_edge(x) = y, else A_cloud(x);   A_device(x) where the others take longer than timeout_s

Paper: L. Yuan, W. Fang, S. Wang et al., "Large Language Models over Networks: Collaborative Intelligence under Resource Constraints",
arXiv 2605.08626, 2026, hybrid topologies.
Symbols: x request, A the answer of an endpoint.
Left out: committees of several devices; here the station's model is the device's only peer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from airloom.parts.assistant import Assistant, Reply
from airloom.program.node import Node
from airloom.tasks.requests import Request


@dataclass(frozen=True, kw_only=True)
class Committee(Assistant):
    """Agree near by, or escalate.

    Arguments: `timeout_s` as in all assistants.
    """

    paper: ClassVar[str] = "Yuan et al. 2026, arXiv 2605.08626 (hybrid)"

    def serve(self, device: Node, above: list[str], asked: Request) -> Reply:
        own, near = self.ask(device, device.name, asked), self.ask(device, above[0], asked)
        theirs, mine = self.take(device, near), self.local_of(device, own)
        if theirs is None:  # the cloud lies behind the station
            return mine._replace(is_fallback=True)
        if theirs.text == mine.text:
            return mine
        return self.remote(device, above[-1], asked, otherwise=mine)
