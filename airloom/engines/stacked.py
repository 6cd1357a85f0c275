"""The executor that trains many devices as one: for GPUs, where one small model at a time leaves the hardware idle.

Each call of a set runs in a greenlet of its own until it trains. When all of them have come so far, or to their end, the training calls of one kind
run together (see `airloom.models.stacked`), and the calls go on. Which calls are together follows from the order of the set alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, final

import torch
from greenlet import getcurrent, greenlet

from airloom.engines.executors import Executor, Job, Loop, Result, run_job
from airloom.models.batch import Batches
from airloom.models.device import Request, on_device
from airloom.models.fast import Fast
from airloom.models.params import Params
from airloom.models.stacked import NotStacked, key, train_together
from airloom.models.step import Options, Raw
from airloom.network.network import Network
from airloom.program.here import Here
from airloom.tasks.task import Task

WIDTH = 32  # calls that may train as one (ours: a model of 1 MB and its gradients stay in a GPU's cache)
_TRIES = 3  # of each way, the first of which is not counted


@final
class Stacked(Executor):
    """Runs the training calls of a set as one, on a device."""

    name = "stacked"

    def __init__(self, network: Network, task: Task, seed: int, fast: Fast, device: torch.device) -> None:
        self.network = network
        self.task = task
        self.seed = seed
        self.fast = fast
        self.device = device

    def run(self, jobs: Sequence[Job]) -> list[Result]:
        return [result for start in range(0, len(jobs), WIDTH) for result in self._together(jobs[start : start + WIDTH])]

    def _together(self, jobs: Sequence[Job]) -> list[Result]:
        def ask(x: Params, batches: Batches, options: Options) -> Raw:
            return getcurrent().parent.switch(Request(x, batches, options))  # type: ignore[union-attr]

        lanes = [greenlet(partial(run_job, job, self.network, self.task, self.seed, ask)) for job in jobs]
        with torch.no_grad():  # the mode belongs to the thread: calls that take turns must all find it as they left it
            said: list[Any] = [lane.switch() for lane in lanes]
            while any([isinstance(answer, Request) for answer in said]):
                asking = [i for i, answer in enumerate(said) if isinstance(answer, Request)]
                for i, raw in zip(asking, self.trained([said[i] for i in asking]), strict=True):
                    said[i] = lanes[i].throw(raw) if isinstance(raw, BaseException) else lanes[i].switch(raw)
        return said

    def trained(self, requests: Sequence[Request]) -> list[Raw | BaseException]:
        """Training calls, those of one kind as one; what fails for one call is its own."""
        groups: dict[object, list[int]] = {}
        for i, request in enumerate(requests):
            try:
                kind: object = key(request)
            except NotStacked as reason:
                self.fast.fallbacks[f"{request.x.spec.name}: not stacked: {reason}"] = None
                kind = i
            groups.setdefault(kind, []).append(i)
        found: dict[int, Raw | BaseException] = {}
        for group in groups.values():
            try:
                if len(group) > 1:
                    found |= zip(group, train_together([requests[i] for i in group], self.device), strict=True)
                    continue
            except NotStacked as reason:
                self.fast.fallbacks[f"{requests[group[0]].x.spec.name}: not stacked: {reason}"] = None
            for i in group:
                try:
                    found[i] = on_device(self.fast, self.device, requests[i])
                except Exception as error:  # the call's own: its text may expect it
                    found[i] = error
        return [found[i] for i in range(len(requests))]


def chosen(network: Network, task: Task, seed: int, fast: Fast, device: torch.device) -> Executor:
    """`Loop` or `Stacked`, whichever trains the task's model faster on its clients' rows; tried before the run, since it decides the last digits."""
    executors: list[Executor] = [Loop(network, task, seed, fast, device), Stacked(network, task, seed, fast, device)]
    x = task.model.initial(seed)
    jobs = [Job(i, _probe, "probe", name, (x,), {}, 0, 0.0) for i, name in enumerate(list(task.shards)[:WIDTH])]
    took = [math.inf, math.inf]
    for k in range(_TRIES):
        for i, executor in enumerate(executors):
            began_s = time.perf_counter()
            results = executor.run(jobs)
            if k:
                took[i] = min(took[i], time.perf_counter() - began_s)
            if any([result.error is not None for result in results]):
                return executors[0]
    return executors[took[1] < took[0]]


def _probe(here: Here, x: Params) -> Params:
    return here.train(x, steps=4, lr=1e-3, batch_size=16)
