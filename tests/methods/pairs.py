"""Worlds for methods that train LoRA pairs: least squares behind a pair, and digits behind two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

import torch
from torch import nn

from airloom.models import zoo
from airloom.models.lora import lora
from airloom.models.module import ModelSpec, model
from airloom.network.network import Network
from airloom.tasks import TaskSettings, make_task
from airloom.tasks.task import Task
from tests.methods.hand import targets


@lru_cache
def scalar(rank: int) -> ModelSpec:
    """w -> s B A w with W0 = 0, s = 1: A is [r, 1], B is [1, r]; the vector is A, then B."""
    base = model(lambda: nn.Linear(1, 1, bias=False), dtype=torch.float64)
    return lora(base, rank=rank, values=base.zeros())


def pair_targets(clients: Mapping[str, tuple[int, float]], rank: int) -> Task:
    """Clients with F_n = (w - c_n)^2 / 2 where w = s (r / k) B_I A_I."""
    return replace(targets(clients), model=scalar(rank))


@lru_cache
def digits(names: str, rank: int = 8) -> Task:
    """Digits, dealt evenly, for a small network with pairs in both layers."""
    base = zoo.mlp(inputs=64, hidden=(12,), classes=10)
    spec = lora(base, rank=rank, alpha=2.0 * rank, values=base.initial(0))
    return make_task(TaskSettings(dataset="digits", limit=300, partition="iid"), list(names), seed=0, model=spec)


def with_ranks(network: Network, budgets: Mapping[str, object]) -> Network:
    """The network with the fact "rank" declared for some places."""
    places = {name: replace(place, facts={"rank": budgets[name]} if name in budgets else {}) for name, place in network.places.items()}
    return replace(network, places=places)


def moved_rows(spec: ModelSpec, before: torch.Tensor, after: torch.Tensor) -> dict[str, tuple[set[int], set[int]]]:
    """Per pair the rank rows of A, and the columns of B, that are not bit for bit what they were."""
    old, new = spec.params(before).named(), spec.params(after).named()
    found = {}
    for pair in spec.pairs:
        a, b = spec.pair_leaves(pair)
        found[pair] = (
            set((old[a] != new[a]).any(1).nonzero().flatten().tolist()),
            set((old[b] != new[b]).any(0).nonzero().flatten().tolist()),
        )
    return found
