"""EGA: clients send codes of their updates; the server averages codes, and what decodes the average learns the mean update and no single one.

    each client i:  v_i = M p_i u_i;  n = max over all clients of |v_i|                                (one number up, one down)
                    q = stochastic_round(v_i s / n) in blocks of B;   z_i = E(q) + noise_i
    server:         zbar = mean_i z_i;    at the decoder:  mean update = D(zbar) n / s
    E, D:           "orthogonal": E(q) = Q q, D = Q';    "trained": two networks, from a secret seed,
                    min | D(mean_i E(x_i) + noise) - mean_i x_i |^2 over groups of integer vectors
    noise:          sigma N(0, 1) of each client's own, or "zero_sum": noises of pairs of clients that cancel in the mean

Paper: Zeng, Liu, Liang et al., "Encoded Gradients Aggregation against Gradient Leakage in Federated Learning", 2022, arXiv 2205.13216, after a public
re-implementation; reconstructed where that is silent: noise, who decodes, the orthogonal codec, which is the oracle of the whole path.
Left out: scales per block, codes of fewer bits, a mean the server never sees. With real data clients agree on a `secret` of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from airloom.clock.rng import generator
from airloom.models.params import Params
from airloom.parts.blockcode import BATCH, Code, code_flops, coded, orthogonal, rounded, trained, untrained
from airloom.program.here import Here
from airloom.program.method import ranged
from airloom.program.node import Node
from airloom.program.protection import OfSums
from airloom.program.ref import Ref
from airloom.program.tree import leaves, map_leaves


@dataclass(frozen=True, kw_only=True)
class EGA(OfSums):
    """Encoded aggregation for any method with the field `protect`: `FedAvg(protect=EGA())`.

    Arguments:
        codec: "orthogonal" (ours, exact but for rounding), or "trained".
        block: B, values that are coded together (256 in the re-implementation; 16, ours, trains in seconds).
        levels: s, integers from -s to s (64); 0 codes values as they are, for the rotation alone (ours, for tests of the path).
        bound: n as everybody knows it, larger values are clipped: nobody tells its largest one, and a round trip is spared; 0: the largest.
        sigma: deviation of the noise on codes, in units of n (without levels, in those of the values).
        noise: "own" of each client, or "zero_sum".
        decoder: one of the "clients" (the server then cannot read a code), or the "server".
        secret: what the clients share and the server does not know: the codec and pairs' noises are drawn from it.
        hidden, groups, steps: of the trained codec: width, vectors per group (good for about so many participants), training steps.
    """

    codec: Literal["orthogonal", "trained"] = "orthogonal"
    block: int = ranged(1, 4096, default=16)
    levels: int = ranged(0, 1_000_000, default=64)
    bound: float = ranged(0, 1e9, default=0.0)
    sigma: float = ranged(0, 1e3, default=0.0)
    noise: Literal["own", "zero_sum"] = "own"
    decoder: Literal["clients", "server"] = "clients"
    secret: int = ranged(0, 2**62, default=0)
    hidden: int = ranged(1, 8192, default=64)
    groups: int = ranged(1, 1000, default=8)
    steps: int = ranged(1, 1_000_000, default=1500)

    def seal(self, node: Node, refs: Sequence[Ref], weights: Sequence[float] | None, about: Any = None, over: Any = None) -> list[Ref]:
        self.check_mean(over)
        p = [1.0] * len(refs) if weights is None else [float(w) for w in weights]
        total = sum(p)
        v = node.map(self.weighed, [r.place for r in refs], about, each=[(r, len(refs) * p_i / total) for r, p_i in zip(refs, p, strict=True)])
        late = [] if self.bound else node.first([r["most"] for r in v], len(v))[2]
        there = [i for i, r in enumerate(v) if r["most"] not in late]
        n = (self.bound or max(node.fetch([v[i]["most"] for i in there]), default=0.0)) if self.levels else 1.0
        names = [v[i].place for i in there]
        nonce = int(node.rng("ega", node.now_s).integers(2**62))  # of this exchange
        z = node.map(self.encoded, names, n, names, nonce, each=[(v[i], p[i] / total) for i in there])
        coded_by = dict(zip(there, z, strict=True))
        return [coded_by.get(i, r) for i, r in enumerate(refs)]

    def reduce(self, node: Node, refs: Sequence[Ref], weights: Sequence[float] | None, like: Any, over: Any = None) -> Any:
        late = node.first(refs, len(refs))[2]
        if not (came := [r for r in refs if r not in late]):
            return map_leaves(lambda leaf: leaf * 0 if not isinstance(leaf, str | None) else leaf, like)
        codes = node.fetch(came)
        zbar = node.reduce([r["code"] for r in came])
        place = came[0].place if self.decoder == "clients" else node.name
        # of those that came: mean of M p_i u_i times |S| / (M sum p_i) is their weighted mean
        factor = len(came) / (len(refs) * sum(c["share"] for c in codes))
        got = node.first([node.call(self.decoded, place, zbar, codes[0]["scale"])], 1)[0]
        values = factor * node.fetch(got[0]) if got else None
        return _spread(values, like, is_about=codes[0]["is_about"])

    def weighed(self, here: Here, about: Any, value: Any, weight: float) -> dict[str, Any]:
        """At a client: its update times M p_i, as one vector, and its largest entry."""
        flats = [(leaf - about if about is not None else leaf).flat for _, leaf in leaves(value) if isinstance(leaf, Params)]
        v = (torch.cat(flats) * weight).clamp(-(self.bound or torch.inf), self.bound or torch.inf)
        zeros = {} if isinstance(value, Params) else {k: None if isinstance(leaf, Params | None) else 0.0 for k, leaf in value.items()}
        return {"v": v, "most": v.abs().max().double(), "zeros": zeros, "is_about": about is not None}

    def encoded(self, here: Here, n: float, names: list[str], nonce: int, v: dict[str, Any], share: float) -> dict[str, Any]:
        """At a client: the code of its vector; numbers beside models do not leave it."""
        rows = -(-len(v["v"]) // self.block)
        q = torch.nn.functional.pad(v["v"], (0, rows * self.block - len(v["v"]))).view(rows, self.block)
        codec = self.codec_of(here)
        here.cost(flops=code_flops(codec, rows))
        if self.levels and not q.is_meta:
            q = rounded(q * (self.levels / max(n, 1e-300)), here.rng("ega round", nonce)) / self.levels
        z = coded(codec, "E", q)
        if self.sigma and not z.is_meta:
            z = z + self.sigma * self.masks(here, names, tuple(z.shape), nonce).to(z.dtype)
        return {**v["zeros"], "code": z, "scale": n, "share": share, "is_about": v["is_about"]}

    def decoded(self, here: Here, zbar: Tensor, n: float) -> Tensor:
        """At the decoder: the mean update as one vector, with its padding."""
        codec = self.codec_of(here)
        here.cost(flops=code_flops(codec, len(zbar)))
        return coded(codec, "D", zbar).reshape(-1) * n

    def masks(self, here: Here, names: list[str], shape: tuple[int, ...], nonce: int) -> Tensor:
        """Noise of this client, of deviation 1; of pairs: drawn by both from one stream, with opposite signs."""
        if self.noise == "own":
            return torch.from_numpy(here.rng("ega noise", nonce).normal(size=shape))
        total = np.zeros(shape)
        for other in names:
            if other != here.name:
                pair = generator(self.secret, "ega pair", *sorted((here.name, other)), nonce).normal(size=shape)
                total += pair if here.name < other else -pair
        return torch.from_numpy(total / max(len(names) - 1, 1) ** 0.5)

    def codec_of(self, here: Here) -> Code:
        """E and D; a place trains its own once, from the secret alone, and pays for it then."""
        if self.codec == "trained" and "ega" not in here.state:
            here.state["ega"] = True
            here.cost(flops=3.0 * self.steps * BATCH * (self.groups + 1) * code_flops(untrained(self.block, self.hidden, self.secret), 1))
        if self.codec == "orthogonal":
            return orthogonal(self.block, self.secret)
        return trained(self.block, self.hidden, self.groups, self.steps, max(self.levels, 1), self.sigma, self.secret)


def _spread(values: Tensor | None, like: Any, *, is_about: bool) -> Any:
    """One vector as the models of `like`, which it changes where it holds differences to them; without values, no change."""
    start = 0

    def take(leaf: Any) -> Any:
        nonlocal start
        if not isinstance(leaf, Params):
            return leaf * 0 if isinstance(leaf, int | float) else leaf
        part = leaf.flat * 0 if values is None else values[start : start + len(leaf)].to(leaf.flat.dtype)
        start += len(leaf)
        return Params(leaf.spec, leaf.flat + part if is_about else part)

    return map_leaves(take, like)
