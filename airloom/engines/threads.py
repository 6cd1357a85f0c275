"""Places of one machine: a program's calls run in threads, on measured time. What an assistant's text needs to answer real requests.

A place is its resident endpoint; a link is whatever lies between this machine and that endpoint. Left out: programs at other places, `reduce`,
`estimate`, and everything about networks: those belong to simulated and distributed engines.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np

from airloom.clock.rng import generator
from airloom.errors import DeviceLost, Unsupported
from airloom.network.network import Network
from airloom.program.here import Here
from airloom.program.node import Estimate, Node, OnLoss, Snapshot
from airloom.program.ref import Ref
from airloom.program.tree import at, map_leaves
from airloom.tasks.requests import Request
from airloom.tasks.task import Task


class ThreadRef(Ref):
    """The value of a call, or a part of it."""

    __slots__ = ("path", "where", "work")

    def __init__(self, where: str, work: Future[tuple[Any, float, float]], path: tuple[Any, ...] = ()) -> None:
        self.where = where
        self.work = work
        self.path = path

    @property
    def place(self) -> str:
        return self.where

    @property
    def started_s(self) -> float | None:
        return self.work.result()[1] if self.work.done() and self.work.exception() is None else None

    @property
    def made_s(self) -> float | None:
        return self.work.result()[2] if self.work.done() and self.work.exception() is None else None

    @property
    def arrived_s(self) -> float | None:
        return self.made_s

    def __getitem__(self, key: Any) -> ThreadRef:
        return ThreadRef(self.where, self.work, (*self.path, key))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ThreadRef) and other.work is self.work and other.path == self.path

    def __hash__(self) -> int:
        return hash((id(self.work), self.path))


class ThreadWorld:
    """What all requests share: places, their state, threads, bills and the clock.

    Arguments:
        network, task: from the scenario; `task.residents` are the endpoints.
        seed: names random streams.
        workers: calls at once.
        state: what a place keeps from before, such as a trained policy. Calls change it at their end; of two that overlap the later end counts.
    """

    def __init__(self, network: Network, task: Task, seed: int, workers: int, state: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self.network = network
        self.task = task
        self.seed = seed
        self.pool = ThreadPoolExecutor(workers, thread_name_prefix="airloom-call")
        self.began_s = time.monotonic()
        self.state = {name: dict(kept) for name, kept in (state or {}).items()}
        self.price = 0.0
        self.joules = 0.0
        self.lock = threading.Lock()

    @property
    def now_s(self) -> float:
        """Seconds since the world began."""
        return time.monotonic() - self.began_s

    def run(self, fn: Callable[..., Any], where: str, args: tuple[Any, ...]) -> tuple[Any, float, float]:
        """Run a device function once its arguments are there; charge what it declares."""
        given = map_leaves(_value, args)
        started_s = self.now_s
        place = self.network.places[where]
        with self.lock:
            before = dict(self.state.get(where) or {})
        here = Here(
            name=where, device=place.device, facts=place.facts, start_s=started_s, state=dict(before), task=self.task, drawn=0, seed=self.seed
        )  # fmt: skip
        value = fn(here, *given)
        ended_s = self.now_s
        changed = {key: kept for key, kept in here.state.items() if key not in before or kept is not before[key]}
        with self.lock:
            if changed:
                self.state.setdefault(where, {}).update(changed)
            self.price += here.price
            self.joules += here.declared_j + place.device.joules(ended_s - started_s, here.work()) if place.role == "client" else 0.0
        return value, started_s, ended_s

    def close(self) -> None:
        """Let go of the threads; calls under way are not waited for."""
        self.pool.shutdown(wait=False, cancel_futures=True)


def _value(leaf: Any) -> Any:
    return at(leaf.work.result()[0], leaf.path) if isinstance(leaf, ThreadRef) else leaf


class ThreadNode(Node):
    """A request's handle on its device."""

    def __init__(self, world: ThreadWorld, name: str) -> None:
        self.world = world
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    @property
    def now_s(self) -> float:
        return self.world.now_s

    @property
    def children(self) -> list[str]:
        return list(self.world.network.children(self._name))

    @property
    def neighbors(self) -> list[str]:
        return list(self.world.network.neighbors(self._name))

    @property
    def clients(self) -> list[str]:
        return list(self.world.network.clients(self._name))

    @property
    def requests(self) -> Sequence[Request]:
        return ()

    @property
    def network(self) -> Snapshot:
        raise _unsupported("network")

    def estimate(self, fn: Callable[..., Any], where: str, *args: Any) -> Estimate:
        raise _unsupported("estimate")

    def map(
        self, fn: Callable[..., Any], where: Sequence[str], *args: Any, each: Sequence[Sequence[Any]] = (), on: str | None = "cpu",
        priority: int = 0, share_hz: Sequence[float] | None = None,
    ) -> list[Ref]:  # fmt: skip
        return [self.call(fn, place, *args, *(each[i] if each else ())) for i, place in enumerate(where)]

    def call(self, fn: Callable[..., Any], where: str, *args: Any, on: str | None = "cpu", priority: int = 0) -> Ref:
        return ThreadRef(where, self.world.pool.submit(self.world.run, fn, where, args))

    def program(self, where: str, fn: Callable[..., Any], *args: Any) -> Ref:
        raise _unsupported("program")

    def put(self, value: Any) -> Ref:
        done: Future[tuple[Any, float, float]] = Future()
        done.set_result((value, self.now_s, self.now_s))
        return ThreadRef(self._name, done)

    def fetch(self, refs: Any) -> Any:
        if isinstance(refs, list | tuple):
            return [self.fetch(ref) for ref in refs]  # pyright: ignore[reportUnknownVariableType]
        try:
            return _value(refs)
        except Exception as error:
            raise DeviceLost(refs.place) from error

    def first(self, refs: Sequence[Ref], k: int, timeout_s: float | None = None) -> tuple[list[Ref], list[Ref], list[Ref]]:
        own = [ref for ref in refs if isinstance(ref, ThreadRef)]
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            done = [ref for ref in own if ref.work.done()]
            arrived = [ref for ref in done if ref.work.exception() is None]
            lost = [ref for ref in done if ref.work.exception() is not None]
            rest = [ref for ref in own if ref not in done]
            left_s = None if deadline_s is None else deadline_s - time.monotonic()
            if len(arrived) >= min(k, len(own)) or not rest or (left_s is not None and left_s <= 0):
                arrived.sort(key=lambda ref: ref.made_s or 0.0)
                return list(arrived[:k]), [*arrived[k:], *rest], list(lost)
            wait([ref.work for ref in rest], left_s, FIRST_COMPLETED)

    def reduce(
        self, refs: Sequence[Ref], weights: Sequence[float] | None = None, over: Any = None, on_loss: OnLoss = "renormalize", like: Any = None
    ) -> Any:
        raise _unsupported("reduce")

    def sleep(self, until_s: float) -> None:
        time.sleep(max(0.0, until_s - self.now_s))

    def report(self, *, model: Any = None, personal: Mapping[str, Any] | None = None, **metrics: Any) -> None:
        raise _unsupported("report")

    def rng(self, *labels: object) -> np.random.Generator:
        return generator(self.world.seed, "node", self._name, *labels)


def _unsupported(verb: str) -> Unsupported:
    return Unsupported(f"node.{verb}: a gateway answers single requests; allowed there are call, map, put, fetch, first, sleep and rng")
