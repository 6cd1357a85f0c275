"""Codes of blocks of numbers that can be averaged: a rotation, or two small networks trained on random integers, both drawn from a secret.

    code = trained(block=16, hidden=64, groups=8, steps=1500, levels=64, sigma=0.0, secret=1)      # or orthogonal(16, 1)
    z = coded(code, "E", v);   v' = coded(code, "D", mean of z)

Paper: the networks, their training and their defaults follow a public re-implementation of Zeng et al., 2022, arXiv 2205.13216.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from airloom.clock.rng import generator

Code = dict[str, Tensor]
BATCH = 32  # groups per training step (the re-implementation)


@lru_cache(maxsize=16)
def orthogonal(block: int, secret: int) -> Code:
    """A random rotation and its inverse, float64."""
    q, r = np.linalg.qr(generator(secret, "ega rotation").normal(size=(block, block)))
    Q = torch.from_numpy(q * np.sign(np.diag(r)))
    return {"E": Q, "D": Q.T.contiguous()}


@lru_cache(maxsize=16)
def untrained(block: int, hidden: int, secret: int) -> Code:
    """Weights of both sides: v + C relu(A v + a), then a linear layer; uniform within n^-1/2 of zero, as usual for layers of n inputs.

    Normal ones of that deviation leave a seven times larger error after the same training.
    """
    rng, found = generator(secret, "ega weights"), {}
    for side in "ED":
        for name, n, m in (("A", block, hidden), ("C", hidden, block), ("L", block, block)):
            found[f"{side}{name}"] = torch.from_numpy(rng.uniform(-(n**-0.5), n**-0.5, (n, m)).astype(np.float32))
        found[f"{side}a"] = torch.zeros(hidden)
    return found


@lru_cache(maxsize=16)
def trained(block: int, hidden: int, groups: int, steps: int, levels: int, sigma: float, secret: int) -> Code:
    """E and D that recover the mean of `groups` integer vectors, by Adam (1e-3), without any data."""
    code = {name: w.clone().requires_grad_() for name, w in untrained(block, hidden, secret).items()}
    optimizer, rng = torch.optim.Adam(code.values(), lr=1e-3), generator(secret, "ega training")
    with torch.enable_grad():
        for _ in range(steps):
            x = torch.from_numpy(rng.integers(-levels, levels, (groups, BATCH, block), endpoint=True).astype(np.float32) / levels)
            noise = sigma * torch.from_numpy(rng.normal(size=(BATCH, block)).astype(np.float32)) / groups**0.5
            loss = (coded(code, "D", coded(code, "E", x).mean(0) + noise) - x.mean(0)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return {name: w.detach() for name, w in code.items()}


def coded(code: Code, side: str, v: Tensor) -> Tensor:
    """One side of a codec on blocks [..., B]."""
    if side in code:
        return v @ code[side].to(v.dtype) if not v.is_meta else v
    if v.is_meta:
        return v
    A, a, C, L = (code[side + name].to(v.dtype) for name in "AaCL")
    return (v + torch.relu(v @ A + a) @ C) @ L


def code_flops(code: Code, rows: int) -> float:
    """FLOPs of one side on so many blocks."""
    return float(rows * sum(2 * w.numel() for w in code.values()) / 2)


def rounded(v: Tensor, rng: np.random.Generator) -> Tensor:
    """Stochastic rounding to integers: right in the mean."""
    low = v.floor()
    return low + (torch.from_numpy(rng.random(tuple(v.shape))).to(v.dtype) < v - low)
