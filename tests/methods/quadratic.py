"""Least squares with a known optimum: clients with F_i(w) = mean over their rows of (a.w - b)^2 / 2, full gradients, float64; and runs of methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import nn

from airloom.engines.simnode import SimNode
from airloom.engines.simulated import Simulation
from airloom.models.module import ModelSpec, model
from airloom.models.objective import MeanSquaredError
from airloom.models.params import Params
from airloom.network.network import Network
from airloom.program.method import Method, State
from airloom.tasks.datasets import Dataset
from airloom.tasks.task import Task
from tests.worlds import play

Rows = tuple[np.ndarray, np.ndarray]  # A (n, d) and b (n,): F(w) = |A w - b|^2 / (2 n)


@lru_cache
def linear(parameters: int) -> ModelSpec:
    """w -> a.w, in float64."""
    return model(lambda: nn.Linear(parameters, 1, bias=False), dtype=torch.float64)


def least_squares(rows: Mapping[str, Rows]) -> Task:
    """A task in which each client holds its own rows; a batch of as many rows as it holds gives the full gradient."""
    A = np.concatenate([a for a, _ in rows.values()]).astype(np.float64)
    b = np.concatenate([t for _, t in rows.values()]).astype(np.float64)[:, None]
    ends = np.cumsum([len(t) for _, t in rows.values()])
    shards = {name: np.arange(end - len(t), end) for (name, (_, t)), end in zip(rows.items(), ends, strict=True)}
    none = slice(0, 0)
    data = Dataset(
        name="least squares", x_train=A, y_train=b, x_validation=A[none], y_validation=b[none], x_test=A.copy(), y_test=b.copy(), classes=0,
        kind="regression", source="made",
    )  # fmt: skip
    return Task(name="least squares", dataset=data, model=linear(A.shape[1]), shards=shards, objective=MeanSquaredError(scale=0.5))


def random_rows(names: list[str], *, n: int = 4, d: int = 3, seed: int = 0) -> dict[str, Rows]:
    """Every client has its own curvature and its own optimum; curvatures lie below 1."""
    rng = np.random.default_rng(seed)
    found = {}
    for name in names:
        A = rng.normal(size=(n, d))
        A *= np.sqrt(n / np.linalg.norm(A.T @ A, 2))
        found[name] = A, A @ rng.normal(size=d) + rng.normal(size=n)
    return found


def hessian(rows: Rows) -> np.ndarray:
    """A'A / n."""
    return rows[0].T @ rows[0] / len(rows[1])


def gradient(rows: Rows, w: np.ndarray) -> np.ndarray:
    """A'(A w - b) / n."""
    A, b = rows
    return A.T @ (A @ w - b) / len(b)


def optimum(rows: list[Rows]) -> np.ndarray:
    """Where the mean of the clients' gradients vanishes."""
    return np.linalg.solve(sum(hessian(r) for r in rows), sum(r[0].T @ r[1] / len(r[1]) for r in rows))


@dataclass
class Course:
    """A run: states and stamps after each round (first: before the first), and the simulation at its end."""

    sim: Simulation
    states: list[State]
    stamps: list[dict[str, float]]

    @property
    def x(self) -> torch.Tensor:
        """The last model's values."""
        return self.states[-1]["x"].flat

    def spent(self, round_number: int) -> dict[str, float]:
        """What one round cost."""
        return {name: self.stamps[round_number + 1][name] - self.stamps[round_number][name] for name in self.stamps[0]}

    def state(self, client: str, key: str) -> torch.Tensor:
        """Values that a client keeps."""
        return self.sim.sites[client].state[key].flat


def run(
    network: Network, task: Task, method: Method, rounds: int, *, start: list[float] | None = None, seed: int = 0,
    reports: list[dict[str, Any]] | None = None,
) -> Course:  # fmt: skip
    """Play rounds of a method as the runner does; what it reports is added to `reports`."""
    x = task.model.initial(seed) if start is None else Params(task.model, torch.tensor(start, dtype=task.model.dtype))
    states: list[State] = []
    stamps: list[dict[str, float]] = []

    def text(node: SimNode) -> Any:
        states.append(method.init(node, x))
        stamps.append(node.sim.stamp())
        for _ in range(rounds):
            states.append(method.round(node, states[-1]))
            node.sim.end_round()
            stamps.append(node.sim.stamp())

    done = play(network, text, seed=seed, task=task)
    if reports is not None:
        reports += done.reports
    return Course(done.sim, states, stamps)
