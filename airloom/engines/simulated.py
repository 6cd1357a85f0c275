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
from typing import Any

import torch

from airloom.clock.kernel import Kernel, Program
from airloom.clock.meter import SiteMeter, Totals
from airloom.clock.span import Span
from airloom.clock.wires import Transfer, Wire, Wires
from airloom.engines.arguments import Arguments, caller, identity
from airloom.engines.executors import Executor, Result
from airloom.engines.numerics import Numerics
from airloom.engines.pending import Call, Delivery, Issue, Later, SimRef, Value
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
        self.ended = self.on_end  # bound once: an event each
        self.changed = self.on_change
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
                    self.kernel.later(change_s, self.changed, name)

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
            kernel.later(change_s, self.changed, name)
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
            resource.clear()
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
            resource.dequeue(call, self.kernel.now)
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
        codec, is_chain = codec_of(fn)
        if is_chain:  # its values go from client to client, and are encoded by themselves
            codec = None
        shared = Arguments(args)
        issue = Issue(fn, label, here, node.program_number, priority=priority, is_program=is_program, codec=codec, made_at=caller())
        fn_sig = (label, identity(fn))
        if not shared.refs and not each:
            issue.signature = (fn_sig, shared.signature(), ())
        versions: tuple[list[tuple[Any, int]], ...] = (shared.versions,) if shared.versions else ()
        signature, has_refs = issue.signature, bool(shared.refs)
        parts, body, control = shared.parts, shared.body, 0 if has_refs and not shared.parts else shared.control
        own: Arguments | None = None
        sites, routes = self.sites, node.site.routes
        refs: list[SimRef] = []
        for i, place in enumerate(where):
            site = sites.get(place)
            if site is None:
                raise ScenarioError(f"{label}: got place {str(place)!r}; allowed are the network's places (such as {', '.join(list(sites)[:3])})")
            kernel.number += 1
            root = Value(kernel.number, place, issue)
            resource = None if on is None else site.resources.get(on) or self._resource(site, on)
            call = root.call = Call(kernel.number, issue, site, args, resource, root)
            if each:
                own = Arguments(tuple(each[i]))
                call.args = (*args, *own.args)
                has_refs = bool(shared.refs or own.refs)
                versions = (shared.versions, own.versions)
                signature = None if has_refs else (fn_sig, shared.signature(), own.signature())
                parts, body = shared.parts + own.parts, shared.body + own.body
                control = 0 if has_refs and not parts else shared.control + own.control
            call.has_refs = has_refs
            call.versions = versions
            call.signature = signature
            refs.append(SimRef(root))
            if not site.is_present:
                self.lose_call(call, place)
                continue
            if self.is_lossy:
                site.calls[call] = None
            if resource is not None and priority >= 0:
                resource.enqueue(call)
            if place != here:
                route = routes.get(place) or wires.route(node.site, place)
                call.missing = 1
                if share_hz is not None:
                    call.hz = root.hz = float(share_hz[i])
                if self.is_lossy and not self.values.all_present(route):
                    self.lose_call(call, self.values.absent(route))
                    continue
                wires.send(Transfer(call, parts, body, control, route, call.hz))
            if has_refs:
                for ref in shared.refs if own is None else [*shared.refs, *own.refs]:
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
        codec = root.issue.codec
        if codec is not None and root.place != site.name and self.task.samples(site.name) and self.task.samples(root.place):
            raise Unsupported(
                f"{call.issue.label} at '{site.name}': got a value of '{root.place}' that is encoded by {codec} against what came down to it; "
                f"allowed are values that go up: fetch it and send it on, or use codec=none"
            )
        delivery = self.values.ask(ref, site)
        if delivery.is_lost:
            self.lose_call(call, delivery.lost_device)
        elif delivery.arrived_s is None:
            call.missing += 1
            delivery.waiters += (call, -1)

    def ready(self, call: Call) -> None:
        """All arguments are at the place."""
        site, resource, issue = call.site, call.resource, call.issue
        if issue.is_program:
            self._start_program(site, call)
            return
        if resource is None:
            self._start(site, call)
            return
        call.missing = -1  # arguments are there
        now = self.kernel.now
        if issue.priority < 0:
            resource.fill(call, now)
        elif resource.oldest(issue.owner) is not call:
            return
        elif resource.free and not resource.ready:  # the common case: nobody else waits
            resource.free -= 1
            self._start(site, call)
            resource.dequeue(call, now)
            return
        else:
            resource.make_ready(call, now)
        self._try_start(site, resource)

    def _try_start(self, site: Site, resource: Resource) -> None:
        """Start calls while slots are free."""
        while resource.free:
            call = resource.take()
            if call is None:
                return
            resource.free -= 1
            self._start(site, call)
            if call.issue.priority >= 0:
                resource.dequeue(call, self.kernel.now)

    # --- running calls ----------------------------------------------------------------------------------------------------------------

    def _start(self, site: Site, call: Call) -> None:
        """A call begins: it is stamped and priced; its numerics wait."""
        kernel, issue, root = self.kernel, call.issue, call.root
        now = kernel.now
        kernel.number += 2
        call.start_number = kernel.number
        call.started_s = root.started_s = now
        call.drawn = site.drawn
        if site.state:
            call.state = dict(site.state)
        sig = call.signature
        price = self._price(site, call) if sig is None else self.pricer.price(issue.fn, sig, call.args, site, now)
        if price is None:
            price = self._run_now(site, call)
        else:
            self.numerics.pending[call] = None
        call.price = price
        if price.drawn:
            site.drawn += price.drawn
        root.leaves = price.leaves
        known = price.on_device.get(id(site.device))
        seconds, call.joules = price.at(site.device) if known is None else known
        if self.is_loaded:
            seconds *= self.network.slowdown(site.name, now, self.seed)  # the same joules: the rest belongs to what else runs there
        if price.bill:  # due once a call has begun, whoever still waits for it
            self.totals.price += price.bill
            site.meter.price += price.bill
        if price.peak_bytes + site.stored_bytes + site.held_bytes > site.room_bytes:
            self._refuse_memory(site, call, price)
        call.end_s = end_s = now + seconds
        self.running[call] = None
        kernel.agenda.push((end_s, kernel.number, self.ended, call))

    def _price(self, site: Site, call: Call) -> Price | None:
        """Price a call with Refs among its arguments; None if it must run at once."""
        try:
            args = map_leaves(self.meta_of, call.args)
        except _NoShape:
            return None
        issue = call.issue
        sig = ((issue.label, identity(issue.fn)), signature(args))
        return self.pricer.price(issue.fn, sig, args, site, self.kernel.now)

    def meta_of(self, leaf: Any) -> Any:
        """Shapes of an argument: of the value that a Ref names, without its contents."""
        if not isinstance(leaf, SimRef):
            return leaf
        root = leaf.root
        if root.has_value:  # or what is left of it
            return map_leaves(to_meta, at(root.value, leaf.path))
        call = root.call
        if call is None or call.price is None:
            raise _NoShape
        return at(call.price.result, leaf.path)

    def _run_now(self, site: Site, call: Call) -> Price:
        """The price depends on contents: run the numerics at the call's start."""
        self.numerics.flush([call])
        result = (call.changes or {}).pop("", None)
        assert isinstance(result, Result) and result.spent is not None
        return Price(result.spent, result.value, result.changes)

    def _refuse_memory(self, site: Site, call: Call, price: Price) -> None:
        need = price.peak_bytes + site.stored_bytes + site.held_bytes
        raise DoesNotFit(
            f"{call.issue.label} at '{site.name}' needs {need / 1e6:.1f} MB (peak {price.peak_bytes / 1e6:.1f}, state "
            f"{site.stored_bytes / 1e6:.1f}, values {site.held_bytes / 1e6:.1f}); its device '{site.device.profile}' has "
            f"{site.room_bytes / 1e6:.1f} MB available: use a smaller model, batch or submodel"
        )

    def on_end(self, call: Call) -> None:
        """A call ends: charge it, merge its state, make its value, start the next one."""
        if call.is_lost:
            return
        site, price, resource = call.site, call.price, call.resource
        del self.running[call]
        if self.is_lossy:
            site.calls.pop(call, None)
        self._charge_compute(site, call, 1.0)
        if price.changes:
            self._merge(site, call)
        if resource is not None:
            resource.free += 1
            if resource.ready or resource.fillers:
                self._try_start(site, resource)
        self.values.make(site, call.root)

    def _charge_compute(self, site: Site, call: Call, part: float) -> None:
        meter, busy_s, joules = site.meter, site.meter.busy_s, call.joules * part
        on = "handler" if call.resource is None else call.resource.name
        busy_s[on] = busy_s.get(on, 0.0) + (call.end_s - (call.started_s or 0.0)) * part
        if self.watch is not None:
            self.watch.call(call, part)
        meter.compute_j += joules
        if call.price.flops:
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
                    f"device '{site.name}', state[{key!r}]: two overlapping calls wrote it ({call.issue.label} began at "
                    f"{call.started_s:.6g} s); let one of them write, or issue them on the same resource"
                )
            before = site.shadow.get(key)
            site.stored_bytes += price.state_bytes[key] - (before[2] if before is not None else 0)
            site.shadow[key] = (price.signatures[key], price.changes[key], price.state_bytes[key])
            site.state[key] = Later(call, key) if call.changes is None else call.changes[key]
        self.kernel.number += 1
        for key in price.changes:
            site.written[key] = self.kernel.number

    # --- programs ---------------------------------------------------------------------------------------------------------------------

    def _start_program(self, site: Site, call: Call) -> None:
        root = call.root
        root.started_s = self.kernel.now
        root.call = None
        fn, args = call.issue.fn, call.args
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
        self.values.forget_held()
        self.numerics.folded_bytes = 0
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

    def _log_hop(self, transfer: Transfer, wire: Wire, part: float | None) -> None:
        subject = transfer.subject
        is_call = type(subject) is Call
        what: Any = subject if is_call else subject.root if type(subject) is Delivery else subject[0]
        if self.watch is not None:
            self.watch.hop(transfer, what, wire, part)
        if self.payload_log is not None and part == 1.0 and transfer.bits:
            kind = "arguments" if is_call else "value"
            self.payload_log(transfer.end_s, wire.link.source, wire.link.target, what.issue.label, kind, transfer.bits / 8.0)


class _NoShape(Exception):
    """A Ref argument whose shape is not known yet: its call ran by contents and has not started."""
