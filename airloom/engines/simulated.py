"""The simulated engine: a method's text on one global clock, with physical devices and links.

The clock part decides *when*: messages travel, calls queue and run, values are made, asked for and lost. The numbers part decides *what*, late and in
sets: a started call is priced at once and waits in `pending` until a program needs a value; then an executor runs the set. The clock never depends
on the executor.

Left out: energy of base stations; memory of values that a later round still holds by Ref is counted until the round ends.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from heapq import heappop, heappush
from typing import Any

import numpy as np
import torch

from airloom.clock.kernel import Kernel, Program
from airloom.clock.meter import SiteMeter, Totals
from airloom.clock.rng import generator
from airloom.clock.wires import Endpoint, Transfer, Wire, Wires
from airloom.engines.air import over_the_air
from airloom.engines.executors import Executor, Job, Result
from airloom.engines.pending import Call, Delivery, Later, SimRef, Value, Wait
from airloom.engines.price import Price, Pricer, leaf_sizes, tree_bytes
from airloom.engines.snapshot import snapshot
from airloom.errors import AirloomError, DeviceLost, DoesNotFit, RunFailed, ScenarioError
from airloom.network.network import Network, Place
from airloom.program.method import function_name
from airloom.program.node import Estimate, Node, OnLoss, Snapshot
from airloom.program.reducer import MEAN, Accumulator, AirSum, Fold, Reducer
from airloom.program.ref import Ref
from airloom.program.tree import Path, at, body_bytes, control_bytes, key_of, leaves, map_leaves, signature, to_meta, version_of
from airloom.tasks.task import Task

FLUSH_CAP = 64  # calls run at once: larger sets gain nothing and hold more memory


class Resource:
    """A resource of a device (cpu, gpu, disk): free slots, the order rule's queues, and calls that are ready."""

    __slots__ = ("fillers", "free", "name", "queues", "ready")

    def __init__(self, name: str, slots: int) -> None:
        self.name = name
        self.free = slots
        self.queues: dict[int, deque[Call]] = {}  # program -> its unstarted calls here, in issue order
        self.ready: list[tuple[float, int, Call]] = []
        self.fillers: list[tuple[int, float, int, Call]] = []


class Site(Endpoint):
    """A place at run time: presence, device state (real and shadow), resources, what runs there."""

    __slots__ = (
        "calls",
        "drawn",
        "epoch",
        "held_bytes",
        "is_empty",
        "is_present",
        "place",
        "programs",
        "resources",
        "room_bytes",
        "running",
        "shadow",
        "state",
        "stored_bytes",
        "written",
    )

    def __init__(self, place: Place, meter: SiteMeter) -> None:
        super().__init__(place.name, place.device, meter)
        self.place = place
        self.is_present = True
        self.is_empty = False  # the battery is
        self.epoch = 0  # how often it has left
        self.drawn = 0  # samples drawn
        self.state: dict[str, Any] = {}  # values, or Later
        self.shadow: dict[str, tuple[Any, Any, int]] = {}  # signature, meta tree, bytes
        self.written: dict[str, int] = {}  # key -> kernel number at the end of the call that wrote it last
        self.resources: dict[str, Resource] = {}
        self.calls: dict[Call, None] = {}  # unfinished ones; kept only where places can leave
        self.programs: dict[Program, None] = {}
        self.running: dict[Call, None] = {}
        self.held_bytes = 0
        self.stored_bytes = 0  # of the state
        self.room_bytes = place.device.available_bytes


class Simulation:
    """One run's world: sites, wires, calls under way, pending numerics.

    Arguments:
        network, task: from the scenario.
        seed: names all streams of the environment and of the method.
        executor: runs the numerics of sets of calls.
        report: called as report(node, model, personal, metrics) by `node.report`.
        log: payload log, called as log(time_s, source, target, label, kind, bytes), or None.
    """

    def __init__(
        self,
        network: Network,
        task: Task,
        seed: int,
        executor: Executor,
        report: Callable[[SimNode, Any, Any, dict[str, Any]], None],
        log: Callable[[float, str, str, str, str, float], None] | None = None,
    ) -> None:
        self.network = network
        self.task = task
        self.seed = seed
        self.executor = executor
        self.on_report = report
        self.payload_log = log
        self.kernel = Kernel()
        self.totals = Totals()
        self.sites: dict[str, Site] = {}
        for name, place in network.places.items():
            is_server = place.role != "client"
            self.sites[name] = Site(place, SiteMeter(place.device.idle_power_w, is_server))
        self.wires = Wires(self.kernel, network, self.sites.__getitem__, self.totals, seed, self._on_arrived, self._log_hop if log else None)
        self.kernel.endings.append(self._send_asked)
        self.pricer = Pricer(network, task, seed)
        self.pending: dict[Call, None] = {}
        self.asked: dict[Value, None] = {}
        self.is_lossy = self.wires.is_lossy
        self.change_waiters: list[Program] = []
        self.flushes = 0
        self.flushed_calls = 0
        self.round = 0
        self.names: dict[Any, str] = {}
        self._start_churn()

    # --- presence ---------------------------------------------------------------------------------------------------------------------

    def _start_churn(self) -> None:
        network = self.network
        for name, site in self.sites.items():
            if not site.meter.is_server:
                self.totals.presence(0.0, site.meter.idle_power_w)
            if self.is_lossy:
                if not network.present(name, 0.0, self.seed):
                    self._set_absent(site)
                change_s = network.next_change(name, 0.0, self.seed)
                if change_s is not None:
                    self.kernel.later(change_s, self.on_change, name)

    def on_change(self, name: str) -> None:
        """The churn model says that a place comes or goes now."""
        kernel, network = self.kernel, self.network
        kernel.background -= 1
        site = self.sites[name]
        is_on = network.present(name, kernel.now, self.seed) and not site.is_empty
        if is_on != site.is_present:
            (self.join if is_on else self.leave)(name)
        change_s = network.next_change(name, kernel.now, self.seed)
        if change_s is not None:
            kernel.later(change_s, self.on_change, name)
        self._tell_change()

    def _tell_change(self) -> None:
        for program in self.change_waiters:
            self.kernel.wake(program)
        self.change_waiters.clear()
        self.kernel.is_awaiting_change = False

    def _set_absent(self, site: Site) -> None:
        site.is_present = False
        site.epoch += 1
        if not site.meter.is_server:
            self.totals.presence(self.kernel.now, -site.meter.idle_power_w)
        site.meter.absent_since_s = self.kernel.now

    def join(self, name: str) -> None:
        """A place comes (back)."""
        site = self.sites[name]
        site.is_present = True
        if not site.meter.is_server:
            self.totals.presence(self.kernel.now, site.meter.idle_power_w)
        since_s = site.meter.absent_since_s
        assert since_s is not None
        site.meter.present_s -= self.kernel.now - since_s  # present_s holds minus the absence; see idle_j
        site.meter.absent_since_s = None

    def leave(self, name: str) -> None:
        """A place leaves: its calls, transfers and programs are lost now, and whoever waits is told once."""
        site = self.sites[name]
        self._set_absent(site)
        for transfer in list(site.transfers):
            self._lose_transfer(transfer, name)
        for call in list(site.calls):
            self.lose_call(call, name)
        for program in list(site.programs):
            self.kernel.kill(program)
            if program.result is not None:
                self.lose_value(program.result, name)
        site.programs.clear()
        for resource in site.resources.values():
            resource.queues.clear()
            resource.ready.clear()
            resource.fillers.clear()
        self.wires.forget_place(name)
        if self.network.on_leave == "wipe":
            site.state.clear()
            site.shadow.clear()
            site.written.clear()
            site.stored_bytes = 0
        site.held_bytes = 0

    def _lose_transfer(self, transfer: Transfer, device: str) -> None:
        if transfer.is_lost:
            return
        self.wires.lose(transfer)
        if transfer.kind == "call":
            self.lose_call(transfer.subject, device)
        else:
            root, deliveries = transfer.subject
            carried = root.carried[transfer.route[-1].target.name]
            for i in [i for i, carrier in carried.items() if carrier is transfer]:
                del carried[i]  # it never came, so it may be asked for again
            for delivery in deliveries:
                self._lose_delivery(delivery, device)

    def lose_call(self, call: Call, device: str) -> None:
        """A call is lost: it changes no state and consumes no draws; what depends on it is lost too."""
        if call.is_lost or (call.root is not None and call.root.is_made):
            return
        call.is_lost = True
        site = self.sites[call.place]
        site.calls.pop(call, None)
        if call in site.running:
            del site.running[call]
            self._charge_compute(site, call, (self.kernel.now - (call.started_s or 0.0)) / (call.end_s - (call.started_s or 0.0) or 1.0))
            if call.on is not None:
                site.resources[call.on].free += 1
            site.drawn = min(site.drawn, call.drawn)
        elif call.on is not None and call.on in site.resources:
            resource = site.resources[call.on]
            queue = resource.queues.get(call.owner)
            if queue is not None and call in queue:
                was_next = queue[0] is call
                queue.remove(call)
                if not queue:
                    del resource.queues[call.owner]
                elif was_next and queue[0].missing == -1:
                    heappush(resource.ready, (self.kernel.now, queue[0].number, queue[0]))
                if site.is_present:
                    self._try_start(site, resource)
        self.pending.pop(call, None)
        if call.root is not None:
            self.lose_value(call.root, device)

    def lose_value(self, root: Value, device: str) -> None:
        """A value will never be made, or went with its place."""
        if root.is_lost:
            return
        root.is_lost = True
        root.lost_device = device
        root.lost_s = self.kernel.now
        for delivery in list(root.deliveries.values()):
            self._lose_delivery(delivery, device)

    def _lose_delivery(self, delivery: Delivery, device: str) -> None:
        if delivery.is_lost or delivery.arrived_s is not None:
            return
        delivery.is_lost = True
        root = delivery.root
        if not root.is_lost:
            root.lost_device, root.lost_s = device, self.kernel.now
        for waiter in delivery.waiters:
            if type(waiter) is Call:
                self.lose_call(waiter, device)
        if any([type(waiter) is not Call for waiter in delivery.waiters]):
            self.kernel.at(self.kernel.now + self.network.detect_s, self.on_told, delivery)

    def on_told(self, delivery: Delivery) -> None:
        """Programs that wait for a lost delivery learn of it, once."""
        waiters, delivery.waiters = delivery.waiters, []
        for waiter in waiters:
            if type(waiter) is not Call:
                wait, index = waiter
                wait.lost.append(index)
                self._check_wait(wait)

    # --- issuing calls ----------------------------------------------------------------------------------------------------------------

    def name_of(self, fn: Callable[..., Any]) -> str:
        """Registered name of a function, looked up once."""
        plain = getattr(fn, "__func__", fn)
        name = self.names.get(plain)
        if name is None:
            name = self.names[plain] = function_name(fn)
        return name

    def issue(
        self, node: SimNode, fn: Callable[..., Any], where: Sequence[str], args: tuple[Any, ...], each: Sequence[Sequence[Any]], on: str | None,
        priority: int, share_hz: Sequence[float] | None, is_program: bool = False,
    ) -> list[SimRef]:  # fmt: skip
        """Make the calls of one `map`, `call` or `program`; their messages leave now."""
        kernel, wires, here = self.kernel, self.wires, node.site.name
        if each and len(each) != len(where):
            raise ScenarioError(f"map(each=...): got {len(each)} entries for {len(where)} places; allowed is one entry per place")
        if share_hz is not None and len(share_hz) != len(where):
            raise ScenarioError(f"map(share_hz=...): got {len(share_hz)} shares for {len(where)} places; allowed is one share per place")
        label = self.name_of(fn)
        owner = node.program_number
        shared = _Arguments(args)
        fn_sig = (label, _identity(fn))
        shared_sig = None if shared.refs else (fn_sig, shared.signature(), ())
        refs: list[SimRef] = []
        made_at = _caller()
        no_each: Sequence[Any] = ()
        for i, place in enumerate(where):
            site = self.sites.get(place)
            if site is None:
                raise ScenarioError(
                    f"{label}: got place {str(place)!r}; allowed are the network's places (such as {', '.join(list(self.sites)[:3])})"
                )
            kernel.number += 1
            number = kernel.number
            root = Value(number, place, None)
            own = _Arguments(tuple(each[i])) if each else None
            call = Call(number, fn, place, (*args, *own.args) if own else args, owner, here, on, priority, root)
            root.call = call
            call.made_at = made_at
            call.is_program = is_program
            call.has_refs = bool(shared.refs) or (own is not None and bool(own.refs))
            call.versions = (shared.versions, own.versions if own else no_each)
            if own is None:
                call.trees = shared_sig
            elif shared_sig is not None and not own.refs:
                call.trees = (fn_sig, shared_sig[1], own.signature())
            refs.append(SimRef(root))
            if not site.is_present:
                self.lose_call(call, place)
                continue
            if self.is_lossy:
                site.calls[call] = None
            if on is not None and not is_program:
                resource = site.resources.get(on) or self._resource(site, on)
                if priority >= 0:
                    queue = resource.queues.get(owner)
                    if queue is None:
                        queue = resource.queues[owner] = deque()
                    queue.append(call)
            if place != here:
                route = wires.route(here, place)
                call.missing += 1
                parts = shared.parts + own.parts if own else shared.parts
                weight = shared.body + own.body if own else shared.body
                control = 0 if call.has_refs and not parts else shared.control + (own.control if own else 0)
                if share_hz is not None:
                    call.hz = float(share_hz[i])
                if self.is_lossy and not self._all_present(route):
                    self.lose_call(call, self._absent(route))
                    continue
                wires.send(Transfer("call", call, parts, weight, control, route, call.hz, label))
            for ref in shared.refs:
                self._need(call, ref, site)
            if own is not None:
                for ref in own.refs:
                    self._need(call, ref, site)
            if not call.missing and not call.is_lost:
                self._ready(call)
        return refs

    def _all_present(self, route: tuple[Wire, ...]) -> bool:
        return all([self.sites[wire.target.name].is_present for wire in route])

    def _absent(self, route: tuple[Wire, ...]) -> str:
        return next(wire.target.name for wire in route if not self.sites[wire.target.name].is_present)

    def _resource(self, site: Site, on: str) -> Resource:
        slots = site.device.slots.get(on)
        if slots is None:
            raise ScenarioError(
                f"call(on={on!r}) at '{site.name}': its device '{site.device.profile}' has {sorted(site.device.slots)}; use one of these, or declare "
                f"Device(slots={{{on!r}: 1}})"
            )
        resource = site.resources[on] = Resource(on, slots)
        return resource

    def _need(self, call: Call, ref: SimRef, site: Site) -> None:
        """Ask for an argument's value to come to the call's place."""
        if call.is_lost:
            return
        delivery = self.ask(ref, site)
        if delivery.is_lost:
            self.lose_call(call, delivery.root.lost_device)
        elif delivery.arrived_s is None:
            call.missing += 1
            delivery.waiters.append(call)

    def _ready(self, call: Call) -> None:
        """All arguments are at the place."""
        site = self.sites[call.place]
        if call.is_program:
            self._start_program(site, call)
            return
        if call.on is None:
            self._start(site, call, None)
            return
        resource = site.resources[call.on]
        call.missing = -1  # arguments are there
        if call.priority < 0:
            heappush(resource.fillers, (-call.priority, self.kernel.now, call.number, call))
            self._try_start(site, resource)
            return
        queue = resource.queues[call.owner]
        if queue[0] is not call:
            return
        if resource.free and not resource.ready:  # the common case: nobody else waits
            queue.popleft()
            resource.free -= 1
            self._start(site, call, resource)
            self._advance(resource, call.owner, queue)
            return
        heappush(resource.ready, (self.kernel.now, call.number, call))
        if resource.free:
            self._try_start(site, resource)

    def _advance(self, resource: Resource, owner: int, queue: deque[Call]) -> None:
        """The next call of a program's queue is the oldest now; if its arguments are there it is ready."""
        if not queue:
            resource.queues.pop(owner, None)
        elif queue[0].missing == -1:
            heappush(resource.ready, (self.kernel.now, queue[0].number, queue[0]))

    def _try_start(self, site: Site, resource: Resource) -> None:
        """Start calls while slots are free: oldest ready call first, fillers last."""
        while resource.free:
            call = None
            while resource.ready and call is None:
                call = heappop(resource.ready)[2]
                if call.is_lost:
                    call = None
            if call is not None:
                resource.queues[call.owner].popleft()
            else:
                while resource.fillers and call is None:
                    call = heappop(resource.fillers)[3]
                    if call.is_lost:
                        call = None
                if call is None:
                    return
            resource.free -= 1
            self._start(site, call, resource)
            if call.priority >= 0:
                self._advance(resource, call.owner, resource.queues[call.owner])

    # --- running calls ----------------------------------------------------------------------------------------------------------------

    def _start(self, site: Site, call: Call, resource: Resource | None) -> None:
        """A call begins: it is stamped and priced; its numerics wait."""
        now = self.kernel.now
        call.started_s = now
        self.kernel.number += 1
        call.start_number = self.kernel.number
        call.drawn = site.drawn
        if site.state:
            call.state = dict(site.state)
        price = self._price(site, call)
        if price is None:
            price = self._run_now(site, call)
        else:
            self.pending[call] = None
        call.price = price
        site.drawn = call.drawn + price.drawn
        root = call.root
        assert root is not None
        root.started_s = now
        root.leaves = price.leaves
        seconds, joules = price.at(site.device)
        call.joules = joules
        if price.peak_bytes + site.stored_bytes + site.held_bytes > site.room_bytes:
            self._refuse_memory(site, call, price)
        call.end_s = now + seconds
        site.running[call] = None
        self.kernel.at(call.end_s, self.on_end, call)

    def _price(self, site: Site, call: Call) -> Price | None:
        """Price a call by its signature; None if it must run at once."""
        args = call.args
        sig = call.trees
        if sig is None:
            try:
                args = map_leaves(self._meta_of, args)
            except _NoShape:
                return None
            sig = ((self.name_of(call.fn), _identity(call.fn)), signature(args))
        return self.pricer.price(call.fn, sig, args, site.name, site.shadow, self.kernel.now, site.drawn)

    def _meta_of(self, leaf: Any) -> Any:
        """Shapes of an argument: of the value that a Ref names, without its contents."""
        if not isinstance(leaf, SimRef):
            return leaf
        root = leaf.root
        if root.has_value:
            return map_leaves(to_meta, at(root.value, leaf.path))
        call = root.call
        if call is None or call.price is None:
            raise _NoShape
        return at(call.price.result, leaf.path)

    def _run_now(self, site: Site, call: Call) -> Price:
        """The price depends on contents: run the numerics at the call's start."""
        self.flush([call])
        result = call.changes.pop("", None)
        assert isinstance(result, Result) and result.spent is not None
        return Price(result.spent, result.value, result.changes)

    def _refuse_memory(self, site: Site, call: Call, price: Price) -> None:
        need = price.peak_bytes + site.stored_bytes + site.held_bytes
        raise DoesNotFit(
            f"{self.name_of(call.fn)} at '{site.name}' needs {need / 1e6:.1f} MB (peak {price.peak_bytes / 1e6:.1f}, state {site.stored_bytes / 1e6:.1f}, "
            f"values {site.held_bytes / 1e6:.1f}); its device '{site.device.profile}' has {site.room_bytes / 1e6:.1f} MB available: use a smaller model, "
            f"batch or submodel"
        )

    def on_end(self, call: Call) -> None:
        """A call ends: charge it, merge its state, make its value, start the next one."""
        if call.is_lost:
            return
        site = self.sites[call.place]
        del site.running[call]
        if self.is_lossy:
            site.calls.pop(call, None)
        self._charge_compute(site, call, 1.0)
        price = call.price
        if price.changes:
            self._merge(site, call)
        if call.on is not None:
            resource = site.resources[call.on]
            resource.free += 1
            if resource.ready or resource.fillers:
                self._try_start(site, resource)
        root = call.root
        if root is not None:
            self._make(site, root)

    def _charge_compute(self, site: Site, call: Call, part: float) -> None:
        meter = site.meter
        seconds = (call.end_s - (call.started_s or 0.0)) * part
        on = call.on or "handler"
        meter.busy_s[on] = meter.busy_s.get(on, 0.0) + seconds
        joules = call.joules * part
        meter.compute_j += joules
        meter.flops += call.price.flops * part
        self.totals.spend(meter, joules)
        if on == "cpu" and not meter.is_server:
            self.totals.idle_busy_j += meter.idle_power_w * seconds
        if site.device.battery_j is not None:
            self._check_battery(site)

    def _check_battery(self, site: Site) -> None:
        """A device whose battery is empty leaves for good."""
        if site.is_present and self.site_joules(site) >= (site.device.battery_j or 0.0):
            self.kernel.at(self.kernel.now, self.on_empty, site.name)

    def on_empty(self, name: str) -> None:
        """A battery is empty."""
        site = self.sites[name]
        if site.is_present:
            site.is_empty = True
            self.leave(name)
            self._tell_change()

    def _merge(self, site: Site, call: Call) -> None:
        """Write a call's state changes, key by key; two overlapping calls that write one key are an error."""
        price = call.price
        for key in price.changes:
            if site.written.get(key, 0) > call.start_number:
                raise RunFailed(
                    f"device '{site.name}', state[{key!r}]: two overlapping calls wrote it ({self.name_of(call.fn)} began at {call.started_s:.6g} s); "
                    f"let one of them write, or issue them on the same resource"
                )
            before = site.shadow.get(key)
            site.stored_bytes += price.state_bytes[key] - (before[2] if before is not None else 0)
            site.shadow[key] = (price.signatures[key], price.changes[key], price.state_bytes[key])
            site.state[key] = call.changes[key] if call.has_run else Later(call, key)
        self.kernel.number += 1
        for key in price.changes:
            site.written[key] = self.kernel.number

    # --- values and deliveries --------------------------------------------------------------------------------------------------------

    def _make(self, site: Site, root: Value) -> None:
        """A value exists from now on; send it to whoever has asked."""
        root.is_made = True
        root.made_s = self.kernel.now
        root.epoch = site.epoch
        if root.deliveries:
            self._dispatch(root)

    def ask(self, ref: SimRef, site: Site) -> Delivery:
        """Ask for a part of a value to come to a place; free, and done once however often it is asked."""
        root = ref.root
        key = (site.name, ref.path)
        if site.epoch and self.network.on_leave == "wipe":
            for old in [k for k, d in root.deliveries.items() if k[0] == site.name and d.epoch != site.epoch]:
                del root.deliveries[old]  # what came before the place was wiped is gone
                root.carried.pop(site.name, None)
        delivery = root.deliveries.get(key)
        if delivery is not None and not (delivery.is_lost and root.is_made and not root.is_lost):
            return delivery
        delivery = root.deliveries[key] = Delivery(root, ref.path, site.name, site.epoch)
        origin = self.sites[root.place]
        if root.is_made and not root.is_lost and origin.epoch != root.epoch:
            root.is_lost, root.lost_device, root.lost_s = True, root.place, self.kernel.now
        if root.is_lost:
            if self._is_there(root, delivery):
                self._arrive(delivery)
            else:
                delivery.is_lost = True
        elif root.is_made:
            if root.place == site.name:
                self._arrive(delivery)
            else:
                self.asked[root] = None
        return delivery

    def _is_there(self, root: Value, delivery: Delivery) -> bool:
        """Whether all of a part has come to the place before, with the whole or with other parts."""
        carried = root.carried.get(delivery.place, {})
        depth = len(delivery.path)
        share = [i for i, (path, _, _) in enumerate(root.leaves) if path[:depth] == delivery.path]
        return bool(share) and all([i in carried and carried[i] is None for i in share])

    def _send_asked(self) -> bool:
        """End of an instant: send what was asked for after it was made; parts asked for together are one message."""
        if not self.asked:
            return False
        asked, self.asked = self.asked, {}
        for root in asked:
            if not root.is_lost:
                self._dispatch(root)
        return True

    def _dispatch(self, root: Value) -> None:
        """Send the parts that are asked for and not yet under way, one message per place."""
        if len(root.deliveries) == 1 and not root.carried:
            (delivery,) = root.deliveries.values()
            if not delivery.path and not delivery.is_asked and not delivery.is_lost and delivery.place != root.place:
                self._carry_whole(root, delivery)
                return
        fresh: dict[str, list[Delivery]] = {}
        for delivery in list(root.deliveries.values()):
            if delivery.is_asked or delivery.is_lost or delivery.arrived_s is not None:
                continue
            if delivery.place == root.place:
                self._arrive(delivery)
            else:
                delivery.is_asked = True
                fresh.setdefault(delivery.place, []).append(delivery)
        for place, deliveries in fresh.items():
            self._carry(root, place, deliveries)

    def _carry_whole(self, root: Value, delivery: Delivery) -> None:
        """Send a whole value that one place has asked for: the common case, without the bookkeeping of parts."""
        place, leaves = delivery.place, root.leaves
        delivery.is_asked = True
        delivery.missing = 1
        parts: list[tuple[int, Any, int]] = []
        body, control = 0, 0
        for i, (_, weight, small) in enumerate(leaves):
            if weight >= 0:
                parts.append((id(root) * 64 + i, root, weight))
                body += weight
            else:
                control += small
        call = root.call
        hz, label = (call.hz if call.issuer == place else None, self.name_of(call.fn)) if call is not None else (None, "put")
        transfer = Transfer("value", (root, [delivery]), parts, body, control, self.wires.route(root.place, place), hz, label)
        root.carried[place] = {i: transfer for i in range(len(leaves))}
        if self.is_lossy and not self._all_present(transfer.route):
            self._lose_transfer(transfer, self._absent(transfer.route))
            return
        self.wires.send(transfer)

    def _carry(self, root: Value, place: str, deliveries: list[Delivery]) -> None:
        carried = root.carried.setdefault(place, {})
        parts: list[tuple[int, Any, int]] = []
        control = 0
        wanted: dict[int, None] = {}
        shares: list[tuple[Delivery, list[int]]] = []
        for delivery in deliveries:
            depth = len(delivery.path)
            share = [i for i, leaf in enumerate(root.leaves) if not depth or leaf[0][:depth] == delivery.path]
            if depth and not share:
                self._refuse_part(root, delivery.path)
            shares.append((delivery, share))
            for i in share:
                if i not in carried and i not in wanted:
                    wanted[i] = None
                    _, body, small = root.leaves[i]
                    if body >= 0:
                        parts.append((id(root) * 64 + i, root, body))
                    else:
                        control += small
        moving = not shares or bool(wanted) or any([not share for _, share in shares])
        transfer: Transfer | None = None
        if moving:
            route = self.wires.route(root.place, place)
            hz = root.call.hz if root.call is not None and root.call.issuer == place else None
            label = self.name_of(root.call.fn) if root.call is not None else "put"
            transfer = Transfer("value", (root, []), parts, sum([part[2] for part in parts]), control, route, hz, label)
            for i in wanted:
                carried[i] = transfer
        for delivery, share in shares:
            carriers = {id(t): t for t in [carried[i] for i in share] if t is not None}
            if not share and transfer is not None:
                carriers[id(transfer)] = transfer
            delivery.missing = len(carriers)
            for carrier in carriers.values():
                carrier.subject[1].append(delivery)
            if not carriers:
                self._arrive(delivery)
        if transfer is not None:
            if self.is_lossy and not self._all_present(transfer.route):
                self._lose_transfer(transfer, self._absent(transfer.route))
                return
            self.wires.send(transfer)

    def _refuse_part(self, root: Value, path: Path) -> None:
        try:
            tree = root.value if root.has_value else root.call.price.result if root.call is not None else None
            at(tree, path)
        except (KeyError, IndexError, TypeError):
            where = self.name_of(root.call.fn) if root.call is not None else "put"
            raise ScenarioError(f"Ref of {where}: got part {list(path)!r}, which its value does not have") from None

    def _on_arrived(self, transfer: Transfer) -> None:
        """A message has reached its place."""
        if transfer.kind == "call":
            call = transfer.subject
            self.sites[call.place].held_bytes += transfer.body
            call.missing -= 1
            if not call.missing and not call.is_lost:
                self._ready(call)
            return
        root, deliveries = transfer.subject
        place = transfer.route[-1].target.name
        self.sites[place].held_bytes += transfer.body
        carried = root.carried[place]
        for i, carrier in carried.items():
            if carrier is transfer:
                carried[i] = None
        for delivery in deliveries:
            delivery.missing -= 1
            if not delivery.missing and not delivery.is_lost:
                self._arrive(delivery)

    def _arrive(self, delivery: Delivery) -> None:
        """A part of a value is at the place that asked."""
        delivery.arrived_s = self.kernel.now
        waiters, delivery.waiters = delivery.waiters, []
        for waiter in waiters:
            if type(waiter) is Call:
                waiter.missing -= 1
                if not waiter.missing and not waiter.is_lost:
                    self._ready(waiter)
            else:
                wait, index = waiter
                wait.arrived.append(index)
                self._check_wait(wait)

    def _check_wait(self, wait: Wait) -> None:
        """Wake a program when it has what it needs, or can no longer get it."""
        if wait.is_over:
            return
        have, flying = len(wait.arrived), wait.total - len(wait.arrived) - len(wait.lost)
        if have >= wait.need or flying == 0:
            wait.is_over = True
            self.kernel.wake(wait.program)

    def on_timeout(self, wait: Wait) -> None:
        """A program has waited long enough."""
        if not wait.is_over:
            wait.is_over = True
            self.kernel.wake(wait.program)

    # --- programs ---------------------------------------------------------------------------------------------------------------------

    def _start_program(self, site: Site, call: Call) -> None:
        root = call.root
        assert root is not None
        root.started_s = self.kernel.now
        fn, args = call.fn, call.args
        call.has_run = True
        call.args = ()
        if self.is_lossy:
            site.calls.pop(call, None)

        def text() -> Any:
            return fn(node, *map_leaves(self._value_of, args))

        program = self.kernel.spawn(f"{self.name_of(fn)} at '{site.name}'", site.name, root, text, self._finished)
        node = SimNode(self, site, program)
        site.programs[program] = None

    def _finished(self, program: Program, value: Any, error: BaseException | None) -> None:
        """A program returned or raised."""
        site = self.sites[program.place]
        site.programs.pop(program, None)
        root = program.result
        if isinstance(error, DeviceLost) and root is not None:
            self.lose_value(root, error.device)
            return
        if error is not None:
            raise error
        if root is not None:
            root.value, root.has_value = value, True
            root.leaves = leaf_sizes(value)
            self._make(site, root)

    def park(self, waits_for: str) -> Any:
        """Suspend the running program; torch modes stay with it."""
        is_grad = torch.is_grad_enabled()
        if not is_grad:
            torch.set_grad_enabled(True)
        try:
            return self.kernel.park(waits_for)
        finally:
            torch.set_grad_enabled(is_grad)

    def on_wake(self, program: Program) -> None:
        """A sleeping program goes on."""
        self.kernel.wake(program)

    # --- numerics ---------------------------------------------------------------------------------------------------------------------

    def _value_of(self, leaf: Any) -> Any:
        """The value that a Ref names; runs pending numerics if it must."""
        return self.value(leaf) if isinstance(leaf, SimRef) else leaf

    def value(self, ref: SimRef) -> Any:
        """The value that a Ref names; runs pending numerics if it must."""
        root = ref.root
        if not root.has_value:
            assert root.call is not None
            self.flush([root.call])
        return at(root.value, ref.path) if ref.path else root.value

    def flush(self, needed: list[Call]) -> None:
        """Run the numerics of `needed`, of what they depend on, and of other pending calls in order of end, up to the cap."""
        chosen: dict[Call, int] = {}
        for call in needed:
            self._level(call, chosen)
        if len(chosen) < FLUSH_CAP:
            for call in sorted(self.pending, key=lambda c: (c.end_s, c.number)):
                if call not in chosen:
                    self._level(call, chosen)
                    if len(chosen) >= FLUSH_CAP:
                        break
        self.flushes += 1
        self.flushed_calls += len(chosen)
        levels: dict[int, list[Call]] = {}
        for call, level in chosen.items():
            levels.setdefault(level, []).append(call)
        for level in sorted(levels):
            calls = levels[level]
            if level:
                calls.sort(key=lambda c: (c.end_s, c.number))
            self._execute(calls)

    def _level(self, call: Call, chosen: dict[Call, int]) -> int:
        """Depth of a call in the graph of calls whose numerics have not run; adds it and what it depends on to `chosen`."""
        level = chosen.get(call)
        if level is not None:
            return level
        level = 0
        if not call.has_refs and not call.state:
            chosen[call] = 0
            return 0
        stack: list[Call] = [call]
        while stack:  # iterative: chains can be long
            top = stack[-1]
            before = [dep for dep in self._depends(top) if not dep.has_run]
            missing = [dep for dep in before if dep not in chosen]
            if missing:
                stack.extend(missing)
                continue
            stack.pop()
            chosen[top] = level = 1 + max([chosen[dep] for dep in before], default=-1)
        return chosen[call]

    def _depends(self, call: Call) -> list[Call]:
        deps = [
            leaf.root.call for _, leaf in leaves(call.args) if isinstance(leaf, SimRef) and not leaf.root.has_value and leaf.root.call is not None
        ]
        deps += [value.call for value in call.state.values() if type(value) is Later]
        return deps

    def _execute(self, calls: list[Call]) -> None:
        jobs: list[Job] = []
        checked: set[int] = set()  # a map's arguments are looked at once
        for call in calls:
            for versions in call.versions:
                if versions and id(versions) not in checked:
                    checked.add(id(versions))
                    self._check_versions(call, versions)
            args = map_leaves(self._value_of, call.args) if call.has_refs else call.args
            state = {key: value.call.changes[value.key] if type(value) is Later else value for key, value in call.state.items()} if call.state else {}
            jobs.append(Job(call.number, call.fn, self.name_of(call.fn), call.place, args, state, call.drawn, call.started_s or 0.0))
        results = self.executor.run(jobs)
        for call, result in zip(calls, results, strict=True):
            self._take(call, result)

    def _take(self, call: Call, result: Result) -> None:
        """Keep a call's result and check that it cost what was predicted."""
        if result.error is not None:
            if isinstance(result.error, AirloomError) and not isinstance(result.error, RunFailed):
                raise result.error
            raise RunFailed(
                f"{self.name_of(call.fn)} at device '{call.place}', round {self.round}, issued at {call.made_at}: {type(result.error).__name__}: {result.error}"
            ) from result.error
        self.pending.pop(call, None)
        call.has_run = True
        call.args = ()  # a value must not keep alive what it was made from
        call.versions = ()
        call.changes = result.changes
        root = call.root
        assert root is not None
        root.value, root.has_value = result.value, True
        if call.price is None:
            call.changes = {**result.changes, "": result}
            call.state = {}
            return
        price, found = call.price, result.spent
        assert found is not None
        sizes = leaf_sizes(result.value)
        if found.work.flops != price.flops or found.drawn != price.drawn or sizes != price.leaves or result.changes.keys() != price.changes.keys():
            raise RunFailed(
                f"{self.name_of(call.fn)} at device '{call.place}': predicted {price.flops:.0f} FLOPs, {price.drawn} samples, sizes {_sizes(price.leaves)} and "
                f"state {sorted(price.changes)}; found {found.work.flops:.0f}, {found.drawn}, {_sizes(sizes)} and {sorted(result.changes)}; its work depends on "
                f"values: let it read them before it branches (float(...)), or declare its work with here.cost"
            )
        site = self.sites[call.place]
        for key in price.changes:
            stored = site.state.get(key)
            if type(stored) is Later and stored.call is call:
                site.state[key] = result.changes[key]
        call.state = {}

    def _check_versions(self, call: Call, versions: list[tuple[Any, int]]) -> None:
        for leaf, version in versions:
            if version_of(leaf) != version:
                raise RunFailed(
                    f"{self.name_of(call.fn)} at device '{call.place}': an argument was changed in place after the call was issued at {call.made_at}; "
                    f"make a new value instead (x = x + 1, not x += 1 on tensors)"
                )

    # --- rounds and totals ------------------------------------------------------------------------------------------------------------

    def end_round(self) -> None:
        """A round ends: relays and places drop what only the round needed."""
        self.wires.forget_copies()
        for site in self.sites.values():
            site.held_bytes = 0
        self.round += 1

    def site_joules(self, site: Site) -> float:
        """Active and idle joules that a place has spent."""
        return site.meter.compute_j + site.meter.radio_j + self.site_idle_j(site)

    def site_idle_j(self, site: Site) -> float:
        """Idle joules of a place: idle power times the seconds it was present and its cpu was not busy."""
        meter = site.meter
        until_s = self.kernel.now if meter.absent_since_s is None else meter.absent_since_s
        return meter.idle_power_w * max(until_s + meter.present_s - meter.busy_s.get("cpu", 0.0), 0.0)

    def stamp(self) -> dict[str, float]:
        """Seconds, bytes and joules up to now, work under way included."""
        now = self.kernel.now
        totals = self.totals
        nbytes = dict(totals.bytes_by)
        flying, radio_j = self.wires.under_way()
        for direction, amount in flying.items():
            nbytes[direction] += amount
        joules, server_j, idle_busy_j = totals.joules + radio_j, totals.joules_server, 0.0
        for site in self.sites.values():
            for call in site.running:
                if call.end_s > now:
                    started_s = call.started_s or 0.0
                    part = (now - started_s) / (call.end_s - started_s)
                    if site.meter.is_server:
                        server_j += call.joules * part
                    else:
                        joules += call.joules * part
                        if call.on == "cpu":
                            idle_busy_j += site.meter.idle_power_w * (now - started_s)
        return {
            "seconds": now,
            "bytes_up": nbytes["up"],
            "bytes_down": nbytes["down"],
            "bytes_backhaul": nbytes["backhaul"],
            "bytes_peer": nbytes["peer"],
            "joules": joules,
            "joules_idle": totals.idle_j(now) - idle_busy_j,
            "joules_server": server_j,
        }

    def device_totals(self) -> dict[str, Any]:
        """What each place has spent, by name."""
        return {name: site.meter.as_dict(self.site_idle_j(site)) for name, site in self.sites.items()}

    def _log_hop(self, transfer: Transfer, wire: Wire, nbytes: float) -> None:
        assert self.payload_log is not None
        kind = "arguments" if transfer.kind == "call" else "value"
        self.payload_log(self.kernel.now, wire.link.source, wire.link.target, transfer.label, kind, nbytes)


class _NoShape(Exception):
    """A Ref argument whose shape is not known yet: its call ran by contents and has not started."""


class _Arguments:
    """Arguments looked through once: their Refs, bodies, control bytes and versions."""

    __slots__ = ("_signature", "args", "body", "control", "parts", "refs", "versions")

    def __init__(self, args: tuple[Any, ...]) -> None:
        self.args = args
        self.refs: list[SimRef] = []
        self.parts: list[tuple[int, Any, int]] = []
        self.versions: list[tuple[Any, int]] = []
        self.body = 0
        self.control = 0
        self._signature: Any = None
        for _, leaf in leaves(args):
            if isinstance(leaf, SimRef):
                self.refs.append(leaf)
                continue
            nbytes = body_bytes(leaf)
            if nbytes >= 0:
                self.parts.append((key_of(leaf), leaf, nbytes))
                self.body += nbytes
                self.versions.append((leaf, version_of(leaf)))
            elif isinstance(leaf, Ref):
                raise ScenarioError(f"argument {leaf!r}: got a Ref of another engine; allowed are Refs of this run")
            else:
                self.control += control_bytes(leaf)

    def signature(self) -> Any:
        """What a price may depend on."""
        if self._signature is None:
            self._signature = signature(self.args)
        return self._signature


def _identity(fn: Callable[..., Any]) -> Any:
    """The bound object of a method, so that two methods with other fields have other prices."""
    return id(getattr(fn, "__self__", None))


def _sizes(sizes: tuple[tuple[Path, int, int], ...]) -> str:
    return str([max(body, small) for _, body, small in sizes])


def _caller() -> str:
    """file:line of the method's text that called a verb."""
    frame = sys._getframe(3)
    return f"{frame.f_code.co_filename.rsplit('/', 1)[-1]}:{frame.f_lineno}"


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
        return snapshot(self.sim, self.site)

    def estimate(self, fn: Callable[..., Any], where: str, *args: Any) -> Estimate:
        sim = self.sim
        site = sim.sites[where]
        shapes = map_leaves(sim._meta_of, args)
        sig = ((sim.name_of(fn), _identity(fn)), signature(shapes))
        price = sim.pricer.price(fn, sig, shapes, where, site.shadow, sim.kernel.now, site.drawn)
        if price is None:
            raise ScenarioError(
                f"node.estimate({sim.name_of(fn)}): its work depends on values, so it has no price before it runs; declare it with here.cost"
            )
        framing = sim.network.framing_bytes
        down = sum([part[2] for part in _Arguments(args).parts])
        up = sum([body for _, body, _ in price.leaves if body >= 0])
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
        root = Value(sim.kernel.number, self.site.name, None)
        root.value, root.has_value = value, True
        root.leaves = leaf_sizes(value)
        root.started_s = sim.kernel.now
        sim._make(self.site, root)
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
            delivery = sim.ask(ref, self.site)
            deliveries.append(delivery)
            if delivery.arrived_s is not None:
                there.append((delivery.arrived_s, ref.root.number, i))
            else:
                delivery.waiters.append((wait, i))
                if delivery.is_lost:
                    late.append(delivery)
        there.sort()
        wait.arrived = [i for _, _, i in there]
        for delivery in late:
            due_s = max(delivery.root.lost_s + sim.network.detect_s, sim.kernel.now)
            sim.kernel.at(due_s, sim.on_told, delivery)
        if len(wait.arrived) < need and len(refs) > len(wait.arrived):
            if timeout_s is not None:
                sim.kernel.at(sim.kernel.now + timeout_s, sim.on_timeout, wait)
            sim.park(f"{verb} of {len(refs)} values, {len(wait.arrived)} of {need} arrived")
        wait.is_over = True
        taken = set(wait.arrived) | set(wait.lost)
        if len(taken) < len(refs):
            for i, delivery in enumerate(deliveries):
                if i not in taken and delivery.waiters:
                    delivery.waiters = [w for w in delivery.waiters if type(w) is Call or w[0] is not wait]
        return wait.arrived, wait.lost

    def fetch(self, refs: Any) -> Any:
        many = refs if isinstance(refs, list | tuple) else [refs]
        _, lost = self._wait(many, len(many), None, "fetch")
        if lost:
            raise DeviceLost(many[lost[0]].root.lost_device)
        self.prefetch(many)
        values = [self.sim.value(ref) for ref in many]
        return values if isinstance(refs, list | tuple) else values[0]

    def prefetch(self, refs: Sequence[SimRef]) -> None:
        """Run all missing numerics in as few sets as the cap allows."""
        calls = [ref.root.call for ref in refs if not ref.root.has_value and ref.root.call is not None]
        for start in range(0, len(calls), FLUSH_CAP):
            batch = [call for call in calls[start : start + FLUSH_CAP] if not call.has_run]
            if batch:
                self.sim.flush(batch)

    def wait_made(self, refs: Sequence[SimRef]) -> tuple[list[int], list[int]]:
        """Wait until all values are made where they are; nothing is sent. Return indices of the made and of the lost ones."""
        sim = self.sim
        wait = Wait(self.running, len(refs), len(refs))
        for i, ref in enumerate(refs):
            delivery = sim.ask(ref, sim.sites[ref.root.place])
            if delivery.arrived_s is not None:
                wait.arrived.append(i)
            elif delivery.is_lost:
                wait.lost.append(i)
            else:
                delivery.waiters.append((wait, i))
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
        over = MEAN if over is None else over
        if weights is not None and len(weights) != len(refs):
            raise ScenarioError(f"node.reduce(weights=...): got {len(weights)} weights for {len(refs)} values; allowed is one weight per value")
        if not isinstance(over, Fold):
            reducer, *prepared = over if isinstance(over, tuple) else (over,)
            if not isinstance(reducer, Reducer):
                raise ScenarioError(f"node.reduce(over={reducer!r}): allowed are reducers (MEAN, SUM, counted_mean(...), ...)")
            return reducer(self, refs, weights, *prepared)
        _, lost = self._wait(refs, len(refs), None, "reduce")
        if lost and on_loss == "raise":
            raise DeviceLost(refs[lost[0]].root.lost_device)  # type: ignore[attr-defined]
        gone = set(lost)
        kept = [i for i in range(len(refs)) if i not in gone]
        if not kept:
            if like is None:
                if lost:
                    raise DeviceLost(refs[lost[0]].root.lost_device)  # type: ignore[attr-defined]
                raise ScenarioError("node.reduce: got no values and no `like`; give like=x to get its zeros")
            return map_leaves(_zeros, like)
        given = [1.0] * len(refs) if weights is None else [float(w) for w in weights]
        scale = 1.0
        if over.is_mean:
            total = sum([given[i] for i in (kept if on_loss == "renormalize" else range(len(refs)))])
            if not total > 0:
                raise ScenarioError(f"node.reduce: got weights that sum to {total}; a mean needs a positive sum")
            scale = 1.0 / total
        fold = Accumulator()
        for start in range(0, len(kept), FLUSH_CAP):
            block = kept[start : start + FLUSH_CAP]
            self.prefetch([refs[i] for i in block])  # type: ignore[misc]
            for i in block:
                fold.add(self.sim.value(refs[i]), given[i] * scale)  # type: ignore[arg-type]
        return fold.value()

    def sleep(self, until_s: float) -> None:
        sim = self.sim
        if until_s > sim.kernel.now:
            sim.kernel.at(until_s, sim.on_wake, self.running)
            sim.park(f"sleep until {until_s:.6g} s")

    def report(self, *, model: Any = None, personal: Mapping[str, Any] | None = None, **metrics: Any) -> None:
        self.sim.on_report(self, model, personal, metrics)

    def rng(self, *labels: object) -> np.random.Generator:
        return generator(self.sim.seed, "node", self.site.name, *labels)


def _zeros(leaf: Any) -> Any:
    """Zeros of a leaf's kind."""
    return leaf * 0 if not isinstance(leaf, str | None) else leaf
