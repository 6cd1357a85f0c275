"""The Ray engine: one actor per place; actors call actors, so values go straight from place to place.

A run without an address starts a Ray cluster on this machine, on the loopback interface, without dashboard and telemetry, and ends it with the
process. With an address it joins a running cluster; a place whose facts name a `machine` lives on a node with that label
(`ray start --labels=machine=NAME`). What travels are bytes: registered function names, JSON and safetensors (`airloom.engines.wire`).

The driver watches all places. A process that dies is known at once, one that is silent for longer than the network's `detect_s` (and at least
`PATIENCE_S`) is given up; both are losses as in the simulated engine. Ray starts a dead actor again, and a place that answers again is taken back:
with its state where the network says so and its process has lived on, else without.

Left out: churn of the scenario (who is there is what happens), shares of a band, sums over the air.
"""

# Ray has no types that pyright strict could use.
# pyright: strict, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false, reportMissingTypeStubs=false
# pyright: reportUntypedFunctionDecorator=false, reportMissingImports=false

from __future__ import annotations

import asyncio
import atexit
import importlib
import os
import secrets
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch

from airloom.engines.measured import MeasuredWorld, Tally, WallClock
from airloom.engines.placed import PlaceRef, Unreachable, pack, unpack
from airloom.engines.placenode import PlaceNode
from airloom.engines.places import Peer
from airloom.errors import DeviceLost, MissingExtra, RunFailed, ScenarioError, Unsupported
from airloom.models.allocator import keep_freed
from airloom.network.network import Network
from airloom.program.method import Method, Service
from airloom.program.tree import leaves
from airloom.tasks.task import Task

PATIENCE_S = 5.0  # least silence after which a place is given up: on a busy machine an answer may take seconds
_BEGIN_S = 600.0  # for a place to start its process and load its data, from its turn on
_PINGS = 5  # of which the fastest sets a place's clock
_STORE_BYTES = 512 << 20  # Ray's object store of a local cluster
_PROBE_BYTES = (64 << 10, 4 << 20)  # least and most that is sent to measure a link
_NAMESPACE = "airloom"
Built = tuple[Network, Task, Method | Service, int]


def find_ray() -> Any:
    """The module ray; MissingExtra without it. Telemetry is off, and a local cluster stays on the loopback interface."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise MissingExtra("ray", "engine ray") from error


def connect(address: str | None) -> Any:
    """Start a local cluster, or join the one at an address; return the module ray.

    Arguments:
        address: HOST:PORT of a running cluster, or None.
    """
    if address is None and "ray" not in sys.modules:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # the loopback address instead of this host's; read when ray is imported
    if address is None and not os.environ.keys() & {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}:
        # a token of this process's own cluster, so that other users of the machine cannot join it and none is left in the user's home
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    ray = find_ray()
    if ray.is_initialized():
        return ray
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "namespace": _NAMESPACE}
    if address is None:
        for attempt in range(3):  # Ray chooses ports before it listens on them, and somebody else may be quicker
            try:
                ray.init(address="local", include_dashboard=False, object_store_memory=_STORE_BYTES, _node_ip_address="127.0.0.1", **quiet)
                break
            except (ConnectionError, RuntimeError) as error:
                ray.shutdown()
                if attempt == 2:
                    raise RunFailed(f"engine ray: no cluster could be started on this machine ({error})") from error
    else:
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ScenarioError(f"address '{address}': no Ray cluster answers there ({error}); start one with `ray start --head`") from error
    return ray


class PlaceActor:
    """A place's process: a peer of the present run, and a mailbox for it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.life = uuid.uuid4().hex  # another one after a restart
        self.peer: Peer | None = None
        self.built: tuple[str, Built] | None = None
        self.handles: dict[str, Any] = {}
        self.actors: dict[str, str] = {}

    async def post(self, kind: str, message: bytes) -> bytes:
        """Take a message and answer it."""
        peer = self.peer
        if kind == "ping":
            clock = WallClock()
            error = None if peer is None else peer.error
            if peer is not None and message:
                peer.hear(unpack(message)[0])
            return pack({"life": self.life, "raw_s": clock.raw_s(), "pid": os.getpid(), "has_begun": peer is not None, "error": error})
        if kind == "probe":
            return os.urandom(unpack(message)[0]["back"])
        if kind == "begin":
            return await self._begin(message)
        if peer is None:  # just restarted, and not taken back yet
            return pack({"lost": self.name, "error": None})
        if kind == "call":
            return peer.accept(message)
        if kind == "ask":
            return await peer.answer(message)
        if kind == "give":
            peer.give(message)
            return b""
        if kind == "put":
            header, (blob,) = unpack(message)
            await peer.put(header["id"], blob)
            return b""
        return await self._control(peer, kind, message)

    async def _control(self, peer: Peer, kind: str, message: bytes) -> bytes:
        """What only the driver sends."""
        if kind == "estimate":
            return await peer.estimate(message)
        if kind == "flush":
            await peer.delivered()
            return b""
        if kind == "freeze":
            return peer.freeze()
        if kind == "thaw":
            peer.thaw(message)
            return b""
        if kind == "go on":
            peer.go_on(unpack(message)[0]["number"])
            return b""
        header, _ = unpack(message)
        if kind == "settle":
            peer.clock.hear(header["paused_s"])
            return peer.settle(header["live"], header["told"])
        if kind == "reset":
            peer.forget(header["told"])
            peer.reset(header["epoch"], is_wiped=header["is_wiped"])
        elif kind == "clock":
            peer.clock.offset_s, peer.clock.origin_s, peer.clock.paused_s = header["offset_s"], header["origin_s"], header["paused_s"]
        elif kind == "end":
            peer.reset(peer.epoch, is_wiped=True)
            self.peer = None
        return b""

    async def _begin(self, message: bytes) -> bytes:
        """Build the run's world here: this place loads its own data."""
        header, _ = unpack(message)
        torch.set_num_threads(1)
        keep_freed()
        if self.built is None or self.built[0] != header["described"]:
            module, name = header["make"].split(":")
            make: Callable[[str], Built] = getattr(importlib.import_module(module), name)
            self.built = header["described"], await asyncio.get_running_loop().run_in_executor(None, make, header["described"])
        network, task, method, seed = self.built[1]
        self.actors, self.handles = header["actors"], {}
        if self.peer is not None:
            self.peer.reset(-1, is_wiped=True)
        self.peer = Peer(network, task, method, seed, self._send, self.name, header["epoch"])
        await asyncio.get_running_loop().run_in_executor(None, self.peer.warm_up)
        self.peer.drawn = header["drawn"]
        self.peer.hear(header["presence"])
        return pack({"life": self.life})

    async def _send(self, place: str, kind: str, message: bytes) -> bytes:
        """Bring a message to another place."""
        assert self.peer is not None
        if place == self.name:
            return await self.post(kind, message)
        if place in self.peer.absent:
            raise Unreachable(place)
        if place not in self.handles:
            import ray

            self.handles[place] = ray.get_actor(self.actors[place], namespace=_NAMESPACE)
        return await reach(self.handles[place], place, kind, message)


async def reach(handle: Any, place: str, kind: str, message: bytes) -> bytes:
    """Call an actor; Unreachable if its process or its machine is gone."""
    from ray import exceptions

    try:
        return await handle.post.remote(kind, message)
    except (exceptions.RayActorError, exceptions.ObjectLostError, exceptions.NodeDiedError, exceptions.WorkerCrashedError):
        raise Unreachable(place) from None
    except exceptions.RayTaskError as error:
        raise RunFailed(f"place '{place}': {error.cause if error.cause is not None else error}") from error


class _Idle:
    """Actors that no run uses, kept for the next run of this process on the same places."""

    actors: dict[str, Any] | None = None
    key: Any = None


class RayWorld(MeasuredWorld):
    """A run on Ray: starts the actors, drives the root's program here, watches who is there.

    Arguments:
        network, task, method, seed: of the run, as built here.
        make, described: how every place builds them: `module:function` and the text that it is given.
        address: of the cluster, or None for a local one.
    """

    def __init__(self, network: Network, task: Task, method: Method | Service, seed: int, *, make: str, described: str, address: str | None) -> None:
        self.network = network
        self.make = make
        self.described = described
        self.ray = connect(address)
        self.node: PlaceNode
        self.detect_s = max(network.detect_s, PATIENCE_S)
        self.places = [name for name in network.places if name not in network.unreachable]
        self.lives: dict[str, str] = {}
        self.epochs: dict[str, int] = dict.fromkeys(self.places, 0)
        self.drawn: dict[str, int] = {}
        self.tallies: dict[str, Any] = {}  # latest of every place's present life
        self.told: dict[str, list[int]] = {"": [0, 0]}  # lines and reports that have come from each place, and from the driver's own peer
        self.past = Tally(network)  # of lives and of runs before
        self.live: list[str] = []
        self.lines: list[dict[str, Any]] = []
        self.failure: RunFailed | None = None
        self.pids: dict[str, int] = {}
        self.is_closed = False
        self.is_busy = False
        self.key = (address, tuple([(name, network.places[name].facts.get("machine")) for name in self.places]))
        self.actors: dict[str, Any] = {}
        self.starters: dict[str, Callable[[], Any]] = {}
        self.names: dict[str, str] = {}
        self.away: dict[str, None] = dict.fromkeys(network.unreachable)  # as all places are told
        self.changes = 0  # of who is there
        self.watch: Any = None
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="places", daemon=True)
        self.thread.start()
        try:
            self._find_actors(self.key)
            self._sync(self._start(network, task, method, seed))
        except BaseException:
            self.close()
            raise
        self.clock = self.peer.clock
        self.node = PlaceNode(self.peer, network.root, "0", self._on_report)

    def _sync(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    # --- actors -----------------------------------------------------------------------------------------------------------------------

    def _find_actors(self, key: Any) -> None:
        """One actor per place, on the machine that the place names: those of the last run, or what starts new ones."""
        if _Idle.key == key and _Idle.actors is not None:
            self.actors, _Idle.actors = _Idle.actors, None
            self.names = {name: actor_name for name, (_, actor_name) in self.actors.items()}
            return
        release()
        machines = {name: self.network.places[name].facts.get("machine") for name in self.places}
        nodes = [node for node in self.ray.nodes() if node["Alive"]]
        labels = {node["Labels"].get("machine") for node in nodes}
        for name, machine in machines.items():
            if machine is not None and machine not in labels and name != self.network.root:
                there = ", ".join(sorted(str(label) for label in labels if label is not None)) or "none"
                raise ScenarioError(
                    f"Place '{name}', machine {machine!r}: no machine of the cluster has this label; there are: {there}; start it with "
                    f"`ray start --address=HOST:PORT --labels=machine={machine}`"
                )
        remote = self.ray.remote(PlaceActor)
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        mine = NodeAffinitySchedulingStrategy(self.ray.get_runtime_context().get_node_id(), soft=False)
        run = uuid.uuid4().hex[:8]
        for name, machine in machines.items():
            where: dict[str, Any] = {"label_selector": {"machine": str(machine)}} if machine is not None else {}
            if name == self.network.root:
                where = {"scheduling_strategy": mine}
            self.names[name] = f"{run}/{name}"
            options = {"num_cpus": 0, "max_restarts": -1, "max_concurrency": 10_000, "name": self.names[name], "namespace": _NAMESPACE, **where}
            self.starters[name] = partial(remote.options(**options).remote, name)

    async def _post(self, place: str, kind: str, message: bytes) -> bytes:
        return await reach(self.actors[place][0], place, kind, message)

    async def _start(self, network: Network, task: Task, method: Method | Service, seed: int) -> None:
        peer = self.peer = Peer(network, task, method, seed, self._post, None)
        turns = asyncio.Semaphore(max(2, int(self.ray.cluster_resources().get("CPU", 1))))  # so that few processes import at a time
        await asyncio.gather(*[self._start_place(name, turns) for name in self.places])
        peer.clock.start()
        offsets = await asyncio.gather(*[self._offset(name, peer.clock) for name in self.places])
        for name in self.places:  # one after the other, so that they do not share links
            await self._probe(name, peer.clock, min(max(task.model.nbytes, _PROBE_BYTES[0]), _PROBE_BYTES[1]))
        peer.clock.start()
        for name, offset_s in zip(self.places, offsets):
            await self._set_clock(name, peer.clock, offset_s)

    async def _start_place(self, name: str, turns: asyncio.Semaphore) -> None:
        """Start a place's process where none is left over, and let it load what it needs."""
        async with turns:
            if name not in self.actors:
                self.actors[name] = (self.starters[name](), self.names[name])
            try:
                await asyncio.wait_for(self._begin(name), _BEGIN_S)
            except TimeoutError:
                raise RunFailed(f"engine ray: place '{name}' has not begun after {_BEGIN_S:g} s; look into Ray's logs") from None
            except Unreachable as error:
                raise RunFailed(f"engine ray: place '{error}' died while it began; look into Ray's logs") from error

    async def _begin(self, name: str) -> None:
        header = {
            "make": self.make, "described": self.described, "actors": self.names, "epoch": self.epochs[name], "presence": self._presence(),
            "drawn": self.drawn.get(name, 0),
        }  # fmt: skip
        answer, _ = unpack(await self._post(name, "begin", pack(header)))
        self.lives[name], self.told[name] = answer["life"], [0, 0]

    async def _offset(self, name: str, clock: WallClock) -> float:
        """What turns a place's clock into the driver's: the fastest of some pings; they also measure the latency."""
        best = (float("inf"), 0.0)
        for _ in range(_PINGS):
            began_s = clock.raw_s()
            answer, _ = unpack(await self._post(name, "ping", b""))
            ended_s = clock.raw_s()
            best = min(best, (ended_s - began_s, (began_s + ended_s) / 2 - answer["raw_s"]))
            self.lines.append({"kind": "ping", "to": name, "seconds": ended_s - began_s})
            if self.pids.get(name) != answer["pid"]:
                self.pids[name] = answer["pid"]
                self.lines.append({"kind": "process", "place": name, "pid": answer["pid"]})
        return best[1]

    async def _probe(self, name: str, clock: WallClock, nbytes: int) -> None:
        """Send as many bytes as a model has to a place, and let it send as many back, before the run's clock starts."""
        load, root = os.urandom(nbytes), self.network.root
        half_s = min([line["seconds"] for line in self.lines if line["kind"] == "ping" and line["to"] == name]) / 2
        for source, target, there, back in ((root, name, load, 0), (name, root, b"", nbytes)):
            began_s = clock.raw_s()
            await self._post(name, "probe", pack({"back": back}, there))
            self.lines.append({"kind": "probe", "from": source, "to": target, "bytes": nbytes, "seconds": clock.raw_s() - began_s - half_s})

    async def _set_clock(self, name: str, clock: WallClock, offset_s: float) -> None:
        told = pack({"offset_s": offset_s, "origin_s": clock.origin_s, "paused_s": clock.paused_s})
        await self._post(name, "clock", told)

    # --- who is there -----------------------------------------------------------------------------------------------------------------

    def _presence(self) -> dict[str, Any]:
        """Who is away and how often each place has left, as every place is told with each ping; the latest news counts."""
        return {"change": self.changes, "absent": list(self.away), "epochs": {name: epoch for name, epoch in self.epochs.items() if epoch}}

    async def _ping(self, name: str) -> dict[str, Any]:
        """Ask a place whether it is there, twice; Unreachable if it is not, or silent for `detect_s`."""
        message = pack(self._presence())
        for _ in range(2):  # where this process itself stood still, the first may fail with an answer unread
            with suppress(TimeoutError):
                return unpack(await asyncio.wait_for(self._post(name, "ping", message), self.detect_s / 2))[0]
        raise Unreachable(name)

    async def _watch(self) -> None:
        """Ask every place now and then whether it is there, each at its own pace: a silent one delays no other."""
        await asyncio.gather(*[self._watch_place(name) for name in self.places])

    async def _watch_place(self, name: str) -> None:
        while not self.is_closed:
            try:
                await self._look(name)
            except RunFailed as error:
                self._fail(error)
            await asyncio.sleep(min(self.detect_s / 4, 0.5))

    async def _look(self, name: str) -> None:
        peer, is_absent = self.peer, name in self.peer.absent
        try:
            answer = await self._ping(name)
        except Unreachable:
            if not is_absent:
                await self._lose(name)
            return
        if self.is_closed:
            return
        if answer["error"] is not None and self.failure is None:
            self._fail(RunFailed(answer["error"]))
        is_new = answer["life"] != self.lives[name]
        if is_new and not is_absent:
            await self._lose(name)
            is_absent = True
        if is_absent and name != peer.network.root:
            try:
                await self._take_back(name, is_new=is_new)
            except Unreachable:
                return

    async def _lose(self, name: str) -> None:
        """A place is gone; everybody is told."""
        peer = self.peer
        self.away[name] = None
        peer.left(name)
        self.lines.append({"kind": "presence", "place": name, "is_there": False, "seconds": peer.clock.now_s()})
        if name == peer.network.root:
            self._fail(RunFailed(f"the root's place '{name}' died; go on with airloom resume"))
        await self._tell()

    async def _take_back(self, name: str, *, is_new: bool) -> None:
        """A place answers again."""
        peer = self.peer
        self.epochs[name] += 1
        if is_new:
            if name in self.tallies:
                self.past.add(self.tallies.pop(name))
            await self._begin(name)
        else:
            is_wiped = peer.network.on_leave == "wipe"
            await self._post(name, "reset", pack({"epoch": self.epochs[name], "is_wiped": is_wiped, "told": self.told[name]}))
            self.told[name][1] = 0
        await self._set_clock(name, peer.clock, await self._offset(name, peer.clock))
        del self.away[name]
        await self._tell()  # before the text here can send others to it
        peer.came(name, self.epochs[name])
        self.lines.append({"kind": "presence", "place": name, "is_there": True, "seconds": peer.clock.now_s()})

    async def _tell(self) -> None:
        """Tell all places that are there who is there now; one that cannot be told at once hears it with a later ping."""
        self.changes += 1
        asks = [self._ping(name) for name in self.places if name not in self.away]
        await asyncio.gather(*asks, return_exceptions=True)

    def _fail(self, error: RunFailed) -> None:
        """The run cannot go on: whoever waits here is told."""
        self.failure = self.failure or error
        for item in self.peer.items.values():
            self.peer.lose(item, self.peer.name, str(error))

    # --- what the runner asks ---------------------------------------------------------------------------------------------------------

    async def _gather(self, live: Sequence[str] | None) -> list[bytes]:
        """Ask all places that are there for what they have measured; return the reports of their programs."""
        there = [name for name in self.places if name not in self.peer.absent]
        known = {"live": live, "paused_s": self.peer.clock.paused_s}
        asks = [
            asyncio.wait_for(self._post(name, "settle", pack({**known, "told": self.told.setdefault(name, [0, 0])})), self.detect_s) for name in there
        ]
        answers = await asyncio.gather(*asks, return_exceptions=True)
        reports: list[bytes] = []
        self.is_busy = False
        refs: dict[str, None] = {}
        for name, answer in zip(there, answers):
            if isinstance(answer, BaseException):
                if not isinstance(answer, Unreachable | TimeoutError):
                    raise answer
                continue
            told, blobs = unpack(answer)
            if "tally" not in told:
                continue
            self.tallies[name], self.drawn[name] = told["tally"], told["drawn"]
            self.lines += told["lines"]
            self.told[name] = [self.told[name][0] + len(told["lines"]), self.told[name][1] + len(blobs)]
            self.is_busy = self.is_busy or told["programs"] > 0
            if told["error"] is not None:
                raise RunFailed(told["error"])
            refs.update(dict.fromkeys(told["refs"]))
            reports += blobs
        own, _ = unpack(self.peer.settle(live, self.told[""]))
        self.lines += own["lines"]
        self.told[""][0] += len(own["lines"])
        self.live = list(refs)
        if self.failure is not None or own["error"] is not None:
            raise self.failure or RunFailed(own["error"])
        return reports

    def _measure(self, live: Sequence[str] | None) -> None:
        self.clock.stop()
        for report in self._sync(self._gather(live)):
            tree = self.peer.wire.decode(report)
            self.on_report(self.node, tree["model"], tree["personal"], tree["metrics"])
        self.clock.go_on()

    def _totals(self) -> Tally:
        total = Tally(self.network)
        total.add(self.past.as_json())
        total.add(self.peer.tally.as_json())
        for tally in self.tallies.values():
            total.add(tally)
        return total

    @property
    def root(self) -> PlaceNode:
        if self.watch is None:  # only now: a place that is given up before a checkpoint's values have come would wait for calls of before
            self.watch = asyncio.run_coroutine_threadsafe(self._watch(), self.loop)
        return self.node

    def stamp(self) -> dict[str, float]:
        self._measure(None)
        self.last_stamp = self._totals().stamp(self.clock.now_s())
        return dict(self.last_stamp)

    def _on_report(self, model: Any, personal: Any, metrics: dict[str, Any]) -> None:
        self.clock.stop()
        self.on_report(self.node, model, personal, metrics)
        self.clock.go_on()

    def value_of(self, leaf: Any) -> Any:
        if not isinstance(leaf, PlaceRef):
            return leaf
        try:
            return self.peer.sync(self.peer.peek(leaf))
        except (DeviceLost, Unreachable):
            raise RunFailed(f"report: {leaf!r} is lost with its place; report values that have arrived") from None

    def end_round(self, state: Any) -> None:
        live = [leaf.id for _, leaf in leaves(state) if isinstance(leaf, PlaceRef)]
        self._measure(None if self.is_busy else [*live, *self.live])

    def take_lines(self) -> list[dict[str, Any]]:
        lines, self.lines = self.lines, []
        return lines

    def device_totals(self) -> dict[str, Any]:
        now_s = self.clock.now_s()
        known = self._totals()
        found: dict[str, Any] = {}
        for name, place in self.network.places.items():
            spent = known.place(name)
            found[name] = {**spent, "joules": spent["joules_compute"] + spent["joules_radio"], "joules_idle": place.device.idle_power_w * now_s}
        return found

    def freeze(self, kept: Any) -> dict[str, bytes]:
        if self.is_busy:
            raise Unsupported("checkpoint: programs are still running at the round boundary; let the round fetch their results")
        return self._sync(self._freeze(kept))

    async def _freeze(self, kept: Any) -> dict[str, bytes]:
        there = [name for name in self.places if name not in self.peer.absent]
        await self.peer.delivered()
        await asyncio.gather(*[self._post(name, "flush", b"") for name in there])  # no call is on its way from now on
        blobs = await asyncio.gather(*[self._post(name, "freeze", b"") for name in there])
        here = [leaf for _, leaf in leaves(kept) if isinstance(leaf, PlaceRef) and self.peer.is_here(leaf)]
        own = {
            "now_s": self.clock.now_s(), "number": self.node.number, "tally": self._totals().as_json(), "drawn": self.drawn,
            "sequences": [[place, on, n] for (place, epoch, on), n in self.node.sequences.items() if place in there and epoch == self.epochs[place]],
        }  # fmt: skip
        saved = [self.peer.wire.encode(tree) for tree in ([[ref, self.peer.value(ref)] for ref in here], kept)]
        return {"driver": pack(own, *saved), **{f"place {name}": blob for name, blob in zip(there, blobs)}}

    def thaw(self, frozen: Mapping[str, bytes]) -> Any:
        own, (here, kept) = unpack(frozen["driver"])
        self.past.add(own["tally"])
        self.node.number = own["number"]
        self.node.sequences.update({(place, 0, on): n for place, on, n in own["sequences"]})
        self.drawn.update(own["drawn"])
        self.clock.start(own["now_s"])
        try:
            self._sync(self._restore(frozen, own["number"]))
        except Unreachable as error:
            raise RunFailed(f"engine ray: place '{error}' died while it took up its values; look into Ray's logs") from error
        for ref, value in self.peer.wire.decode(here):
            self.peer.hold(ref, value)
        return self.peer.wire.decode(kept)

    async def _restore(self, frozen: Mapping[str, bytes], number: int) -> None:
        """Give every place what it had: first all values, then the calls, which ask for them."""
        for name in self.places:
            await self._set_clock(name, self.clock, await self._offset(name, self.clock))
            if f"place {name}" in frozen:
                await self._post(name, "thaw", frozen[f"place {name}"])
        for name in self.places:
            await self._post(name, "go on", pack({"number": number}))

    def close(self) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        actors = self.actors

        async def end() -> list[Any]:
            asks = [asyncio.wait_for(self._post(name, "end", pack({})), self.detect_s) for name in actors]
            return await asyncio.gather(*asks, return_exceptions=True)

        if self.watch is not None:
            self.watch.cancel()
        answers = self._sync(end()) if actors else []
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(timeout=5)
        if not self.thread.is_alive():
            self.loop.close()
        if actors and not any([isinstance(answer, BaseException) for answer in answers]) and self.failure is None:
            release()
            _Idle.actors, _Idle.key = actors, self.key
        else:
            _kill(actors)


def run_all(name: str, texts: Sequence[str], address: str | None) -> Iterator[tuple[int, str]]:
    """Run the function `module:function` on each text, one per core of the cluster; yield (index, answer) as they come."""
    ray = connect(address)
    remote = ray.remote(_run_named).options(num_cpus=1, max_retries=0)
    waiting = {remote.remote(name, text): i for i, text in enumerate(texts)}
    while waiting:
        done, _ = ray.wait(list(waiting), num_returns=1)
        yield waiting.pop(done[0]), ray.get(done[0])


def _run_named(name: str, text: str) -> str:
    torch.set_num_threads(1)
    module, function = name.split(":")
    return getattr(importlib.import_module(module), function)(text)


def _kill(actors: Mapping[str, Any]) -> None:
    import ray

    for handle, _ in actors.values():
        ray.kill(handle)


def release() -> None:
    """End the actors that are kept for a next run."""
    actors, _Idle.actors = _Idle.actors, None
    if actors is not None:
        _kill(actors)


def disconnect() -> None:
    """Leave the cluster; a local one ends."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        ray.shutdown()


@atexit.register
def _shut_down() -> None:
    """End a local cluster with the process."""
    if _Idle.key is not None:
        disconnect()
