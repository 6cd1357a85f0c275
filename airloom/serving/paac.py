"""PAAC: the cloud plans over placeholders, the device holds the values, runs the tools and reports findings.

    1  sanitize the question once
    2  loop, at most T times: the cloud returns actions that contain tokens; stop if it is done
    3     the device puts the values back (an unknown token: the action is rejected) and runs the actions side by side
    4     the device reads the raw results, and sends sanitized findings
    5  the device writes the answer from what was done

Paper: L. Yuan, W. Fang, S. Wang et al., "PAAC: Privacy-Aware Agentic Device-Cloud Collaboration", 2026, arXiv 2605.08646, and the authors' code.
Symbols: T `most_turns`; the boundary is `airloom.parts.boundary`.
Left out: a judge that decides on its own that the task is done (`joint`: here the cloud's word and no open action), reflection, other strategies
than parallel plan-and-solve, a language model as the proposer (rules, with a rate of misses).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from airloom.errors import ScenarioError
from airloom.parts.assistant import Assistant, Reply
from airloom.parts.boundary import Registry, Sanitized, UnknownToken, leaked
from airloom.program.here import Here
from airloom.program.method import ranged
from airloom.program.node import Node
from airloom.tasks.requests import Request
from airloom.tasks.retail import KINDS, LEVELS, PATTERNS, read_plan, use


@dataclass(frozen=True, kw_only=True)
class PAAC(Assistant):
    """Planner and executor, split along the trust boundary.

    Arguments:
        level: kinds that must not leave: 0 none, 1 those of internal records, 2 also orders and addresses, 3 also names (1, ours).
        most_turns: T (10, authors' code).
        miss: chance that the proposer overlooks a value, drawn once per value (0: perfect).
        boundary: "registry"; "rewrite" blanks values out without a way back (a baseline).
    """

    paper: ClassVar[str] = "Yuan et al. 2026, arXiv 2605.08646"

    level: int = ranged(0, 3, default=1)
    most_turns: int = ranged(1, 1000, default=10)
    miss: float = ranged(0, 1, default=0.0)
    boundary: Literal["registry", "rewrite"] = "registry"

    def serve(self, device: Node, above: list[str], asked: Request) -> Reply:
        box, sent, done, private = Registry(), list[str](), list[str](), set[str]()
        lines = [self.clean(device, box, private, asked.question, {})]
        planned, plan = None, None
        for _ in range(self.most_turns):
            message = self.send(box, sent, Sanitized("\n".join(line.text for line in lines)))
            planned = self.take(device, device.call(self.plan, above[-1], message.text))
            plan = read_plan(planned.text) if planned is not None else None
            if plan is None or plan[1]:  # the tools stay idle without a plan, and when the cloud is done
                break
            known = [(tool, self.arguments(box, named)) for tool, named in plan[0]]
            runs = [device.call(self.act, device.name, tool, values) for tool, values in known if values is not None]
            for found, what in device.fetch(runs):
                done += [what] if what else []
                lines += [self.clean(device, box, private, f"{key}: {value}", {key: value}) for key, value in found.items()]
            lines += [Sanitized("error: unknown placeholder")] * (len(known) - len(runs))
        out = leaked(private, sent)
        more = {"private": len(private), "leaked": len(out), "leak_rate": len(out) / max(1, len(private)), "turns": len(sent)}
        where, first_s = (device.name, device.now_s) if planned is None else (above[-1], planned.first_s)
        return Reply("; ".join(done) or "nothing was done", 1.0, where, first_s, plan is None, more)

    def clean(self, device: Node, box: Registry, private: set[str], text: str, keyed: dict[str, str]) -> Sanitized:
        """Propose values (records by key, text by rules), register them, substitute."""
        kinds = LEVELS[self.level]
        proposed = device.fetch(device.call(self.propose, device.name, text, keyed, list(kinds)))
        private.update(value for _, value in proposed)
        caught = [(kind, value) for kind, value in proposed if device.rng("miss", value).random() >= self.miss]
        for kind, value in caught:
            box.add(kind, value)
        if self.boundary == "rewrite":
            for value in box.values:
                text = text.replace(value, "[removed]")
            return Sanitized(text)
        return box.sanitize(text) if self.level else Sanitized(text)

    def send(self, box: Registry, sent: list[str], message: Sanitized) -> Sanitized:
        """The only way out: what was found later than it was written is substituted now, and nothing known may remain."""
        if self.level and self.boundary == "registry":
            message = box.scan(Sanitized(box.late(message)))
        sent.append(message.text)
        return message

    def arguments(self, box: Registry, named: dict[str, str]) -> dict[str, str] | None:
        try:
            return {name: box.argument(value) if self.level else value for name, value in named.items()}
        except UnknownToken:
            return None

    # --- device functions ---------------------------------------------------------------------------------------------------------------------

    def plan(self, here: Here, text: str) -> dict[str, Any]:
        if not here.model.solver.brief:
            raise ScenarioError(f"PAAC: the model at '{here.name}' plans nothing; allowed is an endpoint with a planner, as in scenario helpdesk")
        return here.answer(text)

    def propose(self, here: Here, text: str, keyed: dict[str, str], kinds: list[str]) -> list[list[str]]:
        if not keyed:  # the device's model reads free text; records are walked by key, without it
            here.cost(seconds=-(-len(text) // 4) / here.model.prefill_per_s)
        here.cost(seconds=0.0)
        found = [[KINDS[key], value] for key, value in keyed.items() if KINDS.get(key) in kinds]
        return found + [[kind, value] for kind in kinds if kind in PATTERNS for value in PATTERNS[kind].findall(text) if [kind, value] not in found]

    def act(self, here: Here, tool: str, known: dict[str, str]) -> list[Any]:
        here.cost(seconds=0.0)
        return list(use(tool, known))
