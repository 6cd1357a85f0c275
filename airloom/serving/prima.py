"""Prima: one language model in layer windows over a ring of devices; a token passes the ring k times.

    plan: who holds w_m layers per turn, n_m of them on its GPU; L = k sum_m w_m                          (`airloom.plans.placement`)
    per token: h <- embed (head);  k times, for each device of the ring:  h <- window_m(h) when h and the window's pages are there,
               then its disk reads the pages of the next window of m while the others compute;  token <- output(h) (head)

Paper: Z. Li, T. Li, W. Feng et al., "Prima.cpp: Fast 30-70B LLM Inference on Heterogeneous and Low-Resource Home Clusters", 2025, arXiv 2504.08791,
sections 3.1 to 3.3. Real tokens on real machines: `airloom run prima --engine ring`.
Symbols: k `turns`, m the index of a device, h activation of one token.
Left out: reading the prompt; speculative decoding; more than one request at a time; the values of h (shapes, bytes and seconds are the model's).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar

import torch

from airloom.errors import DeviceLost, ScenarioError
from airloom.plans.halda import halda, halda_exact
from airloom.plans.pagecache import best_turns, order, rooms, timeline
from airloom.plans.placement import Placement, RingDevice, RingModel, reasons
from airloom.plans.splits import memsched, perfsched, single
from airloom.program.here import Here
from airloom.program.method import Planned, Service, ranged
from airloom.program.node import Node

PLANNERS = {"halda": halda, "memsched": memsched, "perfsched": perfsched, "single": single}


@dataclass(frozen=True, kw_only=True)
class Prima(Service, Planned):
    """Pipelined-ring inference.

    Arguments:
        planner: "exact" (ours), "halda" (paper), or the baselines "memsched", "perfsched", "single".
        turns: with "exact", the number of turns; 0 lets the timeline of the page caches choose (ours).
        prefetch: 1 reads the next window ahead (paper), 0 waits for each missing layer.
        tokens: how many are decoded (ours).
    """

    paper: ClassVar[str] = "Li et al. 2025, arXiv 2504.08791"

    planner: str = "exact"
    turns: int = ranged(0, inf, default=0)
    prefetch: int = ranged(0, 1, default=1)
    tokens: int = ranged(1, inf, default=8)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.planner not in ("exact", *PLANNERS):
            raise ScenarioError(f"Prima.planner: got {self.planner!r}; allowed are exact, {', '.join(PLANNERS)}")

    def plan(self, model: RingModel, ring: list[RingDevice]) -> Placement:
        """Deal out the layers."""
        if self.planner != "exact":
            return PLANNERS[self.planner](model, ring)
        return halda_exact(model, ring, turns=self.turns) if self.turns else best_turns(model, ring, is_prefetched=bool(self.prefetch))[0]

    def planned(self, facts: Mapping[str, Mapping[str, Any]], root: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        model, ring = declared(facts, root)
        plan = self.plan(model, ring)
        played = timeline(model, ring, plan, is_prefetched=bool(self.prefetch))
        whole = {"planner": plan.planner, "turns": plan.turns, "token_s": played.token_s, "objective_s": plan.token_s, "waited_s": played.waited_s}
        return reasons(model, ring, plan, played.loads), whole

    def run(self, head: Node) -> None:
        done, plans = 0, 0
        while done < self.tokens:  # once, and once more for each device that leaves
            plans += 1
            try:
                for token_s, plan in self.decode(head, self.tokens - done):
                    head.report(token=done, token_s=token_s, turns=plan.turns, planned_s=plan.token_s, plans=plans)
                    done += 1
            except DeviceLost:  # caches of all tokens so far are filled again by whoever holds the layers next; that is not charged
                continue

    def decode(self, head: Node, tokens: int) -> Iterator[tuple[float, Placement]]:
        """Plan for the devices that are there, and yield the seconds of each token."""
        facts = head.network.facts
        model, ring = declared({name: facts[name] for name in (head.name, *head.clients)}, head.name)
        plan = self.plan(model, ring)
        path, kept = [(ring[m].name, plan.windows[m], plan.gpu_windows[m], m) for m in order(plan, ring)], rooms(model, ring)
        pages: dict[str, Any] = {name: [] for name, *_ in path}  # who has which layers in memory, least recently used first
        for _ in range(tokens):
            began_s = head.now_s
            h: Any = head.call(self.embed, head.name, model.width)
            for turn in range(plan.turns):
                for name, w, n, m in path:
                    out = head.call(self.window, name, h, pages[name], turn, w, n, kept[m])
                    h, pages[name] = out["h"], out["pages"]
                    if self.prefetch and plan.turns * (w - n) > kept[m]:
                        pages[name] = head.call(self.ahead, name, pages[name], (turn + 1) % plan.turns, w - n, kept[m], on="disk")
            head.fetch(head.call(self.output, head.name, h))
            yield head.now_s - began_s, plan

    def embed(self, here: Here, width: int) -> torch.Tensor:  # at the head
        here.cost(seconds=0.0)
        return torch.zeros(width)

    def window(self, here: Here, h: torch.Tensor, pages: list[int], turn: int, w: int, n: int, kept: int) -> dict[str, Any]:  # at device m
        own = here.facts["ring"]
        loads, pages = touched(pages, turn, w - n, kept)
        seconds = (w - n) * own["cpu_layer_s"] + (n * own["gpu_layer_s"] + own["copy_s"] if n else 0.0)
        here.cost(seconds=seconds + loads * load_s(here.facts))
        return {"h": h + 0.0, "pages": pages}

    def ahead(self, here: Here, pages: list[int], turn: int, paged: int, kept: int) -> list[int]:  # at the disk of device m
        loads, pages = touched(pages, turn, paged, kept, is_read=True)
        here.cost(seconds=loads * load_s(here.facts))
        return pages

    def output(self, here: Here, h: torch.Tensor) -> None:  # at the head
        here.cost(seconds=here.facts["ring"]["output_s"])


def declared(facts: Mapping[str, Mapping[str, Any]], head: str) -> tuple[RingModel, list[RingDevice]]:
    """The model and the ring that a scenario declares: the head, then its peers in the order of the places."""
    named = {name: facts[name] for name in sorted(facts, key=lambda name: name != head) if {"ring", "model"} <= set(facts[name])}
    if not named:
        raise ScenarioError(f"Prima: no place declares facts 'ring' and 'model', got {sorted(facts)[:8]}; use the scenario home, or declare them")
    ring = [RingDevice(**{**held["ring"], "name": name}) for name, held in named.items()]
    return RingModel(**next(iter(named.values()))["model"]), ring


def touched(pages: list[int], turn: int, paged: int, kept: int, is_read: bool = False) -> tuple[int, list[int]]:
    """Use (or only read) the layers of a window: how many came from disk, and what memory holds then."""
    loads, pages = 0, list(pages)
    for layer in range(turn * paged, (turn + 1) * paged):
        if layer in pages:
            if is_read:
                continue
            pages.remove(layer)
        else:
            loads += 1
        pages = [*pages, layer][-kept:] if kept else []
    return loads, pages


def load_s(facts: Mapping[str, Any]) -> float:
    """Seconds to read one layer with its cache from this device's disk."""
    return (facts["model"]["layer_bytes"] + facts["model"]["cache_bytes"]) / facts["ring"]["disk_bytes_per_s"]
