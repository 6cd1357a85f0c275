"""Sequential split learning: the clients train the lower layers one after another, the server the upper ones, one batch at a time.

    each round:  pi = an order of the clients;  for n in the first S of pi, w_c coming from the one before:
        K times:  a = f_c(w_c; batch of n)          a and the labels go to the server
                  g = dL/da, dL/dw_s at w_s;         w_s <- w_s - eta dL/dw_s;         g goes back
                  w_c <- w_c - eta (da/dw_c)' g
    w_s is never averaged and never reset; labels="client": the last layer w_h stays at n too, h and dL/dh cross in place of the labels

Paper: Li, Lyu, "Convergence Analysis of Sequential Split Learning on Heterogeneous Data", 2023, arXiv 2302.01633; `labels="client"` is the U-shaped
form of Vepakomma, Gupta, Swedish, Raskar, 2018, arXiv 1812.00564.
Symbols: w_c `wc` (with w_h), w_s `ws`, S `fraction` of the clients, K `local_steps`, eta `lr`, s `cut`, pi from `order`.
Left out: momentum, dropout in step with the unsplit network. With plain SGD this is `sequential_fl` on the unsplit network, for every cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from airloom.errors import ScenarioError
from airloom.models.params import Params
from airloom.models.step import SGD
from airloom.parts.halves import backward_kept, clipped, forward_kept, joined, output_gradient, packed, pieces, square
from airloom.parts.order import Orderer, RandomReshuffle, orderer
from airloom.program.here import Here
from airloom.program.method import Method, State, part, ranged
from airloom.program.node import Node
from airloom.program.ref import Ref


@dataclass(frozen=True, kw_only=True)
class SequentialSplit(Method):
    """A chain of clients, each below one server that holds the rest of the network.

    Arguments:
        cut: layers at the clients, 0 to all (2, authors' code; 1, ours, is in every model).
        labels: the "server" sees them (paper), or they stay at the "client", with the last layer.
        fraction: share of the clients that a round visits; at least one.
        local_steps, lr, batch_size: of local SGD.
        clip_norm, clip: largest norm of a gradient (50, authors' code), or None; of "halves" each by its own norm (authors' code), or "global", which
            is that of the unsplit network: the server's step then waits for the client's norm.
        order: "random_reshuffle" (paper), "shuffle_once" or "fixed".
        hops: "direct" hands w_c from client to client, and loses the round when one of them leaves; "relayed" brings it back after each client.
    """

    paper: ClassVar[str] = "Li and Lyu 2023, arXiv 2302.01633"
    shape: ClassVar[str] = "chain"

    cut: int = ranged(0, 10_000, default=1)
    labels: Literal["server", "client"] = "server"
    fraction: float = ranged(0, 1, default=1.0, open_low=True)
    local_steps: int = ranged(1, 100_000, default=5, tune=(5, 20, 80))
    lr: float = ranged(0, 100, default=0.03, open_low=True, tune=(0.01, 0.03, 0.1))
    batch_size: int = ranged(1, 1_000_000, default=16)
    clip_norm: float | None = None
    clip: Literal["halves", "global"] = "halves"
    order: Orderer = part(orderer, RandomReshuffle())
    hops: Literal["direct", "relayed"] = "direct"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels == "client" and self.clip == "global":
            raise ScenarioError("SequentialSplit(labels='client', clip='global'): allowed is clip='halves' with labels at the client")

    def init(self, server: Node, x: Params) -> State:
        self.split(x)  # refuses a cut outside the model before anything runs
        return {"x": x, "order": None, "t": 0}

    def round(self, server: Node, s: State) -> State:
        N, x = server.clients, s["x"]
        pi, order = self.order.next(N, s["order"], server.rng("order", s["t"]))
        P = pi[: max(1, round(self.fraction * len(N)))]
        for chain in [P] if self.hops == "direct" and P else [[n] for n in P]:
            x = self.passed_along(server, chain, x)
        server.report(round=s["t"], model=x)
        return {"x": x, "order": order, "t": s["t"] + 1}

    def passed_along(self, server: Node, chain: list[str], x: Params) -> Params:
        wc, ws = map(server.put, self.split(x))
        for n in chain:
            for _ in range(self.local_steps):
                wc, ws = self.step(server, n, wc, ws)
        came, _, _ = server.first([wc], 1)
        return joined(*server.fetch(wc).values(), server.fetch(ws)) if came else x

    def step(self, server: Node, n: str, wc: Ref, ws: Ref) -> tuple[Ref, Ref]:
        """One batch. Nothing is waited for here: each call starts when what it needs is there."""
        up = server.call(self.forward, n, wc)
        if self.labels == "server":
            down = server.call(self.serve, server.name, ws, up["sent"])
        else:
            mid = server.call(self.middle, server.name, ws, up["sent"])
            top = server.call(self.head, n, wc, up["y"], mid["h"])
            down, wc = server.call(self.back, server.name, mid["tape"], top["g"]), top["w"]
        new = server.call(self.backward, n, wc, up["tape"], down["sent"])
        return new["w"], server.call(self.moved, server.name, ws, down["d"], *([new["square"]] if self.clip == "global" else []))

    def forward(self, here: Here, wc: dict[str, Params | None]) -> dict[str, Any]:
        batch = here.batch(self.batch_size)
        a, tape = forward_kept(here, wc["low"], batch.x)
        y = packed(batch)
        return {"sent": {"a": a, "y": y} if self.labels == "server" else {"a": a}, "y": y, "tape": tape}

    def serve(self, here: Here, ws: Params | None, sent: dict[str, Any]) -> dict[str, Any]:
        out, tape = forward_kept(here, ws, sent["a"])
        return self.back(here, tape, output_gradient(here, out, sent["y"]))

    def back(self, here: Here, tape: Any, g: Any) -> dict[str, Any]:
        d, g = backward_kept(here, tape, g, is_first=self.cut == 0)  # at w_s as it was
        return {"d": d, "sent": {"g": g, "square": square(d)} if self.clip == "global" else {"g": g}}

    def backward(self, here: Here, wc: dict[str, Params | None], tape: Any, sent: dict[str, Any]) -> dict[str, Any]:
        d, _ = backward_kept(here, tape, sent["g"], is_first=True)
        return {"w": wc | {"low": self.moved(here, wc["low"], d, sent.get("square", 0.0))}, "square": square(d)}

    def moved(self, here: Here, w: Params | None, d: Params | None, other: Any = 0.0) -> Params | None:
        """A step along d, clipped by its own norm, or by that of both halves."""
        if w is None or d is None:
            return w
        return SGD().step(w, clipped(d, self.clip_norm, other), None, lr=self.lr)[0]

    def middle(self, here: Here, ws: Params | None, sent: dict[str, Any]) -> dict[str, Any]:
        h, tape = forward_kept(here, ws, sent["a"])
        return {"h": h, "tape": tape}

    def head(self, here: Here, wc: dict[str, Params | None], y: Any, h: Any) -> dict[str, Any]:
        out, tape = forward_kept(here, wc["head"], h)
        d, g = backward_kept(here, tape, output_gradient(here, out, y))
        return {"w": wc | {"head": self.moved(here, wc["head"], d)}, "g": g}

    def split(self, x: Params) -> tuple[dict[str, Params | None], Params | None]:
        """What the clients hold, and what the server holds."""
        if self.labels == "server":
            low, ws = pieces(x, self.cut)
            return {"low": low}, ws
        low, ws, head = pieces(x, self.cut, len(x.spec.layers) - 1)
        return {"low": low, "head": head}, ws
