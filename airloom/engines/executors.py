"""Executors run sets of independent calls. They decide nothing but where the numbers are computed."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from airloom.errors import ScenarioError
from airloom.models.device import CPU, Placed, torch_device
from airloom.models.fast import OFF, Fast
from airloom.models.params import Params
from airloom.models.train import Trainer
from airloom.network.device import Work
from airloom.network.network import Network
from airloom.program.codec import Code, coded
from airloom.program.here import Here
from airloom.program.tree import Path
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


class Spent(NamedTuple):
    """What a call really cost: its work, declared seconds, peak bytes and samples drawn; bytes on the wire of the leaves that a codec encodes;
    joules beside those of the device's power, and what the call is billed."""

    work: Work
    declared_s: float
    peak_bytes: float
    drawn: int
    coded: Mapping[Path, int] = MappingProxyType({})
    declared_j: float = 0.0
    price: float = 0.0


class Result(NamedTuple):
    """What a call made: its value, its state changes, and what it really cost. `error` is what it raised, if anything.

    `sent` are the leaves that other places get instead of the value's own, by path, `codes` what crosses a link for them (see
    `airloom.program.codec`).
    """

    value: Any
    changes: dict[str, Any]
    spent: Spent | None
    error: BaseException | None = None
    sent: Mapping[Path, Params] = MappingProxyType({})
    codes: Mapping[Path, Code] = MappingProxyType({})


class Executor(ABC):
    """Runs independent calls; results come back in the order of the jobs."""

    name: str
    fast: Fast

    @abstractmethod
    def run(self, jobs: Sequence[Job]) -> list[Result]:
        """Run the jobs."""

    def close(self) -> None:
        """Let go of processes and memory."""
        return


class Loop(Executor):
    """One call after the other in this process; the default on one core."""

    name = "loop"

    def __init__(self, network: Network, task: Task, seed: int, fast: Fast = OFF, device: torch.device = CPU) -> None:
        self.network = network
        self.task = task
        self.seed = seed
        self.fast = fast
        self.trainer = fast if device == CPU else Placed(fast, device)

    def run(self, jobs: Sequence[Job]) -> list[Result]:
        return [run_job(job, self.network, self.task, self.seed, self.trainer) for job in jobs]


@cache
def own_rung() -> Fast:
    """What this machine trains with where no run has chosen: on real machines each takes its own."""
    return Fast("auto")


def run_job(job: Job, network: Network, task: Task, seed: int, trainer: Trainer | None = None) -> Result:
    """Run one call's numerics; what it raises comes back in the result."""
    place = network.places[job.place]
    here = Here(
        name=job.place, device=place.device, facts=place.facts, start_s=job.start_s, state=job.state, task=task, drawn=job.drawn, seed=seed,
        trainer=own_rung() if trainer is None else trainer,
    )  # fmt: skip
    try:
        with torch.no_grad():
            value = job.fn(here, *job.args)
            codes: dict[Path, Code] = {}
            sent, sizes = coded(here, job.fn, job.args, value, codes)
        return Result(value, here.state.changes, spent(here, job.drawn, sizes), sent=sent, codes=codes)
    except Exception as error:  # reported by the engine with method, device, round and verb
        return Result(None, {}, None, error)


def spent(here: Here, drawn_before: int, sizes: Mapping[Path, int]) -> Spent:
    """What a call has cost, read off its `here`; `sizes` are those of encoded leaves."""
    return Spent(here.work(), here.declared_s, float(here.spent.peak_bytes), here.drawn - drawn_before, sizes, here.declared_j, here.price)


def make_executor(
    name: str, workers: int | None, network: Network, task: Task, seed: int, method: Any, fast: Fast = OFF, device: str = "cpu"
) -> Executor:
    """The executor called `name`: "loop", "pool", "stacked", or "auto".

    "auto" is a pool where this machine has processes to spare, and on a GPU the faster one of loop and stacked.

    Arguments:
        workers: processes of a pool; None: one per core.
        fast: how training steps run.
        device: the torch device on which they run.
    """
    if name not in ("auto", "loop", "pool", "stacked"):
        raise ScenarioError(f"executor {name!r}: allowed are auto, loop, pool, stacked")
    if workers is not None and workers < 1:
        raise ScenarioError(f"workers={workers}: allowed are integers >= 1")
    place = torch_device(device)
    can_fork = os.name == "posix"
    if name == "pool" and (not can_fork or place != CPU):
        why = f"its processes cannot share device {device!r}" if can_fork else "this system cannot fork processes"
        raise ScenarioError(f"executor 'pool': {why}; use executor loop or stacked")
    if name == "stacked" or (name == "auto" and place != CPU):
        from airloom.engines.stacked import Stacked, chosen

        return Stacked(network, task, seed, fast, place) if name == "stacked" else chosen(network, task, seed, fast, place)
    affinity = getattr(os, "sched_getaffinity", None)  # cores that this process may use; not on every system
    count = workers or (len(affinity(0)) if affinity is not None else os.cpu_count() or 1)
    if name == "loop" or (name == "auto" and (count < 2 or not can_fork)):
        return Loop(network, task, seed, fast, place)
    from airloom.engines.pool import Pool

    return Pool(network, task, seed, method, count, fast)
