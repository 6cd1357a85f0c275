"""Star methods on real machines: the server's side. A method's text runs here; device functions run where the clients live (`host`).

Calls leave when the text first waits, reports or ends its round, so an answer can bring along what the text asks for. A client has one call at a
time, in issue order. A value stays where it was made until somebody asks; between clients it goes over the server. A machine that does not answer a
ping within `patience_s` is lost, with all that runs and stays there, and `DeviceLost` names its clients; as soon as it answers a greeting it is used
again. A message is given to a machine once and an answer taken once: no update counts twice, and none vanishes without a loss being told. A machine
that sends what the method cannot have made is barred from the run.

How messages travel is a `Transport`'s business; this file knows no framework.

Left out: programs at clients, over-the-air sums, shares of a band (all Unsupported); `priority` and `on` have no effect on real processors.
"""

# Trees (states, arguments, results) are of any shape, so what is taken out of them has no static type.
# pyright: strict, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

import json
import math
import secrets
import time
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from airloom.clock.rng import generator
from airloom.engines.arguments import caller
from airloom.engines.executors import Job, Spent, run_job
from airloom.engines.fold import fold
from airloom.engines.host import HEAD_BYTES, STALE, Packet
from airloom.engines.measured import MeasuredWorld, Tally, WallClock
from airloom.engines.price import Pricer, Standing, estimated, leaf_sizes
from airloom.engines.rootref import RootRef
from airloom.engines.snapshot import snapshot
from airloom.engines.wire import Limits, Wire
from airloom.errors import DeviceLost, RunFailed, ScenarioError, Unsupported, WireError
from airloom.network.device import Work
from airloom.network.network import Network
from airloom.program.codec import Code, part_of
from airloom.program.method import Method, Service, function_name
from airloom.program.node import Estimate, Node, OnLoss, Snapshot
from airloom.program.protection import has_releases
from airloom.program.ref import Ref
from airloom.program.tree import Path, at, key_of, leaves, map_leaves, version_of
from airloom.tasks.requests import Request
from airloom.tasks.task import Task


class Transport(ABC):
    """Carries packets between this server and the machines of a deployment."""

    @abstractmethod
    def machines(self) -> dict[str, Any]:
        """Addresses by name of the machines that are known and reachable now; only those whose identity was proved."""

    @abstractmethod
    def send(self, address: Any, packet: Packet) -> Any:
        """Take a packet that leaves by the next `deliver`; return a ticket for its answer."""

    @abstractmethod
    def deliver(self) -> None:
        """Let all packets leave now; those for one machine may travel together."""

    @abstractmethod
    def answers(self, tickets: Sequence[Any]) -> list[tuple[Any, Packet | None]]:
        """Answers that are there now, each once, as (ticket, packet); None: it will never come."""

    @abstractmethod
    def close(self, error: str | None) -> None:
        """The run is over; `error` says why if it failed."""


@dataclass(frozen=True, kw_only=True)
class Manners:
    """How long this server waits for machines (defaults ours).

    Arguments:
        ping_s: silence of a machine with work after which it is asked whether it is still there.
        patience_s: without an answer for so long, it is lost.
        look_s: between two looks for machines that come (back).
        start_s: for machines to connect at the beginning of a run.
        load_s: for a machine that is connected to load what it needs then.
        return_s: for any machine to come back when all are lost.
    """

    ping_s: float = 2.0
    patience_s: float = 10.0
    look_s: float = 1.0
    start_s: float = 30.0
    load_s: float = 180.0
    return_s: float = 120.0


class Held:
    """A value that was made, or will be made, at a place."""

    __slots__ = ("arrived", "asked", "given", "is_made", "lost_device", "made_s", "number", "parts", "place", "started_s")

    def __init__(self, number: int, place: str) -> None:
        self.number = number
        self.place = place
        self.parts: dict[Path, Any] = {}  # what is here
        self.arrived: dict[Path, float] = {}
        self.asked: dict[Path, None] = {}  # parts that are to come
        self.given: tuple[Any, ...] | None = None  # arguments of its call, where a codec may send a difference to one of them
        self.is_made = False
        self.lost_device: str | None = None
        self.started_s: float | None = None
        self.made_s: float | None = None

    def has(self, path: Path) -> bool:
        """Whether a part is here."""
        return any(path[:cut] in self.parts for cut in range(len(path) + 1))

    def value(self, path: Path) -> Any:
        """A part that is here."""
        for cut in range(len(path) + 1):
            if path[:cut] in self.parts:
                return at(self.parts[path[:cut]], path[cut:])
        raise DeviceLost(self.lost_device or self.place)


class StarRef(RootRef[Held]):
    """The name of a value, or of a part of it."""

    __slots__ = ()

    @property
    def arrived_s(self) -> float | None:
        times = [s for path, s in self.root.arrived.items() if path == self.path[: len(path)]]
        return min(times, default=None)


@dataclass(eq=False)
class Call:
    """A device function at a place, from issue to answer."""

    root: Held
    fn: Callable[..., Any]
    shared: tuple[Any, ...]
    each: tuple[Any, ...]
    refs: list[StarRef]
    versions: list[tuple[Any, int]]
    made_at: str
    wants: list[Path] = field(default_factory=list)


@dataclass
class Machine:
    """One machine of the deployment and what this server knows of it."""

    name: str
    places: list[str]
    address: Any = None
    epoch: str | None = None  # None: not here
    greeting: Any = None
    ping: Any = None
    was_here: bool = False
    is_barred: bool = False
    heard_s: float = 0.0
    asked_s: float = 0.0
    loads: int = 0


@dataclass
class Place:
    """One client (or the server itself) and what waits there."""

    name: str
    machine: Machine | None
    queue: deque[Call] = field(default_factory=deque)
    running: Call | None = None
    has: set[tuple[int, Path]] = field(default_factory=set)  # values of other places that lie there
    drop: list[int] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)  # of the server itself
    drawn: int = 0
    taken: int = 0  # number of the last call whose answer came


class _Answer:
    """The head of an answer, taken apart; raises what is wrong with it."""

    def __init__(self, packet: Packet) -> None:
        if len(packet.head) > HEAD_BYTES:
            raise ValueError(f"a head of {len(packet.head)} bytes")
        head = json.loads(packet.head)
        self.kind = str(head["kind"])[:20]
        self.epoch = str(head["epoch"])[:64] if self.kind in ("hello", "ping") else None
        self.loads = int(head["loads"]) if self.kind == "hello" else 0
        self.held = {(str(place), int(number)) for place, number in head["held"]} if self.kind == "hello" else set()
        self.busy_s = 0.0
        self.spent: Spent | None = None
        if self.kind == "done":
            flops, steps, samples, width, moved, form, drawn, declared_s = head["spent"]
            numbers = [float(v) for v in (head["busy_s"], flops, steps, samples, width, moved, drawn, declared_s)]
            if not all(math.isfinite(v) and v >= 0 for v in numbers):
                raise ValueError("numbers that cannot be")
            self.busy_s = numbers[0]
            self.spent = Spent(Work(numbers[1], int(steps), int(samples), numbers[4], numbers[5], str(form)[:20]), numbers[7], 0.0, int(drawn))
        self.words = f"{str(head.get('type'))[:60]}: {str(head.get('message'))[:2000]}" if self.kind == "error" else ""
        self.is_stale = self.kind == "error" and STALE in self.words


class StarWorld(MeasuredWorld):
    """A run of a star method on real machines.

    Arguments:
        network, task, method, seed: of the run.
        job: its description, which the machines open.
        transport: carries the packets.
        names: of all machines that belong to the deployment, here or not.
        sign: signs packets as this server, or None.
    """

    def __init__(
        self,
        *,
        network: Network,
        task: Task,
        method: Method | Service,
        seed: int,
        job: Mapping[str, Any],
        transport: Transport,
        names: Sequence[str],
        sign: Callable[[bytes], bytes] | None = None,
        manners: Manners = Manners(),
        limits: Limits = Limits(),
    ) -> None:
        self.network, self.task, self.method, self.seed = network, task, method, seed
        self.codec = method.codec if isinstance(method, Method) else None
        self.is_counted = has_releases(method)
        self.job, self.transport, self.sign = job, transport, sign
        self.manners = replace(manners, patience_s=max(manners.patience_s, network.detect_s))
        self.wire = Wire(method, [task.model], limits, write_ref=_name)
        self.pricer = Pricer(task, seed)
        self.clock = WallClock()
        self.clock.start()
        self.clock.stop()  # until the machines are there
        self.tally = Tally(network)
        self.run = secrets.token_hex(16)
        self.kept: int | None = None  # round of the last checkpoint
        self.number = 0
        self.made: dict[int, Held] = {}
        self.tickets: dict[Any, tuple[str, Any, float]] = {}
        self.machines: dict[str, Machine] = {}
        self.places: dict[str, Place] = {}
        self.hub = network.root
        self.has_begun = self.is_running = self.is_looking = False
        self.began_at = 0
        self.looked_s = self.polled_s = 0.0
        self.wire_bytes = {"sent": 0, "received": 0}
        self.exchanges = 0
        clients = list(network.clients(self.hub))
        if not names:
            raise ScenarioError("deployment: it has no machines; register at least one node")
        order = sorted(names)
        homes = {name: name for name in clients} if set(clients) <= set(order) else {name: order[i % len(order)] for i, name in enumerate(clients)}
        for name in order:
            mine = [client for client in clients if homes[client] == name]
            if mine:
                self.machines[name] = Machine(name, mine)
        self.places |= {name: Place(name, self.machines[homes[name]]) for name in clients}
        self.places[self.hub] = Place(self.hub, None)
        self.node = StarNode(self)
        self.lines: list[dict[str, Any]] = []

    # --- machines ---------------------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Greet the machines; the clock starts when all of them, or all that come in time, are here."""
        if self.has_begun:
            return
        self.has_begun = True
        self.began_at = self.kept = self.round
        if not self.kept:
            self.kept = None
        began_s = time.monotonic()
        while any(self._may_come(machine, time.monotonic() - began_s) for machine in self.machines.values()):
            self._look()
            self._take_answers(0.05)
        if all(machine.epoch is None for machine in self.machines.values()):
            raise RunFailed(
                f"deployment: none of its machines ({', '.join(self.machines)}) came within {self.manners.start_s:g} s; look at their logs, or start "
                f"them (airloom up, airloom node)"
            )
        self.is_running = True
        self.clock.go_on()

    def _may_come(self, machine: Machine, waited_s: float) -> bool:
        """Whether it pays to wait for a machine before the first round; one that has been greeted may be loading its data."""
        return machine.epoch is None and waited_s < (self.manners.start_s if machine.greeting is None else self.manners.load_s)

    def is_present(self, name: str) -> bool:
        """Whether a place can be used now; what lies between the server and the clients in the scenario's network is not there."""
        place = self.places.get(name)
        return place is not None and (place.machine is None or place.machine.epoch is not None)

    def _look(self) -> None:
        """Greet machines that are not here."""
        now = time.monotonic()
        if now - self.looked_s < self.manners.look_s or all(machine.epoch is not None for machine in self.machines.values()):
            return
        self.looked_s = now
        found = self.transport.machines()
        for name, machine in self.machines.items():
            if (
                machine.epoch is None
                and not machine.is_barred
                and name in found
                and (machine.greeting is None or now - machine.asked_s > self.manners.patience_s)
            ):
                machine.address, machine.asked_s = found[name], now
                self.tickets.pop(machine.greeting, None)
                head = {
                    "kind": "hello", "run": self.run, "round": None if machine.was_here else self.began_at, "places": machine.places,
                    "taken": {name: self.places[name].taken for name in machine.places}, "job": dict(self.job),
                    "keep": {} if machine.was_here else {name: [n for n, held in self.made.items() if held.place == name] for name in machine.places},
                }  # fmt: skip
                machine.greeting = self._send(machine, head, ("hello", machine))

    def _send(self, machine: Machine, head: Mapping[str, Any], about: tuple[str, Any], body: bytes = b"", shared: bytes = b"") -> Any:
        packet = Packet(json.dumps(head), body, shared)
        if self.sign is not None:
            packet = packet._replace(signature=self.sign(packet.signed()))
        ticket = self.transport.send(machine.address, packet)
        self.wire_bytes["sent"] += len(packet.head) + len(body) + len(shared)
        self.tickets[ticket] = (*about, time.monotonic())
        return ticket

    def _ping(self) -> None:
        """Ask machines that have work and are silent; give up those that do not answer."""
        now, manners = time.monotonic(), self.manners
        for machine in self.machines.values():
            if machine.epoch is None or not any(self.places[name].running for name in machine.places):
                machine.heard_s = max(machine.heard_s, now)
                continue
            if machine.ping is not None:
                if self.polled_s - machine.asked_s > manners.patience_s:  # looked for late enough, and not there
                    self._lose(machine)
            elif now - machine.heard_s > manners.ping_s:
                machine.asked_s = now
                machine.ping = self._send(machine, {"kind": "ping"}, ("ping", machine))

    def _lose(self, machine: Machine) -> None:
        """A machine is gone: so are its calls, its values and its clients."""
        if machine.epoch is not None:
            self.lines += [{"kind": "presence", "place": name, "is_there": False, "seconds": self.clock.now_s()} for name in machine.places]
        machine.epoch = machine.ping = machine.greeting = None
        self.looked_s = 0.0
        for ticket, (_, thing, _) in list(self.tickets.items()):
            owner = (
                thing if isinstance(thing, Machine) else self.places[thing[0].root.place if isinstance(thing, tuple) else thing.root.place].machine
            )
            if owner is machine:
                del self.tickets[ticket]
        for name in machine.places:
            place = self.places[name]
            place.queue.clear()
            place.has.clear()
            place.drop.clear()
            place.running = None
            for held in self.made.values():
                if held.place == name:
                    held.lost_device = held.lost_device or name
                    held.asked.clear()
        self._lose_dependents()

    def _lose_dependents(self) -> None:
        """Calls elsewhere whose arguments are lost are lost too."""
        is_new = True
        while is_new:
            is_new = False
            for place in self.places.values():
                for call in list(place.queue):
                    gone = [ref for ref in call.refs if ref.root.lost_device and not ref.root.has(ref.path)]
                    if gone:
                        place.queue.remove(call)
                        call.root.lost_device = gone[0].root.lost_device
                        is_new = True

    # --- calls ------------------------------------------------------------------------------------------------------------------------

    def issue(self, fn: Callable[..., Any], where: Sequence[str], args: tuple[Any, ...], each: Sequence[Sequence[Any]]) -> list[StarRef]:
        """Queue the calls of one verb."""
        if each and len(each) != len(where):
            raise ScenarioError(f"map(each=...): got {len(each)} entries for {len(where)} places; allowed is one entry per place")
        self.wire.functions.name_of(fn)
        made_at, refs = caller(), []
        for i, name in enumerate(where):
            if name not in self.places:
                raise ScenarioError(
                    f"{function_name(fn)}: got place {name!r}; allowed are the server and its clients ({', '.join(list(self.places)[:3])})"
                )
            own = tuple(each[i]) if each else ()
            found = [leaf for _, leaf in leaves((args, own))]
            call = Call(
                self._held(name), fn, args, own, [leaf for leaf in found if isinstance(leaf, StarRef)], [(v, version_of(v)) for v in found], made_at
            )  # fmt: skip
            refs.append(StarRef(call.root))
            if self.codec is not None:
                call.root.given = (*args, *own)
            if not self.is_present(name):
                call.root.lost_device = name
            else:
                self.places[name].queue.append(call)
        self._lose_dependents()
        return refs

    def _held(self, place: str) -> Held:
        self.number += 1
        held = self.made[self.number] = Held(self.number, place)
        return held

    def put(self, value: Any) -> StarRef:
        """Name a value of the server."""
        held = self._held(self.hub)
        self._arrive(held, (), value)
        held.is_made, held.made_s = True, self.clock.now_s()
        return StarRef(held)

    def _arrive(self, held: Held, path: Path, value: Any) -> None:
        held.parts[path] = value
        held.arrived.setdefault(path, self.clock.now_s())
        held.asked.pop(path, None)

    def ask(self, ref: StarRef) -> None:
        """Let a part of a value come here."""
        held = ref.root
        if held.has(ref.path) or held.lost_device or any(ref.path[:cut] in held.asked for cut in range(len(ref.path) + 1)):
            return
        held.asked[ref.path] = None
        if held.is_made:
            machine = self.places[held.place].machine
            assert machine is not None
            head = {"kind": "get", "run": self.run, "epoch": machine.epoch, "number": held.number, "place": held.place, "wants": [list(ref.path)]}
            head["is_coded"] = not self.is_looking
            self._send(machine, head, ("get", (StarRef(held), [ref.path])))

    def flush(self) -> None:
        """Let every place that is free begin its oldest call, if all arguments can be had."""
        is_new = True
        while is_new:
            is_new = False
            for place in self.places.values():
                while place.queue and place.running is None and self._begin_call(place, place.queue[0]):
                    is_new = True
        self.transport.deliver()

    def _begin_call(self, place: Place, call: Call) -> bool:
        """Begin a call; False if an argument is still on its way."""
        news: dict[tuple[int, Path], StarRef] = {}
        for ref in call.refs:
            if ref.root.place == place.name and place.machine is not None:
                continue
            if not ref.root.has(ref.path):
                self.ask(ref)
                return False
            if place.machine is not None and not any((ref.root.number, ref.path[:cut]) in place.has for cut in range(len(ref.path) + 1)):
                news[ref.root.number, ref.path] = ref
        for leaf, version in call.versions:
            if version_of(leaf) != version:
                raise RunFailed(
                    f"{function_name(call.fn)} at '{place.name}': an argument was changed in place after the call was issued at {call.made_at}; "
                    f"make a new value instead (x = x + 1, not x += 1 on tensors)"
                )
        place.queue.popleft()
        call.root.started_s = self.clock.now_s()
        if place.machine is None:
            self._run_here(place, call)
            return True
        call.wants = list(call.root.asked)
        head = {
            "kind": "call", "run": self.run, "epoch": place.machine.epoch, "number": call.root.number, "place": place.name, "round": self.round,
            "kept": self.kept, "drop": place.drop, "wants": [list(path) for path in call.wants],
        }  # fmt: skip
        values = [[number, path, ref.root.value(path)] for (number, path), ref in news.items()]
        body = self.wire.encode({"fn": call.fn, "each": call.each, "values": values})
        shared = self.wire.encode(call.shared) if call.shared else b""
        self._send(place.machine, head, ("call", call), body, shared)
        self.exchanges += 1
        place.running, place.drop = call, []
        place.has |= news.keys()
        size = _size([*leaves((call.shared, call.each)), *leaves([value for *_, value in values])])
        self._log("call", self.hub, place.name, call, size, len(body) + len(shared), 0.0)
        self.tally.message(self.hub, place.name, size, 0.0)
        return True

    def _log(self, kind: str, source: str, target: str, call: Call | None, size: int, wire_bytes: int, exchange_s: float) -> None:
        """A line of `measured.jsonl` for a message; `exchange_s` is both ways, without the work."""
        name = "" if call is None else function_name(call.fn)
        line = {"kind": "message", "what": kind, "from": source, "to": target, "function": name, "bytes": size, "wire_bytes": wire_bytes}
        self.lines.append({**line, "exchange_s": exchange_s, "seconds": self.clock.now_s()})

    def _run_here(self, place: Place, call: Call) -> None:
        """Work of the server itself."""
        args = map_leaves(lambda leaf: leaf.root.value(leaf.path) if isinstance(leaf, StarRef) else leaf, (*call.shared, *call.each))
        began_s = time.monotonic()
        job = Job(call.root.number, call.fn, function_name(call.fn), place.name, args, place.state, place.drawn, self.clock.now_s())
        result = run_job(job, self.network, self.task, self.seed)
        if result.error is not None:
            raise RunFailed(
                f"{function_name(call.fn)} at '{place.name}', round {self.round}, issued at {call.made_at}: {result.error}"
            ) from result.error
        assert result.spent is not None
        place.state |= result.changes
        place.drawn += result.spent.drawn
        self.tally.work(place.name, "cpu", time.monotonic() - began_s, result.spent)
        self._arrive(call.root, (), result.value)
        call.root.is_made, call.root.made_s = True, self.clock.now_s()

    # --- answers ----------------------------------------------------------------------------------------------------------------------

    def _take_answers(self, wait_s: float) -> bool:
        """Take what has come; wait a little where nothing has."""
        self.polled_s = time.monotonic()
        self.transport.deliver()
        found = self.transport.answers(list(self.tickets)) if self.tickets else []
        for ticket, packet in found:
            known = self.tickets.pop(ticket, None)
            if known is not None:
                self._take(*known, packet)
        if not found:
            time.sleep(wait_s)
        return bool(found)

    def _take(self, kind: str, thing: Any, sent_s: float, packet: Packet | None) -> None:
        """Take an answer, or learn that none will come."""
        machine = thing if isinstance(thing, Machine) else self.places[(thing.root if kind == "call" else thing[0].root).place].machine
        assert machine is not None
        machine.heard_s = time.monotonic()
        if packet is None:
            if kind in ("hello", "ping"):
                machine.greeting = machine.ping = None
            else:
                self._lose(machine)
            return
        self.wire_bytes["received"] += len(packet.head) + len(packet.body)
        try:
            answer = _Answer(packet)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            self._bar(machine, f"{type(error).__name__}: {error}")
            return
        if isinstance(thing, Machine):
            self._take_greeting(machine, kind, answer)
        elif answer.kind == "error":
            if answer.is_stale:
                self._lose(machine)
                return
            what = f"{function_name(thing.fn)}, issued at {thing.made_at}," if kind == "call" else "a value"
            raise RunFailed(
                f"{what} at client '{(thing.root if kind == 'call' else thing[0].root).place}' ({machine.name}), round {self.round}: {answer.words}"
            )
        else:
            self._take_values(machine, kind, thing, sent_s, packet, answer)

    def _take_values(self, machine: Machine, kind: str, thing: Any, sent_s: float, packet: Packet, answer: _Answer) -> None:
        """Parts of a value have come, with a call's end or alone."""
        held, wants = (thing.root, thing.wants) if kind == "call" else (thing[0].root, thing[1])
        try:
            values = self.wire.decode(packet.body)
            if answer.kind != ("done" if kind == "call" else "got") or type(values) is not list or len(values) != len(wants):
                raise WireError("answer: it is none to what was asked")
            size, values = _size(leaves(values)), [self._opened(held, value) for value in values]
        except WireError as error:
            self._bar(machine, str(error))
            return
        if kind == "call":
            place = self.places[held.place]
            place.running, place.taken = None, held.number
            held.is_made = True
            held.made_s = self.clock.now_s() - max(time.monotonic() - sent_s - answer.busy_s, 0.0) / 2
            self.tally.work(held.place, "cpu", answer.busy_s, answer.spent)
            work = answer.spent.work if answer.spent else Work()
            self.lines.append(
                {
                    "kind": "call", "place": held.place, "function": function_name(thing.fn), "on": "cpu", "flops": work.flops, "steps": work.steps,
                    "samples": work.samples, "seconds": answer.busy_s, "exchange_s": time.monotonic() - sent_s,
                }
            )  # fmt: skip
        if self.is_counted:
            self.tally.released(held.place, values)
        for path, value in zip(wants, values, strict=True):
            self._arrive(held, path, value)
        took_s = max(time.monotonic() - sent_s - answer.busy_s, 0.0)
        self._log("value", held.place, self.hub, thing if kind == "call" else None, size, len(packet.body), took_s)
        self.tally.message(held.place, self.hub, size, took_s / 2)
        for path in [path for path in held.asked if not held.has(path)]:  # asked for while the call ran
            del held.asked[path]
            self.ask(StarRef(held, path))

    def _opened(self, held: Held, tree: Any) -> Any:
        """A value with what its codes stand for."""

        def leaf_of(leaf: Any) -> Any:
            if not isinstance(leaf, Code):
                return leaf
            if self.codec is None or held.given is None:
                raise WireError("answer: got a code, and no codec was chosen")
            try:
                return leaf.opened(self.codec, lambda path: part_of(held.given, path, lambda ref, rest: ref.root.value((*ref.path, *rest))))  # type: ignore[attr-defined]
            except Exception as error:  # a machine that sends such a code is barred
                raise WireError(f"answer: its code cannot be read ({type(error).__name__}: {error})") from error

        return map_leaves(leaf_of, tree)

    def _bar(self, machine: Machine, why: str) -> None:
        """A machine that sends what cannot be is not used again in this run."""
        warnings.warn(f"machine '{machine.name}' is left out from now on: it sent what was refused ({why})", stacklevel=2)
        machine.is_barred = True
        self._lose(machine)

    def _take_greeting(self, machine: Machine, kind: str, answer: _Answer) -> None:
        """The answer to a greeting or a ping."""
        if kind == "ping":
            machine.ping = None
            if answer.epoch != machine.epoch:
                self._lose(machine)  # another process took its place
        elif answer.kind == "hello":
            machine.epoch, machine.loads, machine.greeting, machine.was_here = answer.epoch, answer.loads, None, True
            self.lines += [{"kind": "presence", "place": name, "is_there": True, "seconds": self.clock.now_s()} for name in machine.places]
            for held in self.made.values():  # values that were made before a resume
                if held.place in machine.places and held.is_made and not held.has(()) and (held.place, held.number) not in answer.held:
                    held.lost_device = held.place
        else:
            machine.greeting = None
            if not self.is_running:
                raise RunFailed(f"machine '{machine.name}' does not take part: {answer.words}")

    def wait(self, is_over: Callable[[], bool], timeout_s: float | None = None) -> None:
        """Go on until something is so, or time is up."""
        ends_s = None if timeout_s is None else time.monotonic() + timeout_s
        pause_s = 0.005
        while True:
            self.flush()
            if is_over() or (ends_s is not None and time.monotonic() >= ends_s):
                return
            pause_s = 0.005 if self._take_answers(pause_s) else min(pause_s * 1.5, 0.1)
            self._ping()
            self._look()
            if not any(place.running for place in self.places.values()) and not any(kind == "get" for kind, _, _ in self.tickets.values()):
                self.flush()
                if is_over():
                    return
                if not any(place.running for place in self.places.values()) and not self.tickets and ends_s is None:
                    raise RunFailed(f"deadlock in round {self.round}: nothing is under way, but the text waits for values")

    # --- what a runner asks -----------------------------------------------------------------------------------------------------------

    @property
    def root(self) -> Node:
        return self.node

    def take_lines(self) -> list[dict[str, Any]]:
        taken, self.lines = self.lines, []
        return taken

    def stamp(self) -> dict[str, float]:
        self.last_stamp = self.tally.stamp(self.clock.now_s())
        return dict(self.last_stamp)

    def value_of(self, leaf: Any) -> Any:
        if not isinstance(leaf, StarRef):
            return leaf
        held, charged = leaf.root, self.tally
        before = dict(held.parts), dict(held.arrived)
        self.tally, self.is_looking = Tally(self.network), True
        try:
            return self.node.fetch(leaf)
        finally:  # evaluation is free, and leaves no trace
            self.tally, self.is_looking = charged, False
            held.parts, held.arrived = before

    def end_round(self, state: Any) -> None:
        kept = {leaf.root.number for _, leaf in leaves(state) if isinstance(leaf, StarRef)}
        for place in self.places.values():
            kept |= {call.root.number for call in place.queue} | {ref.root.number for call in place.queue for ref in call.refs}
            if place.running is not None:
                kept |= {place.running.root.number} | {ref.root.number for ref in place.running.refs}
        for number in [number for number in self.made if number not in kept]:
            held = self.made.pop(number)
            for place in self.places.values():
                if place.machine is not None and (place.name == held.place or any(n == number for n, _ in place.has)):
                    place.drop.append(number)
                    place.has = {pair for pair in place.has if pair[0] != number}
        self.flush()
        if not any(self.is_present(name) for name in self.places if name != self.hub):
            self.wait(lambda: any(self.is_present(name) for name in self.places if name != self.hub), self.manners.return_s)
            if not any(self.is_present(name) for name in self.places if name != self.hub):
                raise RunFailed(
                    f"all machines are lost in round {self.round}, and none came back within {self.manners.return_s:g} s; resume when they are back"
                )

    def freeze(self, kept: Any) -> dict[str, bytes]:
        server = self.places[self.hub]
        values: list[Any] = []
        for _, leaf in leaves(kept):
            if isinstance(leaf, StarRef) and leaf.root.number not in [number for number, *_ in values]:
                values.append((leaf.root.number, leaf.root.place, leaf.root.is_made, list(leaf.root.parts.items()), leaf.root.given))
        whole = {
            "kept": kept, "values": values, "run": self.run, "number": self.number, "seconds": self.clock.now_s(), "state": server.state,
            "drawn": server.drawn,
        }  # fmt: skip
        self.kept = self.round
        return {"world": self.wire.encode(whole), "tally": json.dumps(self.tally.as_json()).encode()}

    def thaw(self, frozen: Mapping[str, bytes]) -> Any:
        made: dict[int, Held] = {}
        reader = Wire(
            self.method, [self.task.model], self.wire.limits, read_ref=lambda tree: StarRef(made.setdefault(tree[0], Held(tree[0], "")), tree[1])
        )
        whole = reader.decode(frozen["world"])
        for number, place, is_made, parts, given in whole["values"]:
            held = made.setdefault(number, Held(number, place))
            held.place, held.given = place, given
            held.is_made, held.lost_device = is_made, None if is_made else place  # calls under way when the server stopped are lost
            for path, value in parts:
                held.parts[path] = value
                held.arrived[path] = 0.0
        self.made.update(made)
        server = self.places[self.hub]
        server.state, server.drawn = whole["state"], whole["drawn"]
        self.run, self.number = whole["run"], whole["number"]
        self.tally.add(json.loads(frozen["tally"]))
        self.clock.start(whole["seconds"])
        self.clock.stop()
        return whole["kept"]

    def device_totals(self) -> dict[str, Any]:
        return {
            name: {
                **self.tally.place(name),
                "machine": place.machine.name if place.machine else None,
                "loads": place.machine.loads if place.machine else 1,
            }
            for name, place in self.places.items()
        }

    def close(self) -> None:
        self.transport.close(None if self.error is None else f"{type(self.error).__name__}: {self.error}")


class StarNode(Node):
    """The server's handle on its place."""

    def __init__(self, world: StarWorld) -> None:
        self.world = world

    @property
    def name(self) -> str:
        return self.world.hub

    @property
    def now_s(self) -> float:
        self.world.begin()
        return self.world.clock.now_s()

    def _present(self, names: Iterable[str]) -> list[str]:
        self.world.begin()
        return [name for name in names if self.world.is_present(name)]

    @property
    def children(self) -> list[str]:
        return self.clients  # whatever lies between in the scenario's network: machines talk to the server only

    @property
    def neighbors(self) -> list[str]:
        return []

    @property
    def clients(self) -> list[str]:
        return self._present(self.world.network.clients(self.name))

    @property
    def network(self) -> Snapshot:
        world = self.world
        world.begin()
        return snapshot(world.network, world.task, world.seed, self.name, world.clock.now_s(), world.is_present)

    @property
    def requests(self) -> Sequence[Request]:
        return self.world.task.requests.get(self.name, ())

    def estimate(self, fn: Callable[..., Any], where: str, *args: Any) -> Estimate:
        """Priced here, on the declared device, as if the client had kept nothing."""
        world = self.world

        def shape(leaf: Any) -> Any:
            if not isinstance(leaf, StarRef):
                return leaf
            if not leaf.root.has(leaf.path):
                raise Unsupported("node.estimate: got a Ref of a value that is not here, so that its size is unknown; fetch it first")
            return leaf.root.value(leaf.path)

        if where not in world.places:
            raise ScenarioError(f"node.estimate: got place {where!r}; allowed are the server and its clients ({', '.join(list(world.places)[:3])})")
        place = world.network.places[where]
        site = Standing(where, place.device, place, {}, 0)
        return estimated(world.pricer, fn, args, map_leaves(shape, args), site, self.now_s, world.network.framing_bytes)

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
        if share_hz is not None:
            raise Unsupported("map(share_hz=...): got shares of a band; real links share themselves; use the simulated engine, or leave it out")
        self.world.begin()
        return list(self.world.issue(fn, where, args, each))

    def call(self, fn: Callable[..., Any], where: str, *args: Any, on: str | None = "cpu", priority: int = 0) -> Ref:
        self.world.begin()
        return self.world.issue(fn, [where], args, ())[0]

    def program(self, where: str, fn: Callable[..., Any], *args: Any) -> Ref:
        raise Unsupported(f"node.program at '{where}': clients of a star run device functions only; use the simulated or the ray engine")

    def put(self, value: Any) -> Ref:
        return self.world.put(value)

    def _settle(self, refs: Sequence[Ref], k: int, timeout_s: float | None) -> tuple[list[int], list[int]]:
        """Wait until k of the Refs are here, or no more can come; (arrived in order of arrival, lost)."""
        world = self.world
        for ref in refs:
            if not isinstance(ref, StarRef):
                raise ScenarioError(f"got {ref!r}; allowed are Refs of this run")
            world.ask(ref)
        order: dict[int, None] = {}

        def look() -> tuple[list[int], list[int]]:
            here = [i for i, ref in enumerate(refs) if isinstance(ref, StarRef) and ref.root.has(ref.path)]
            for i in sorted(here, key=lambda i: (refs[i].arrived_s or 0.0, i)):
                order.setdefault(i)
            gone = [i for i, ref in enumerate(refs) if isinstance(ref, StarRef) and i not in order and ref.root.lost_device]
            return list(order), gone

        def is_over() -> bool:
            here, gone = look()
            return len(here) >= k or len(here) + len(gone) == len(refs)

        world.wait(is_over, timeout_s)
        return look()

    def fetch(self, refs: Any) -> Any:
        wanted = list(refs) if isinstance(refs, list | tuple) else [refs]
        _, lost = self._settle(wanted, len(wanted), None)
        if lost:
            raise DeviceLost(wanted[lost[0]].root.lost_device)
        values = [ref.root.value(ref.path) for ref in wanted]
        return values if isinstance(refs, list | tuple) else values[0]

    def first(self, refs: Sequence[Ref], k: int, timeout_s: float | None = None) -> tuple[list[Ref], list[Ref], list[Ref]]:
        if k < 0:
            raise ScenarioError(f"node.first(k={k}): allowed are integers >= 0")
        arrived, lost = self._settle(refs, min(k, len(refs)), timeout_s)
        taken = arrived[:k]
        gone = set(taken) | set(lost)
        return [refs[i] for i in taken], [ref for i, ref in enumerate(refs) if i not in gone], [refs[i] for i in lost]

    def reduce(
        self, refs: Sequence[Ref], weights: Sequence[float] | None = None, over: Any = None, on_loss: OnLoss = "renormalize", like: Any = None
    ) -> Any:
        def wait(refs: Sequence[Any]) -> dict[int, str]:
            return {i: refs[i].root.lost_device for i in self._settle(refs, len(refs), None)[1]}

        return fold(self, refs, weights, over, on_loss, like, wait, lambda refs: [ref.root.value(ref.path) for ref in refs])

    def over_the_air(self, over: Any, refs: Sequence[Ref]) -> Any:
        """Refused: wires add nothing up."""
        raise Unsupported("air_sum: there is no radio channel here that adds values up; use the simulated engine")

    def sleep(self, until_s: float) -> None:
        self.world.begin()
        self.world.wait(lambda: self.world.clock.now_s() >= until_s, max(until_s - self.world.clock.now_s(), 0.0))

    def report(self, *, model: Any = None, personal: Mapping[str, Any] | None = None, **metrics: Any) -> None:
        self.world.begin()
        self.world.flush()
        self.world.clock.stop()
        try:
            self.world.on_report(self, model, personal, metrics)
        finally:
            self.world.clock.go_on()

    def rng(self, *labels: object) -> np.random.Generator:
        return generator(self.world.seed, "node", self.name, *labels)


def _name(ref: Ref) -> Any:
    assert isinstance(ref, StarRef)
    return ref.root.number, ref.path


def _size(found: Sequence[tuple[Path, Any]]) -> int:
    """Encoded size of the leaves of a message, each body once, as the simulated engine counts it."""
    bodies: dict[int, int] = {}
    control = 0
    for _, leaf in found:
        if isinstance(leaf, Code):
            control += leaf.size_bytes
            continue
        ((_, body, small),) = leaf_sizes(leaf) if not isinstance(leaf, dict | list | tuple) else (((), -1, 0),)
        if body >= 0:
            bodies[key_of(leaf)] = body
        control += small
    return sum(bodies.values()) + control
