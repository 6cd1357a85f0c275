"""A scenario: the world that methods are compared in. Networks, data and model for one seed, and the fields that suit each method there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from airloom.errors import ScenarioError
from airloom.network.network import Network
from airloom.tasks.task import Task

BUDGETS = ("seconds", "bytes", "joules", "rounds")


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One world: who is there, how they are linked, what they learn from.

    Arguments:
        name: shown in records.
        network: places, links, physics.
        task: data per device, model, objective, metrics.
        suited: fields of methods that suit this world, by method name; found with `--tune`, see the scenario's page.
        target: (metric, value) that a comparison asks for by default.
        budget: where runs end by default, any of seconds, bytes, joules, rounds.
        seed: the world's seed: partition, fleet, positions and channels vary with it.
        fields: how it was made, for records.
    """

    name: str
    network: Network
    task: Task
    suited: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    target: tuple[str, float] | None = None
    budget: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    fields: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what, thing, kind in (("network", self.network, Network), ("task", self.task, Task)):
            if not isinstance(thing, kind):
                raise ScenarioError(f"Scenario.{what}: got {type(thing).__name__}; allowed is an airloom {kind.__name__}")
        for name, amount in self.budget.items():
            if name not in BUDGETS or not amount > 0:
                raise ScenarioError(f"Scenario.budget[{name!r}]: got {amount!r}; allowed are positive amounts of {', '.join(BUDGETS)}")
        for name in self.network.clients(self.network.root):
            if self.task.samples(name) == 0:
                raise ScenarioError(f"Scenario.task: client '{name}' has no data; give every client a shard, or leave it out of the network")
