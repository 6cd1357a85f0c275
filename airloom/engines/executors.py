"""Executors run sets of independent calls. They decide nothing but where the numbers are computed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from airloom.engines.price import Price
from airloom.network.network import Network
from airloom.program.here import Here
from airloom.tasks.task import Task


class Job(NamedTuple):
    """One call with everything its numerics need: arguments and state as values, and where its draws begin."""

    number: int
    fn: Callable[..., Any]
    name: str
    place: str
    args: tuple[Any, ...]
    state: Mapping[str, Any]
    drawn: int
    start_s: float
    expects: Any  # meta tree of the result, or None where it is not known


class Result(NamedTuple):
    """What a call made: its value, its state changes, and what it really cost. `error` is what it raised, if anything."""

    value: Any
    changes: dict[str, Any]
    price: Any
    error: BaseException | None = None


class Executor(ABC):
    """Runs independent calls; results come back in the order of the jobs."""

    name: str

    @abstractmethod
    def run(self, jobs: Sequence[Job]) -> list[Result]:
        """Run the jobs."""

    def close(self) -> None:
        """Let go of processes and memory."""
        return


class Loop(Executor):
    """One call after the other in this process; the default on one core."""

    name = "loop"

    def __init__(self, network: Network, task: Task, seed: int) -> None:
        self.network = network
        self.task = task
        self.seed = seed

    def run(self, jobs: Sequence[Job]) -> list[Result]:
        return [run_job(job, self.network, self.task, self.seed) for job in jobs]


def run_job(job: Job, network: Network, task: Task, seed: int) -> Result:
    """Run one call's numerics.

    >>> run_job.__name__
    'run_job'
    """
    place = network.places[job.place]
    here = Here(
        name=job.place, device=place.device, facts=place.facts, start_s=job.start_s, state=job.state, task=task, drawn=job.drawn, seed=seed
    )  # fmt: skip
    try:
        with torch.no_grad():
            value = job.fn(here, *job.args)
        return Result(value, here.state.changes, Price(here, value, job.drawn))
    except Exception as error:  # reported by the engine with method, device, round and verb
        return Result(None, {}, None, error)


def make_executor(name: str, workers: int | None, network: Network, task: Task, seed: int, method: Any) -> Executor:
    """The executor called `name` ("auto", "loop", "pool")."""
    from airloom.errors import ScenarioError

    if name in ("loop", "auto"):
        return Loop(network, task, seed)
    raise ScenarioError(f"executor {name!r}: allowed are auto, loop, pool")
