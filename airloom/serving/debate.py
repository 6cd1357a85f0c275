"""Endpoints answer, read what their neighbors said, answer again, and vote in the end (pattern H2, debate).

    y_i(0) = A_i(x);   y_i(t) = A_i(x, {y_j(t - 1): j neighbor of i}), t = 1..rounds;   answer = majority of y_i(rounds)

Paper: L. Yuan, W. Fang, S. Wang et al., "Large Language Models over Networks: Collaborative Intelligence under Resource Constraints",
arXiv 2605.08626, 2026, horizontal collaboration.
Symbols: x request, A_i the answer of endpoint i on the way from the device to the cloud, y_i(t) `said`.
Left out: graphs with weights; memory of rounds before the last one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from airloom.parts.assistant import Assistant, Reply
from airloom.program.method import ranged
from airloom.program.node import Node
from airloom.tasks.requests import Request


@dataclass(frozen=True, kw_only=True)
class Debate(Assistant):
    """Debate over a graph, then vote.

    Arguments:
        agents: how many, from the device upwards (3, ours).
        rounds: of listening and answering again (2, ours); 0 is `vote`.
        graph: "mesh" (everybody hears everybody), "ring" (the one before), "star" (the device hears all, all hear the device).
    """

    paper: ClassVar[str] = "Yuan et al. 2026, arXiv 2605.08626 (H2)"

    agents: int = ranged(1, 100, default=3)
    rounds: int = ranged(0, 100, default=2)
    graph: Literal["mesh", "ring", "star"] = "mesh"

    def serve(self, device: Node, above: list[str], asked: Request) -> Reply:
        places = [device.name, *above][: self.agents]
        said = [self.ask(device, place, asked) for place in places]
        own = said[0]
        for _ in range(self.rounds):
            said = [self.ask(device, place, asked, *[said[j] for j in self.heard(i, len(places))]) for i, place in enumerate(places)]
        return self.vote(device, said, own)

    def heard(self, i: int, n: int) -> list[int]:
        """Whom endpoint i hears."""
        others = [j for j in range(n) if j != i]
        return {"mesh": others, "ring": [(i - 1) % n] if others else [], "star": others if i == 0 else [0]}[self.graph]
