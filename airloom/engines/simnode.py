"""The verbs of a program in a simulated run."""

# Trees (states, arguments, results) are of any shape, so what is taken out of them has no static type.
# pyright: strict, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from airloom.clock.kernel import Program
from airloom.clock.rng import generator
from airloom.engines.air import over_the_air
from airloom.engines.arguments import Arguments, identity
from airloom.engines.fold import fold
from airloom.engines.numerics import FLUSH_CAP
from airloom.engines.pending import Delivery, Issue, SimRef, Value, Wait
from airloom.engines.price import leaf_sizes
from airloom.engines.sites import Site
from airloom.engines.snapshot import snapshot
from airloom.engines.values import pairs
from airloom.errors import DeviceLost, ScenarioError
from airloom.program.method import function_name
from airloom.program.node import Estimate, Node, OnLoss, Snapshot
from airloom.program.reducer import AirSum
from airloom.program.ref import Ref
from airloom.program.tree import map_leaves, signature
from airloom.tasks.requests import Request

if TYPE_CHECKING:
    from airloom.engines.simulated import Simulation


class SimNode(Node):
    """A program's handle on its place in a simulated run."""

    __slots__ = ("program_number", "running", "sim", "site")

    def __init__(self, sim: Simulation, site: Site, program: Program) -> None:
        self.sim = sim
        self.site = site
        self.running = program
        self.program_number = program.number

    @property
    def name(self) -> str:
        return self.site.name

    @property
    def now_s(self) -> float:
        return self.sim.kernel.now

    def _present(self, names: Sequence[str]) -> list[str]:
        if not self.sim.is_lossy:
            return list(names)
        sites = self.sim.sites
        return [name for name in names if sites[name].is_present]

    @property
    def children(self) -> list[str]:
        return self._present(self.sim.network.children(self.site.name))

    @property
    def neighbors(self) -> list[str]:
        return self._present(self.sim.network.neighbors(self.site.name))

    @property
    def clients(self) -> list[str]:
        return self._present(self.sim.network.clients(self.site.name))

    @property
    def network(self) -> Snapshot:
        sim = self.sim
        return snapshot(sim.network, sim.task, sim.seed, self.site.name, sim.kernel.now, lambda name: sim.sites[name].is_present)

    @property
    def requests(self) -> Sequence[Request]:
        return self.sim.task.requests.get(self.name, ())

    def estimate(self, fn: Callable[..., Any], where: str, *args: Any) -> Estimate:
        sim = self.sim
        site = sim.sites[where]
        shapes = map_leaves(sim.meta_of, args)
        sig = ((function_name(fn), identity(fn)), signature(shapes))
        price = sim.pricer.price(fn, sig, shapes, site, sim.kernel.now)
        if price is None:
            raise ScenarioError(
                f"node.estimate({function_name(fn)}): its work depends on values, so it has no price before it runs; declare it with here.cost"
            )
        framing = sim.network.framing_bytes
        given = Arguments(args)
        down = given.body + (0 if given.refs and not given.parts else given.control)
        up = sum([body if body >= 0 else control for _, body, control in price.leaves])
        seconds, _ = price.at(site.device)
        return Estimate(price.flops, seconds, up + framing if up else 0, down + framing if down else 0, price.peak_bytes)

    def map(
        self,
        fn: Callable[..., Any],
        where: Sequence[str],
        *args: Any,
        each: Sequence[Sequence[Any]] = (),
        on: str | None = "cpu",
        priority: int = 0,
        share_hz: Sequence[float] | None = None,
    ) -> list[Ref]:
        return self.sim.issue(self, fn, where, args, each, on, priority, share_hz)  # type: ignore[return-value]

    def call(self, fn: Callable[..., Any], where: str, *args: Any, on: str | None = "cpu", priority: int = 0) -> Ref:
        return self.sim.issue(self, fn, (where,), args, (), on, priority, None)[0]

    def program(self, where: str, fn: Callable[..., Any], *args: Any) -> Ref:
        return self.sim.issue(self, fn, (where,), args, (), None, 0, None, is_program=True)[0]

    def put(self, value: Any) -> Ref:
        sim = self.sim
        sim.kernel.number += 1
        root = Value(sim.kernel.number, self.site.name, Issue(None, "put", "", self.program_number))
        root.value, root.has_value = value, True
        root.leaves = leaf_sizes(value)
        root.started_s = sim.kernel.now
        sim.values.make(self.site, root)
        return SimRef(root)

    # --- verbs that suspend -----------------------------------------------------------------------------------------------------------

    def _wait(self, refs: Sequence[Any], need: int, timeout_s: float | None, verb: str) -> tuple[list[int], list[int]]:
        """Ask for all refs; return indices of arrived (in order) and lost ones once `need` have arrived or can no longer."""
        sim = self.sim
        wait = Wait(self.running, len(refs), need)
        deliveries: list[Delivery] = []
        late: list[Delivery] = []
        there: list[tuple[float, int, int]] = []
        for i, ref in enumerate(refs):
            if not isinstance(ref, SimRef):
                raise ScenarioError(f"node.{verb}: got {type(ref).__name__} at position {i}; allowed are Refs of this run")
            delivery = sim.values.ask(ref, self.site)
            deliveries.append(delivery)
            if delivery.arrived_s is not None:
                there.append((delivery.arrived_s, ref.root.number, i))
            else:
                delivery.waiters += (wait, i)
                if delivery.is_lost:
                    late.append(delivery)
        there.sort()
        wait.arrived = [i for _, _, i in there]
        for delivery in late:
            due_s = max(delivery.lost_s + sim.network.detect_s, sim.kernel.now)
            sim.kernel.at(due_s, sim.values.on_told, delivery)
        if len(wait.arrived) < need and len(refs) > len(wait.arrived):
            if timeout_s is not None:
                sim.kernel.at(sim.kernel.now + timeout_s, sim.values.on_timeout, wait)
            sim.park(f"{verb} of {len(refs)} values, {len(wait.arrived)} of {need} arrived")
        wait.is_over = True
        if len(wait.arrived) + len(wait.lost) < len(refs):
            taken = {*wait.arrived, *wait.lost}
            for i, delivery in enumerate(deliveries):
                if i not in taken and delivery.waiters:
                    delivery.waiters = tuple([x for pair in pairs(delivery.waiters) if pair[0] is not wait for x in pair])
        return wait.arrived, wait.lost

    def fetch(self, refs: Any) -> Any:
        many = refs if isinstance(refs, list | tuple) else [refs]
        _, lost = self._wait(many, len(many), None, "fetch")
        if lost:
            raise DeviceLost(many[lost[0]].root.lost_device)
        self.prefetch(many)
        values = [self.sim.numerics.value(ref, self.site.name) for ref in many]
        return values if isinstance(refs, list | tuple) else values[0]

    def prefetch(self, refs: Sequence[SimRef]) -> None:
        """Run all missing numerics in as few sets as the cap allows."""
        calls = [ref.root.call for ref in refs if not ref.root.has_value and ref.root.call is not None]
        for start in range(0, len(calls), FLUSH_CAP):
            batch = [call for call in calls[start : start + FLUSH_CAP] if not call.has_run]
            if batch:
                self.sim.numerics.flush(batch)

    def wait_made(self, refs: Sequence[SimRef]) -> tuple[list[int], list[int]]:
        """Wait until all values are made where they are; nothing is sent. Return indices of the made and of the lost ones."""
        sim = self.sim
        wait = Wait(self.running, len(refs), len(refs))
        for i, ref in enumerate(refs):
            delivery = sim.values.ask(ref, sim.sites[ref.root.place])
            if delivery.arrived_s is not None:
                wait.arrived.append(i)
            elif delivery.is_lost:
                wait.lost.append(i)
            else:
                delivery.waiters += (wait, i)
        if len(wait.arrived) + len(wait.lost) < len(refs):
            sim.park(f"{len(refs)} values to be made")
        wait.is_over = True
        return wait.arrived, wait.lost

    def over_the_air(self, over: AirSum, refs: Sequence[Ref]) -> Any:
        """Let the channel add values up; see `AirSum`."""
        return over_the_air(self, over, refs)  # type: ignore[arg-type]

    def first(self, refs: Sequence[Ref], k: int, timeout_s: float | None = None) -> tuple[list[Ref], list[Ref], list[Ref]]:
        if k < 0:
            raise ScenarioError(f"node.first(k={k}): allowed are integers >= 0")
        arrived, lost = self._wait(refs, min(k, len(refs)), timeout_s, "first")
        arrived = arrived[:k]
        gone = set(arrived) | set(lost)
        return [refs[i] for i in arrived], [ref for i, ref in enumerate(refs) if i not in gone], [refs[i] for i in lost]

    def reduce(
        self, refs: Sequence[Ref], weights: Sequence[float] | None = None, over: Any = None, on_loss: OnLoss = "renormalize", like: Any = None
    ) -> Any:
        return fold(self, refs, weights, over, on_loss, like, self._wait_all, self._values, self._folded)

    def _wait_all(self, refs: Sequence[Any]) -> dict[int, str]:
        _, lost = self._wait(refs, len(refs), None, "reduce")
        return {i: refs[i].root.lost_device for i in lost}

    def _values(self, refs: Sequence[Any]) -> list[Any]:
        numerics = self.sim.numerics
        numerics.is_folding = True
        try:
            self.prefetch(refs)
        finally:
            numerics.is_folding = False
        return [numerics.value(ref, self.site.name) for ref in refs]

    def _folded(self, refs: Sequence[Any]) -> None:
        self.sim.numerics.release([ref.root for ref in refs])

    def sleep(self, until_s: float) -> None:
        sim = self.sim
        if until_s > sim.kernel.now:
            sim.kernel.at(until_s, sim.on_wake, self.running)
            sim.park(f"sleep until {until_s:.6g} s")

    def report(self, *, model: Any = None, personal: Mapping[str, Any] | None = None, **metrics: Any) -> None:
        self.sim.on_report(self, model, personal, metrics)

    def rng(self, *labels: object) -> np.random.Generator:
        return generator(self.sim.seed, "node", self.site.name, *labels)
