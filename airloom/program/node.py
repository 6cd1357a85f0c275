"""The node: the handle of a program on the place where it runs. Its verbs are the words methods are written in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from airloom.network.link import Hop
from airloom.program.ref import Ref
from airloom.tasks.requests import Request

DeviceFunction = Callable[..., Any]
OnLoss = Literal["renormalize", "drop", "raise"]


class Estimate(NamedTuple):
    """Price of a call that is not made: FLOPs, compute seconds, access-hop bytes (arguments down, result up) and peak memory."""

    flops: float
    seconds: float
    bytes_up: float
    bytes_down: float
    memory_bytes: float


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What a planner may know now, by place name. Rates are estimates (delayed, noisy); the engine charges the true ones.

    Arguments:
        up_bps, down_bps: access-hop rates, bit/s, if all present clients of the cell are served at once.
        whole_band_bps: up-link rate with the whole cell to itself, bit/s.
        cell_hz: up-link spectrum of the client's cell, Hz (0 for a wired link).
        cell: name of that cell: clients with the same one share its spectrum ("" for a link of its own).
        speed_flops_per_s: sustained training speed (peak times efficiency).
        memory_bytes: available memory.
        samples: training rows at the device, or at all present clients below the place.
        facts: what the scenario declares per device.
        parent: the place directly above.
        hops: the route from one place to another, link by link.
    """

    up_bps: Mapping[str, float]
    down_bps: Mapping[str, float]
    whole_band_bps: Mapping[str, float]
    cell_hz: Mapping[str, float]
    speed_flops_per_s: Mapping[str, float]
    memory_bytes: Mapping[str, float]
    samples: Mapping[str, int]
    facts: Mapping[str, Mapping[str, Any]]
    hops: Callable[[str, str], tuple[Hop, ...]]
    cell: Mapping[str, str] = field(default_factory=dict[str, str])
    parent: Mapping[str, str] = field(default_factory=dict[str, str])


class Node(ABC):
    """Where a program runs. Verbs that ask for values (`fetch, first, reduce, sleep`) suspend the program; the others return at once."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the place."""

    @property
    @abstractmethod
    def now_s(self) -> float:
        """The clock, in seconds."""

    @property
    @abstractmethod
    def children(self) -> list[str]:
        """Names of the present places directly below."""

    @property
    @abstractmethod
    def neighbors(self) -> list[str]:
        """Names of the present places linked to this one that are neither parent nor child."""

    @property
    @abstractmethod
    def clients(self) -> list[str]:
        """Names of all present leaves below, whatever lies between."""

    @property
    @abstractmethod
    def network(self) -> Snapshot:
        """What a planner may know now."""

    @property
    @abstractmethod
    def requests(self) -> Sequence[Request]:
        """What users ask at this place, in order of time."""

    @abstractmethod
    def estimate(self, fn: DeviceFunction, where: str, *args: Any) -> Estimate:
        """Price a call that is not made; off the clock."""

    @abstractmethod
    def map(
        self,
        fn: DeviceFunction,
        where: Sequence[str],
        *args: Any,
        each: Sequence[Sequence[Any]] = (),
        on: str | None = "cpu",
        priority: int = 0,
        share_hz: Sequence[float] | None = None,
    ) -> list[Ref]:
        """Run `fn(here, *args, *each[i])` at `where[i]` for every i; `share_hz[i]` is the band that its messages get."""

    @abstractmethod
    def call(self, fn: DeviceFunction, where: str, *args: Any, on: str | None = "cpu", priority: int = 0) -> Ref:
        """Run `fn(here, *args)` at one place, which may be this one."""

    @abstractmethod
    def program(self, where: str, fn: Callable[..., Any], *args: Any) -> Ref:
        """Run the text `fn(node, *args)` at another place, or here."""

    @abstractmethod
    def put(self, value: Any) -> Ref:
        """Name a value of this place so that each other place gets it at most once, however often it is used."""

    @abstractmethod
    def fetch(self, refs: Any) -> Any:
        """Bring a Ref, or a list of them, here; DeviceLost if one is lost."""

    @abstractmethod
    def first(self, refs: Sequence[Ref], k: int, timeout_s: float | None = None) -> tuple[list[Ref], list[Ref], list[Ref]]:
        """Wait for the first `k` arrivals; return (arrived in order, the rest still flying, lost)."""

    @abstractmethod
    def reduce(
        self, refs: Sequence[Ref], weights: Sequence[float] | None = None, over: Any = None, on_loss: OnLoss = "renormalize", like: Any = None
    ) -> Any:
        """Fold values in issue order, in float64. `over` is a Reducer (default MEAN)."""

    @abstractmethod
    def sleep(self, until_s: float) -> None:
        """Wait until the clock shows `until_s`."""

    @abstractmethod
    def report(self, *, model: Any = None, personal: Mapping[str, Any] | None = None, **metrics: Any) -> None:
        """Put a point on the curve, stamped with seconds, bytes and joules; the model is evaluated off the clock."""

    @abstractmethod
    def rng(self, *labels: object) -> np.random.Generator:
        """This place's stream named by `labels`."""
