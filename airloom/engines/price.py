"""Prices: what a call costs, known before its numerics run, from one dry run on meta tensors per signature."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import torch

from airloom.engines.executors import Spent, spent
from airloom.errors import AirloomError, ScenarioError
from airloom.network.device import Device, Work
from airloom.network.network import Place
from airloom.program.codec import coded
from airloom.program.here import Here
from airloom.program.method import function_name
from airloom.program.node import Estimate
from airloom.program.ref import Ref
from airloom.program.tree import Path, body_bytes, control_bytes, leaves, map_leaves, signature, to_meta
from airloom.tasks.task import Task

_LIMIT = 4096  # signatures kept; more means a signature that changes in every round


class Priced(Protocol):
    """What a price may depend on of a place: its device, and the shapes of its state (signature, meta tree, bytes by key)."""

    @property
    def name(self) -> str: ...
    @property
    def device(self) -> Device: ...
    @property
    def place(self) -> Place: ...
    @property
    def shadow(self) -> Mapping[str, tuple[Any, Any, int]]: ...
    @property
    def drawn(self) -> int: ...


class Standing(NamedTuple):
    """A place as it stands before a call, where no site keeps it up to date."""

    name: str
    device: Device
    place: Place
    shadow: Mapping[str, tuple[Any, Any, int]]
    drawn: int


class Price:
    """What a call computes and makes: work, declared seconds, peak memory, samples drawn, and the shapes of its result and state."""

    __slots__ = (
        "bill",
        "changes",
        "drawn",
        "flops",
        "joules",
        "leaves",
        "on_device",
        "peak_bytes",
        "result",
        "seconds",
        "signatures",
        "state_bytes",
        "work",
    )

    def __init__(self, spent: Spent, result: Any, changes: Mapping[str, Any]) -> None:
        self.work: Work = spent.work
        self.flops = self.work.flops
        self.seconds = spent.declared_s
        self.joules = spent.declared_j
        self.bill = spent.price
        self.peak_bytes = spent.peak_bytes
        self.drawn = spent.drawn
        self.result = map_leaves(to_meta, result)
        self.leaves = leaf_sizes(self.result, spent.coded)
        self.changes = {key: map_leaves(to_meta, value) for key, value in changes.items()}
        self.signatures = {key: signature(value) for key, value in self.changes.items()}
        self.state_bytes = {key: tree_bytes(value) for key, value in self.changes.items()}
        self.on_device: dict[int, tuple[float, float]] = {}

    def at(self, device: Device) -> tuple[float, float]:
        """Compute seconds and active joules on a device."""
        known = self.on_device.get(id(device))
        if known is None:
            work = self.work
            seconds = self.seconds + (device.seconds(work) if work.flops or work.steps else 0.0)
            known = self.on_device[id(device)] = (seconds, self.joules + device.joules(seconds, work))
        return known


def estimated(
    pricer: Pricer, fn: Callable[..., Any], args: tuple[Any, ...], shapes: tuple[Any, ...], site: Priced, now_s: float, framing: int
) -> Estimate:
    """What a call that is not made would cost: `shapes` are its arguments with every Ref replaced by its value or what stands for it."""
    sig = ((function_name(fn), id(getattr(fn, "__self__", None))), signature(shapes))
    price = pricer.price(fn, sig, shapes, site, now_s)
    if price is None:
        raise ScenarioError(
            f"node.estimate({function_name(fn)}): its work depends on values, so it has no price before it runs; declare it with here.cost"
        )
    given = [leaf for _, leaf in leaves(args)]
    bodies = [nbytes for leaf in given if (nbytes := body_bytes(leaf)) >= 0]
    plain = [leaf for leaf in given if body_bytes(leaf) < 0 and not isinstance(leaf, Ref)]
    has_refs = any(isinstance(leaf, Ref) for leaf in given)
    down = sum(bodies) + (0 if has_refs and not bodies else sum(map(control_bytes, plain)))
    up = sum([body if body >= 0 else control for _, body, control in price.leaves])
    seconds, _ = price.at(site.device)
    return Estimate(price.flops, seconds, up + framing if up else 0, down + framing if down else 0, price.peak_bytes)


def leaf_sizes(tree: Any, coded: Mapping[Path, int] = MappingProxyType({})) -> tuple[tuple[Path, int, int], ...]:
    """(path, body bytes or -1, control bytes) of each leaf on the wire; `coded` has the bytes of encoded ones."""
    if not isinstance(tree, dict | list | tuple):
        body = coded.get((), body_bytes(tree))
        return (((), body, 0 if body >= 0 else control_bytes(tree)),)
    sizes: list[tuple[Path, int, int]] = []
    for path, leaf in leaves(tree):
        body = coded.get(path, body_bytes(leaf))
        sizes.append((path, body, 0 if body >= 0 else control_bytes(leaf)))
    return tuple(sizes)


def tree_bytes(tree: Any) -> int:
    """Bytes that a tree takes in memory."""
    return sum([max(body, 0) + control for _, body, control in leaf_sizes(tree)])


class Pricer:
    """Prices calls and remembers prices by signature.

    A signature is the function, the method's fields, the arguments' shapes and integers, and whatever the first dry run read of `here`.
    """

    def __init__(self, task: Task, seed: int) -> None:
        self.task = task
        self.seed = seed
        self.known: dict[Any, dict[tuple[Any, ...], dict[tuple[Any, ...], Price | None]]] = {}
        self.size = 0
        self.last: tuple[Any, Any] = (None, {})

    def price(self, fn: Callable[..., Any], sig: Any, args: tuple[Any, ...], site: Priced, start_s: float) -> Price | None:
        """Return the price of `fn(here, *args)` at a place from `start_s` on, or None where it depends on contents.

        Arguments:
            sig: signature of the function and its arguments.
            args: arguments with every Ref replaced by the meta tree of its value.
        """
        last = self.last  # the calls of a map share their signature, and hashing it costs more than all the rest
        known = last[1] if sig is last[0] else self.known.get(sig)
        if known is None:
            if self.size > _LIMIT:
                self.known.clear()
                self.size = 0
            known = self.known[sig] = {}
        self.last = (sig, known)
        for reads, table in known.items():
            found = tuple([self._read(read, site, start_s) for read in reads])
            if found in table:
                return table[found]
        price, reads = self._dry_run(fn, args, site, start_s)
        self.size += 1
        known.setdefault(reads, {})[tuple([self._read(read, site, start_s) for read in reads])] = price
        return price

    def _read(self, read: tuple[str, Any], site: Priced, start_s: float) -> Any:
        what, key = read
        if what == "state":
            entry = site.shadow.get(key)
            return None if entry is None else (entry[0],)
        if what == "name":
            return site.name
        if what == "device":
            return id(site.device)
        if what == "samples":
            return len(self.task.data(site.name, start_s))
        if what == "holds_data":
            return self.task.samples(site.name) > 0
        assert what == "start_s", what
        return start_s

    def _dry_run(
        self, fn: Callable[..., Any], args: tuple[Any, ...], site: Priced, start_s: float
    ) -> tuple[Price | None, tuple[tuple[str, Any], ...]]:
        here = Here(
            name=site.name,
            device=site.device,
            facts=site.place.facts,
            start_s=start_s,
            state={key: entry[1] for key, entry in site.shadow.items()},
            task=self.task,
            drawn=site.drawn,
            seed=self.seed,
            is_dry=True,
        )
        try:
            with torch.no_grad():
                given = map_leaves(to_meta, args)
                result = fn(here, *given)
                _, sizes = coded(here, fn, given, map_leaves(to_meta, result))
            price = Price(spent(here, site.drawn, sizes), result, here.state.changes)
        except ScenarioError:
            raise
        except AirloomError:
            raise
        except Exception:  # contents were needed: run the function at its start instead; a real fault shows there
            price = None
        return price, tuple(here.reads)
