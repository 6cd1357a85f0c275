"""The simulated engine: a method's text on one global clock, with physical devices and links.

The clock part decides *when*: messages travel, calls queue and run, values are made, asked for and lost. The numbers part decides *what*, late and in
sets: a started call is priced at once and waits in `pending` until a program needs a value; then an executor runs the set. The clock never depends
on the executor.

Left out: energy of base stations; memory of values that a later round still holds by Ref is counted until the round ends.
"""

# Trees (states, arguments, results) are of any shape, so what is taken out of them has no static type.
# pyright: strict, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from heapq import heappop, heappush
from typing import Any

import torch

from airloom.clock.kernel import Kernel, Program
from airloom.clock.meter import SiteMeter, Totals
from airloom.clock.span import Span
from airloom.clock.wires import Flow, Transfer, Wire, Wires
from airloom.engines.arguments import Arguments, caller, identity
from airloom.engines.executors import Executor, Result
from airloom.engines.numerics import Numerics
from airloom.engines.pending import Call, Later, SimRef, Value
from airloom.engines.price import Price, Pricer, leaf_sizes
from airloom.engines.simnode import SimNode
from airloom.engines.sites import Resource, Site
from airloom.engines.values import Values
from airloom.engines.watch import Watch
from airloom.errors import DeviceLost, DoesNotFit, RunFailed, ScenarioError, Unsupported
from airloom.network.network import Network
from airloom.program.codec import codec_of
from airloom.program.method import function_name
from airloom.program.tree import at, map_leaves, signature, to_meta
from airloom.tasks.task import Task


class Simulation:
    """One run's world: sites, wires, calls under way, pending numerics.

    Arguments:
        network, task: from the scenario.
        seed: names all streams of the environment and of the method.
        executor: runs the numerics of sets of calls.
        report: called as report(node, model, personal, metrics) by `node.report`.
        log: payload log, called as log(time_s, source, target, label, kind, bytes), or None.
        span: called with what each resource did, as it ends, or None.
    """

    def __init__(
        self,
        network: Network,
        task: Task,
        seed: int,
        executor: Executor,
        report: Callable[[SimNode, Any, Any, dict[str, Any]], None],
        log: Callable[[float, str, str, str, str, float], None] | None = None,
        span: Callable[[Span], None] | None = None,
    ) -> None:
        self.network = network
        self.task = task
        self.seed = seed
        self.on_report = report
        self.payload_log = log
        self.kernel = Kernel()
        self.totals = Totals()
        self.sites: dict[str, Site] = {}
        self.running: dict[Call, None] = {}
        for name, place in network.places.items():
            is_server = place.role != "client"
            self.sites[name] = Site(place, SiteMeter(place.device.idle_power_w, is_server))
        self.numerics = Numerics(executor, self.sites)
        self.values = Values(self.kernel, network, self.sites, self.ready, self.lose_call)
        arrived, log_hop = self.values.on_arrived, self._log_hop if log or span else None
        self.wires = self.values.wires = Wires(self.kernel, network, self.sites.__getitem__, self.totals, seed, arrived, log_hop)
        self.watch = None if span is None else Watch(self.kernel, self.numerics, self.wires, span)
        self.pricer = Pricer(task, seed)
        self.is_lossy = self.wires.is_lossy
        self.is_loaded = not network.load.is_idle
        self.change_waiters: list[Program] = []
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
            self.values.lose_transfer(transfer, name)
        for call in list(site.calls):
            self.lose_call(call, name)
        for program in list(site.programs):
            self.kernel.kill(program)
            if program.result is not None:
                self.values.lose_value(program.result, name)
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

    def lose_call(self, call: Call, device: str) -> None:
        """A call is lost: it changes no state and consumes no draws; what depends on it is lost too."""
        if call.is_lost or call.root.is_made:
            return
        call.is_lost = True
        site, resource = call.site, call.resource
        site.calls.pop(call, None)
        if call in self.running:
            del self.running[call]
            self._charge_compute(site, call, (self.kernel.now - (call.started_s or 0.0)) / (call.end_s - (call.started_s or 0.0) or 1.0))
            if resource is not None:
                resource.free += 1
            site.drawn = min(site.drawn, call.drawn)
        elif resource is not None:
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
        self.numerics.pending.pop(call, None)
        self.values.lose_value(call.root, device)

    # --- issuing calls ----------------------------------------------------------------------------------------------------------------

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
        label = function_name(fn)
        owner = node.program_number
        codec, is_chain = codec_of(fn)
        if is_chain:  # its values go from client to client, and are encoded by themselves
            codec = None
        shared = Arguments(args)
        fn_sig = (label, identity(fn))
        shared_sig = None if shared.refs else (fn_sig, shared.signature(), ())
        refs: list[SimRef] = []
        made_at = caller()
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
            root.label, root.issuer, root.codec = label, here, codec
            own = Arguments(tuple(each[i])) if each else None
            resource = None if on is None else site.resources.get(on) or self._resource(site, on)
            call = Call(number, fn, site, (*args, *own.args) if own else args, owner, resource, priority, root, label)
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
            if resource is not None and priority >= 0:
                queue = resource.queues.get(owner)
                if queue is None:
                    resource.queues[owner] = [call]
                else:
                    queue.append(call)
            if place != here:
                route = wires.route(node.site, place)
                call.missing += 1
                parts = shared.parts + own.parts if own else shared.parts
                weight = shared.body + own.body if own else shared.body
                control = 0 if call.has_refs and not parts else shared.control + (own.control if own else 0)
                if share_hz is not None:
                    call.hz = root.hz = float(share_hz[i])
                if self.is_lossy and not self.values.all_present(route):
                    self.lose_call(call, self.values.absent(route))
                    continue
                wires.send(Transfer("call", call, parts, weight, control, route, call.hz, label))
            for ref in shared.refs:
                self._need(call, ref, site)
            if own is not None:
                for ref in own.refs:
                    self._need(call, ref, site)
            if not call.missing and not call.is_lost:
                self.ready(call)
        return refs

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
        root = ref.root
        if root.codec is not None and root.place != site.name and self.task.samples(site.name) and self.task.samples(root.place):
            raise Unsupported(
                f"{call.label} at '{site.name}': got a value of '{root.place}' that is encoded by {root.codec} against what came down to it; "
                f"allowed are values that go up: fetch it and send it on, or use codec=none"
            )
        delivery = self.values.ask(ref, site)
        if delivery.is_lost:
            self.lose_call(call, delivery.lost_device)
        elif delivery.arrived_s is None:
            call.missing += 1
            delivery.waiters.append(call)

    def ready(self, call: Call) -> None:
        """All arguments are at the place."""
        site, resource = call.site, call.resource
        if call.is_program:
            self._start_program(site, call)
            return
        if resource is None:
            self._start(site, call)
            return
        call.missing = -1  # arguments are there
        if call.priority < 0:
            heappush(resource.fillers, (-call.priority, self.kernel.now, call.number, call))
            self._try_start(site, resource)
            return
        queue = resource.queues[call.owner]
        if queue[0] is not call:
            return
        if resource.free and not resource.ready:  # the common case: nobody else waits
            del queue[0]
            resource.free -= 1
            self._start(site, call)
            self._advance(resource, call.owner, queue)
            return
        heappush(resource.ready, (self.kernel.now, call.number, call))
        if resource.free:
            self._try_start(site, resource)

    def _advance(self, resource: Resource, owner: int, queue: list[Call]) -> None:
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
                del resource.queues[call.owner][0]
            else:
                while resource.fillers and call is None:
                    call = heappop(resource.fillers)[3]
                    if call.is_lost:
                        call = None
                if call is None:
                    return
            resource.free -= 1
            self._start(site, call)
            if call.priority >= 0:
                self._advance(resource, call.owner, resource.queues[call.owner])

    # --- running calls ----------------------------------------------------------------------------------------------------------------

    def _start(self, site: Site, call: Call) -> None:
        """A call begins: it is stamped and priced; its numerics wait."""
        kernel = self.kernel
        now = kernel.now
        call.started_s = now
        kernel.number += 1
        call.start_number = kernel.number
        call.drawn = site.drawn
        if site.state:
            call.state = dict(site.state)
        sig = call.trees
        price = self._price(site, call) if sig is None else self.pricer.price(call.fn, sig, call.args, site, now)
        if price is None:
            price = self._run_now(site, call)
        else:
            self.numerics.pending[call] = None
        call.price = price
        site.drawn = call.drawn + price.drawn
        root = call.root
        root.started_s = now
        root.leaves = price.leaves
        seconds, joules = price.at(site.device)
        if self.is_loaded:
            seconds *= self.network.slowdown(site.name, now, self.seed)  # the same joules: the rest belongs to what else runs there
        call.joules = joules
        self.totals.price += price.bill  # due once a call has begun, whoever still waits for it
        site.meter.price += price.bill
        if price.peak_bytes + site.stored_bytes + site.held_bytes > site.room_bytes:
            self._refuse_memory(site, call, price)
        call.end_s = now + seconds
        self.running[call] = None
        kernel.number += 1
        kernel.agenda.push((call.end_s, kernel.number, self.on_end, call))

    def _price(self, site: Site, call: Call) -> Price | None:
        """Price a call with Refs among its arguments; None if it must run at once."""
        try:
            args = map_leaves(self.meta_of, call.args)
        except _NoShape:
            return None
        sig = ((call.label, identity(call.fn)), signature(args))
        return self.pricer.price(call.fn, sig, args, site, self.kernel.now)

    def meta_of(self, leaf: Any) -> Any:
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
        self.numerics.flush([call])
        result = call.changes.pop("", None)
        assert isinstance(result, Result) and result.spent is not None
        return Price(result.spent, result.value, result.changes)

    def _refuse_memory(self, site: Site, call: Call, price: Price) -> None:
        need = price.peak_bytes + site.stored_bytes + site.held_bytes
        raise DoesNotFit(
            f"{function_name(call.fn)} at '{site.name}' needs {need / 1e6:.1f} MB (peak {price.peak_bytes / 1e6:.1f}, state "
            f"{site.stored_bytes / 1e6:.1f}, values {site.held_bytes / 1e6:.1f}); its device '{site.device.profile}' has "
            f"{site.room_bytes / 1e6:.1f} MB available: use a smaller model, batch or submodel"
        )

    def on_end(self, call: Call) -> None:
        """A call ends: charge it, merge its state, make its value, start the next one."""
        if call.is_lost:
            return
        site = call.site
        del self.running[call]
        if self.is_lossy:
            site.calls.pop(call, None)
        self._charge_compute(site, call, 1.0)
        price = call.price
        if price.changes:
            self._merge(site, call)
        resource = call.resource
        if resource is not None:
            resource.free += 1
            if resource.ready or resource.fillers:
                self._try_start(site, resource)
        self.values.make(site, call.root)

    def _charge_compute(self, site: Site, call: Call, part: float) -> None:
        meter = site.meter
        seconds = (call.end_s - (call.started_s or 0.0)) * part
        on = "handler" if call.resource is None else call.resource.name
        meter.busy_s[on] = meter.busy_s.get(on, 0.0) + seconds
        if self.watch is not None:
            self.watch.call(call, part)
        joules = call.joules * part
        meter.compute_j += joules
        meter.flops += call.price.flops * part
        if meter.is_server:
            self.totals.joules_server += joules
        else:
            self.totals.joules += joules
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
                    f"device '{site.name}', state[{key!r}]: two overlapping calls wrote it ({function_name(call.fn)} began at "
                    f"{call.started_s:.6g} s); let one of them write, or issue them on the same resource"
                )
            before = site.shadow.get(key)
            site.stored_bytes += price.state_bytes[key] - (before[2] if before is not None else 0)
            site.shadow[key] = (price.signatures[key], price.changes[key], price.state_bytes[key])
            site.state[key] = call.changes[key] if call.has_run else Later(call, key)
        self.kernel.number += 1
        for key in price.changes:
            site.written[key] = self.kernel.number

    # --- programs ---------------------------------------------------------------------------------------------------------------------

    def _start_program(self, site: Site, call: Call) -> None:
        root = call.root
        root.started_s = self.kernel.now
        root.call = None
        fn, args = call.fn, call.args
        call.has_run = True
        call.args = ()
        if self.is_lossy:
            site.calls.pop(call, None)

        def text() -> Any:
            return fn(node, *map_leaves(partial(self.numerics.value_of, place=site.name), args))

        program = self.kernel.spawn(f"{function_name(fn)} at '{site.name}'", site.name, root, text, self._finished)
        node = SimNode(self, site, program)
        site.programs[program] = None

    def _finished(self, program: Program, value: Any, error: BaseException | None) -> None:
        """A program returned or raised."""
        site = self.sites[program.place]
        site.programs.pop(program, None)
        root = program.result
        if isinstance(error, DeviceLost) and root is not None:
            self.values.lose_value(root, error.device)
            return
        if error is not None:
            raise error
        if root is not None:
            root.value, root.has_value = value, True
            root.leaves = leaf_sizes(value)
            self.values.make(site, root)

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

    # --- rounds and totals ------------------------------------------------------------------------------------------------------------

    @property
    def round(self) -> int:
        """Rounds that have ended."""
        return self.numerics.round

    def value_of(self, leaf: Any) -> Any:
        """The value that a Ref names; other leaves as they are."""
        return self.numerics.value_of(leaf)

    def end_round(self) -> None:
        """A round ends: relays and places drop what only the round needed."""
        self.wires.forget_copies()
        for site in self.sites.values():
            site.held_bytes = 0
        self.numerics.round += 1

    def site_joules(self, site: Site) -> float:
        """Active and idle joules that a place has spent."""
        return site.meter.compute_j + site.meter.radio_j + self.site_idle_j(site)

    def site_idle_j(self, site: Site) -> float:
        """Idle joules of a place: idle power times the seconds it was present."""
        meter = site.meter
        until_s = self.kernel.now if meter.absent_since_s is None else meter.absent_since_s
        return meter.idle_power_w * (until_s + meter.present_s)

    def stamp(self) -> dict[str, float]:
        """Seconds, bytes and joules up to now, work under way included."""
        now = self.kernel.now
        totals = self.totals
        nbytes = dict(totals.bytes_by)
        flying, radio_j = self.wires.under_way()
        for direction, amount in flying.items():
            nbytes[direction] += amount
        joules, server_j = totals.joules + radio_j, totals.joules_server
        for call in self.running:
            if call.end_s > now:
                started_s = call.started_s or 0.0
                part = (now - started_s) / (call.end_s - started_s)
                if call.site.meter.is_server:
                    server_j += call.joules * part
                else:
                    joules += call.joules * part
        return {
            "seconds": now,
            "bytes_up": nbytes["up"],
            "bytes_down": nbytes["down"],
            "bytes_backhaul": nbytes["backhaul"],
            "bytes_peer": nbytes["peer"],
            "joules": joules,
            "joules_idle": totals.idle_j(now),
            "joules_server": server_j,
            **({"price": totals.price} if self.task.requests else {}),
        }

    def device_totals(self) -> dict[str, Any]:
        """What each place has spent, by name."""
        return {name: site.meter.as_dict(self.site_idle_j(site)) for name, site in self.sites.items()}

    def stop_watching(self) -> None:
        """Tell no more spans."""
        self.watch = None
        self.wires.log = self._log_hop if self.payload_log is not None else None

    def _log_hop(self, flow: Flow | None, transfer: Transfer, wire: Wire, part: float) -> None:
        if self.watch is not None:
            self.watch.hop(flow, transfer, wire, part)
        if self.payload_log is not None and flow is not None and part == 1.0 and flow.bits:
            kind = "arguments" if transfer.kind == "call" else "value"
            self.payload_log(flow.end_s, wire.link.source, wire.link.target, transfer.label, kind, flow.bits / 8.0)


class _NoShape(Exception):
    """A Ref argument whose shape is not known yet: its call ran by contents and has not started."""
