"""Long questions go to the cloud: a router that looks at the request alone (pattern V1, route before).

    answer = A_cloud(x) if |x| > longest else A_device(x)

Paper: L. Yuan, W. Fang, S. Wang et al., "Large Language Models over Networks: Collaborative Intelligence under Resource Constraints",
arXiv 2605.08626, 2026, vertical collaboration; a threshold on the request as in RouteLLM (I. Ong et al., 2024, arXiv 2406.18665).
Symbols: x request, |x| its length in bytes, A the answer of an endpoint.
Left out: a trained classifier; the length stands for its score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from airloom.parts.assistant import Assistant, Reply
from airloom.program.method import ranged
from airloom.program.node import Node
from airloom.tasks.requests import Request


@dataclass(frozen=True, kw_only=True)
class LengthRouter(Assistant):
    """Route by length.

    Arguments:
        longest: most bytes of a question that the device answers itself (4: two digits of the arithmetic questions, ours).
    """

    paper: ClassVar[str] = "Yuan et al. 2026, arXiv 2605.08626 (V1)"

    longest: int = ranged(0, 1_000_000, default=4, tune=(0, 4, 6))

    def serve(self, device: Node, above: list[str], asked: Request) -> Reply:
        if len(asked.question.encode()) > self.longest:
            return self.remote(device, above[-1], asked)
        return self.local(device, asked)
