"""Critique and route: a controller at the device looks at the present draft, stops or picks the agent that is to refine it (pattern H4).

    s_k = (q, d_{k-1}, m_{k-1});  a_k ~ pi(. | s_k): stop, or agent m_k;  d_k = A_m(q, d_{k-1});  at most K agent calls
    r_k = w_v (+1 if stop and z_{k-1} or go on and not z_{k-1}, else -1) + 1[go on] (w_r z_k - w_t) + w_f 1[last] z of the final draft
    c_k = 1[go on] (1[m = strongest] - rho);   R_k = sum_{j >= k} (r_j - mu c_j);   A_k = R_k - mean over the others that reached turn k
    gradient = mean over episodes of sum_k A_k grad log pi(a_k | s_k);   lambda <- max(0, lambda + eta (N_strongest - rho N)), N calls

Paper: W. Fang et al., "Iterative Critique-and-Routing Controller for Multi-Agent Systems with Heterogeneous LLMs", 2026, arXiv 2605.08686;
reconstructed from the abstract and a third-party summary.
Symbols: q question, d draft, m agent, z whether d is right, K `turns`, G `group`, w_v, w_r, w_f, w_t `verdict, route, final, turn_cost`, rho `share`.
Left out: the text of the critique (the agent reads the draft alone) and its format reward; other agents' shares.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import numpy as np
import torch

from airloom.models import zoo
from airloom.parts.advantage import Dual, Surrogate, decisions, draw, turn_advantages
from airloom.parts.assistant import Assistant, Reply
from airloom.parts.optimizer import ServerAdam
from airloom.program.here import Here
from airloom.program.method import ranged
from airloom.program.node import Node
from airloom.program.ref import Ref
from airloom.tasks.arithmetic import IDS, WINDOW, WORDS, encode, texts
from airloom.tasks.requests import Request

CONTROLLER = zoo.transformer(vocabulary=len(WORDS), width=32, heads=4, blocks=1, context=WINDOW + 2)
AGENTS = 3  # the device, the place over it, the cloud; action 0 stops, m asks agent m


@dataclass(frozen=True, kw_only=True)
class CritiqueRouting(Assistant):
    """A controller of several turns with a share for the strongest agent.

    Arguments:
        turns, group, prompts, steps: K (3), G (8), prompts per update, updates (ours). share: of the strongest agent's calls (0.25, abstract).
        verdict, route, final, turn_cost: of the reward (0.5, 0.5, 1.0, 0.6, ours); a cost below `verdict` pays for being wrong and going on.
        entropy: of the surrogate (0.1): stopping must be tried even after first drafts, all wrong. dual_lr, dual_gain: of `Dual` (ours).
        averaging: weight of an update in the mean controller that is served (1: the last one). is_greedy: in service; False samples (ours).
        service_lr: step of a multiplier in service, taken off the strongest agent's logit, which keeps the share there too (ours; 0: none).
    """

    paper: ClassVar[str] = "Fang et al. 2026, arXiv 2605.08686"
    learns = CONTROLLER
    turns: int = ranged(1, 100, default=3)
    group: int = ranged(2, 10_000, default=8)
    prompts: int = ranged(1, 100_000, default=16)
    steps: int = ranged(0, 1_000_000, default=150)
    verdict: float = ranged(0, 100, default=0.5)
    route: float = ranged(0, 100, default=0.5)
    final: float = ranged(0, 100, default=1.0)
    turn_cost: float = ranged(0, 100, default=0.6)
    share: float = ranged(0, 1, default=0.25)
    dual_lr: float = ranged(0, 100, default=0.12)
    dual_gain: float = ranged(0, 100, default=0.0, is_neutral=True)
    averaging: float = ranged(0, 1, default=1.0, open_low=True, is_neutral=True)
    is_greedy: bool = field(default=True, metadata={"is_neutral": True})
    service_lr: float = ranged(0, 100, default=0.0, is_neutral=True)
    entropy: float = ranged(0, 100, default=0.1)
    optimizer: ServerAdam = field(default=ServerAdam(lr=1e-3))

    def prepare(self, node: Node) -> None:
        above = [*[c for c in node.children if c not in node.clients][:1], node.name]
        node.fetch(node.map(self.install, node.clients, theta := node.program(node.clients[0], self.train, above)))
        node.report(model=theta)

    def train(self, device: Node, above: list[str]) -> Any:
        places = [device.name, above[0], above[-1]]
        for t in range(self.steps):
            s, taken = device.call(self.begin, device.name, t), list[Any]()
            for k in range(self.turns):
                taken.append(device.call(self.choose, device.name, s, t, k))
                asked = device.fetch(taken[-1]["asked"])
                told = [device.call(self.refine, places[m], m + 1, mine) for m in range(AGENTS) if (mine := [c[1:] for c in asked if c[0] == m + 1])]
                s = device.call(self.advance, device.name, taken[-1], device.first(told, len(told), self.timeout_s * len(asked))[0])  # or d stays
            device.report(**device.fetch(device.call(self.learn, device.name, s, taken, t)))
        return device.fetch(device.call(self.theta, device.name, "mean"))

    def begin(self, here: Here, t: int) -> dict[str, Any]:
        batch: Any = here.batch(self.prompts)
        x, y = (part.repeat_interleave(self.group, 0) for part in (batch.x, batch.y[:, -1]))  # one row per episode, those of a prompt together
        return {"x": x, "y": y, "d": torch.full_like(y, IDS["_"]), "h": torch.zeros_like(y), "live": torch.ones_like(y).bool()}

    def choose(self, here: Here, s: dict[str, Any], t: int, k: int) -> dict[str, Any]:
        seen = torch.cat([s["x"], s["d"][:, None], s["h"][:, None]], 1)
        logits = here.forward(self.theta(here), seen)[:, -1, : AGENTS + 1]
        m = draw(logits, 1, here.rng("choose", t, k).random((len(seen), 1)))[:, 0] * s["live"]
        here.cost(seconds=len(seen) * (seen.shape[1] / here.model.prefill_per_s + 1 / here.model.decode_per_s))
        asked = sorted({(m, q, WORDS[d]) for m, q, d in zip(m.tolist(), texts(s["x"]), s["d"].tolist()) if m})
        return {**s, "seen": seen, "old": logits.log_softmax(-1).gather(1, m[:, None])[:, 0], "m": m, "asked": list(map(list, asked))}

    def refine(self, here: Here, m: int, asked: list[list[str]]) -> list[list[Any]]:
        return [[m, q, d, here.answer(q, None, [{"text": d, "tokens_out": 1}] if d != "_" else [])["text"]] for q, d in asked]

    def advance(self, here: Here, s: dict[str, Any], told: list[Any]) -> dict[str, Any]:
        answers = {(m, q, d): IDS.get(text, IDS["?"]) for agent in told for m, q, d, text in agent}
        d = torch.tensor([answers.get((m, q, WORDS[d]), d) for m, q, d in zip(s["m"].tolist(), texts(s["x"]), s["d"].tolist())])
        return {"x": s["x"], "y": s["y"], "d": d, "h": s["m"], "live": s["m"] > 0}

    def learn(self, here: Here, s: dict[str, Any], taken: list[dict[str, Any]], t: int) -> dict[str, float]:
        reached, m = (torch.stack([turn[name] for turn in taken], -1).numpy().reshape(self.prompts, self.group, -1) for name in ("live", "m"))
        z = torch.stack([turn["d"] == s["y"] for turn in (*taken, s)], -1).numpy().reshape(self.prompts, self.group, -1)
        theta, dual, own = self.theta(here), Dual(lr=self.dual_lr, gain=self.dual_gain), here.state.get("own", {"lambda": 0.0})
        A = turn_advantages(self.rewards(m, z, reached) - dual.mu(own) * np.where(m > 0, (m == AGENTS) - self.share, 0.0), reached)
        turns = (decisions(c["seen"], c["m"], c["old"], A[..., k].reshape(-1), reached[..., k].reshape(-1)) for k, c in enumerate(taken))
        g = cast(Any, sum((here.grad(theta, turn, objective=Surrogate(actions=AGENTS + 1, entropy=self.entropy)) for turn in turns), theta.zeros()))
        here.state["theta"], here.state["optimizer"] = self.optimizer.step(theta, g, here.state.get("optimizer"))
        here.state["mean"] = (1.0 - self.averaging) * self.theta(here, "mean") + self.averaging * here.state["theta"]
        N, strongest = (float(used.sum(-1).mean()) for used in (m > 0, m == AGENTS))
        here.state["own"] = dual.step(own, strongest - self.share * N)
        return {"step": t, "train_accuracy": float(z[..., -1].mean()), "calls": N, "strongest_rate": strongest / max(N, 1e-9), **own}

    def rewards(self, m: Any, z: Any, reached: Any) -> Any:  # (B, G, K); z: whether drafts were right before the first turn and after every one
        goes, before, now = m > 0, z[..., :-1], z[..., 1:]
        last = reached & ~np.concatenate([reached[..., 1:], np.zeros_like(reached[..., :1])], -1)
        r = self.verdict * np.where(goes != before, 1.0, -1.0) + self.route * (goes & now) + self.final * (last & now) - self.turn_cost * goes
        return np.where(reached, r, 0.0)

    def serve(self, device: Node, above: list[str], asked: Request) -> Reply:
        places, draft, notes, m = [device.name, above[0], above[-1]], None, list[Ref](), 0
        while len(notes) < self.turns and (m := device.fetch(device.call(self.decide, device.name, asked.question, draft.text if draft else "", m))):
            notes.append(self.ask(device, places[m - 1], asked, *notes[-1:]))
            if (refined := self.take(device, notes[-1])) is None:
                return (draft or self.local(device, asked))._replace(is_fallback=True)
            draft = refined
        return (draft or self.local(device, asked))._replace(more={"calls": len(notes), "strongest_calls": sum(n.place == above[-1] for n in notes)})

    def decide(self, here: Here, question: str, draft: str, last: int) -> int:
        here.cost(seconds=(WINDOW + 2) / here.model.prefill_per_s + 1 / here.model.decode_per_s)
        dual, own = Dual(lr=self.service_lr), here.state.get("served", {})  # what users ask is not what it was trained on
        logits = here.forward(self.theta(here), self.state(question, draft, last))[:, -1, : AGENTS + 1]
        logits[:, AGENTS] -= dual.mu(own)
        m = int(logits.argmax() if self.is_greedy else draw(logits, 1, here.rng("decide", question, last).random((1, 1))))
        here.state["served"] = dual.step(own, (m == AGENTS) - self.share) if m else own
        return m

    def state(self, question: str, draft: str, last: int) -> Any:  # (1, WINDOW + 2) token ids; a draft that is no number is unreadable
        return torch.cat([encode([question]), torch.tensor([[IDS.get(draft, IDS["?"]) if draft else IDS["_"], IDS[str(last)]]])], 1)

    def theta(self, here: Here, name: str = "theta") -> Any:
        return here.state.get(name, CONTROLLER.initial(0))

    def install(self, here: Here, theta: Any) -> None:
        here.state["theta"] = theta
