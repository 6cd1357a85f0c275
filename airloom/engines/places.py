"""Places on real machines: what one process knows of a run, whatever carries its messages.

A `Peer` holds the values of its place, runs the calls and programs that are sent there, and brings values from other places when they are asked for;
values go straight from the place that holds them to the one that asks. All bookkeeping happens on one event loop, device functions and programs run
in threads. The driver is a peer without a place: the root's program runs there, the root's calls run at the root's own peer.

The rules are those of the simulated engine: calls of one program at one place start in the order of issue, state is merged per key at a call's end,
a part that has come is never sent again, and whoever waits for a place that left is told once.
"""

# Trees (states, arguments, results) are of any shape, so what is taken out of them has no static type.
# pyright: strict, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from heapq import heappop, heappush
from types import MappingProxyType
from typing import Any

from airloom.engines.executors import Job, Result, run_job
from airloom.engines.measured import Tally, WallClock
from airloom.engines.placed import Called, Item, Lane, PlaceRef, Queue, Unreachable, fail, pack, take, unpack, without, write_ref
from airloom.engines.placenode import PlaceNode
from airloom.engines.price import Pricer, Standing, estimated
from airloom.engines.wire import Wire
from airloom.errors import AirloomError, DeviceLost, RunFailed, ScenarioError, Unsupported
from airloom.models.params import Params
from airloom.network.network import Network
from airloom.program.codec import Code, part_of
from airloom.program.here import Here
from airloom.program.method import Method, Service
from airloom.program.protection import has_releases, is_protected
from airloom.program.ref import Ref
from airloom.program.tree import Path, at, body_bytes, control_bytes, leaves, map_leaves, replaced, signature, to_meta
from airloom.tasks.task import Task

Post = Callable[[str, str, bytes], Awaitable[bytes]]  # (place, kind of message, message) -> answer; raises Unreachable
_AGES = 2  # round boundaries that a value outlives the last state that named it


class Peer:
    """One process's part in a run.

    Arguments:
        network, task, method, seed: of the run; every process builds its own.
        post: brings a message to a place and its answer back.
        home: the place that lives here; None for the driver.
        epoch: how often the place has left.
    """

    def __init__(
        self, network: Network, task: Task, method: Method | Service, seed: int, post: Post, home: str | None, epoch: int = 0
    ) -> None:  # fmt: skip
        self.network = network
        self.task = task
        self.method = method
        self.codec = method.codec if isinstance(method, Method) else None
        self.is_protected, self.is_counted = is_protected(method), has_releases(method)
        self.seed = seed
        self.post = post
        self.home = home
        self.epoch = epoch
        self.name = home or network.root
        self.loop = asyncio.get_running_loop()
        self.clock = WallClock()
        self.tally = Tally(network)
        residents = [value.spec for value in task.residents.values() if isinstance(value, Params)]
        self.wire = Wire(method, [task.model, *residents], write_ref=write_ref, read_ref=self._read_ref)
        self.pricer = Pricer(task, seed)
        self.items: dict[str, Item] = {}
        self.dropped: set[str] = set()
        self.absent: dict[str, None] = dict.fromkeys(network.unreachable)
        self.epochs: dict[str, int] = {}  # of other places, where not 0
        self.change = -1  # latest news of who is there
        self.thawed: list[bytes] = []  # calls of a checkpoint that have not begun again
        self.old = -1  # what the text had issued up to a checkpoint
        self.calls: dict[str, Called] = {}  # unfinished ones
        self.running: dict[str, Called] = {}
        self.lanes: dict[str, Lane] = {}
        self.programs: dict[str, None] = {}
        self.state: dict[str, Any] = {}
        self.written: dict[str, int] = {}
        self.drawn = 0
        self.number = 0
        self.lines: list[dict[str, Any]] = []  # what was measured and has not come to the driver
        self.reports: list[bytes] = []
        self.told = [0, 0]  # lines and reports that have
        self.error: str | None = None
        self.tasks: set[asyncio.Task[Any]] = set()
        self.sending: set[asyncio.Task[Any]] = set()
        slots = 1 if home is None else sum(network.places[home].device.slots.values())
        self.threads = ThreadPoolExecutor(slots + 4, thread_name_prefix="call")

    # --- values -----------------------------------------------------------------------------------------------------------------------

    def item(self, id: str, place: str) -> Item:
        """What is known here of a value."""
        item = self.items.get(id)
        if item is None:
            item = self.items[id] = Item(id, place)
        if item.made is None and place == self.home:
            item.made = self.loop.create_future()
            if self._is_old(id):
                self.lose(item, place)
        return item

    def _is_old(self, id: str) -> bool:
        """Whether a value was named before the checkpoint that this run goes on from."""
        return int(id.split(".")[1]) <= self.old

    def is_here(self, ref: PlaceRef) -> bool:
        """Whether a value has come here."""
        return self.item(ref.id, ref.where).find(ref.path) is not None

    def hold(self, ref: PlaceRef, value: Any) -> None:
        """Have a value that came here before a checkpoint."""
        item = self.item(ref.id, ref.where)
        item.trees[ref.path], item.arrived_s[ref.path] = value, self.clock.now_s()
        item.parts[ref.path] = self.loop.create_future()
        item.parts[ref.path].set_result(None)

    def make(self, item: Item, value: Any, label: str, started_s: float, codes: Mapping[Path, Code] = MappingProxyType({})) -> None:
        """A value exists here from now on."""
        item.trees[()], item.codes = value, codes
        item.label, item.started_s, item.made_s = label, started_s, self.clock.now_s()
        item.arrived_s[()] = item.made_s
        assert item.made is not None
        if not item.made.done():
            item.made.set_result(None)

    async def put(self, id: str, blob: bytes) -> None:
        """Hold a value that a program of this place has put."""
        assert self.home is not None
        self.make(self.item(id, self.home), self.wire.decode(blob), "put", self.clock.now_s())

    def lose(self, item: Item, device: str, error: str | None = None) -> None:
        """A value will never come; tell whoever waits."""
        if item.lost is not None or (item.made is not None and item.made.done()):
            return
        item.lost, item.error = device, error
        for future in (*item.parts.values(), *([item.made] if item.made is not None else [])):
            if not future.done():
                fail(future, RunFailed(error) if error is not None else DeviceLost(device))

    def want(self, refs: Sequence[PlaceRef]) -> list[asyncio.Future[None]]:
        """Ask for values to come here; parts of one value that are asked for together are one message."""
        found: list[asyncio.Future[None]] = []
        fresh: dict[str, list[Path]] = {}
        for ref in refs:
            item = self.item(ref.id, ref.where)
            if item.made is not None:
                found.append(item.made)
                continue
            known = [item.parts[ref.path[:depth]] for depth in range(len(ref.path) + 1) if ref.path[:depth] in item.parts]
            if known:
                found.append(known[0])
                continue
            future = item.parts[ref.path] = self.loop.create_future()
            found.append(future)
            if item.lost is not None or ref.where in self.absent:
                item.lost = item.lost or ref.where
                fail(future, RunFailed(item.error) if item.error is not None else DeviceLost(item.lost))
            else:
                fresh.setdefault(ref.id, []).append(ref.path)
        for id, paths in fresh.items():
            self.spawn(self._ask(self.items[id], paths))
        return found

    def _query(self, item: Item, paths: list[Path], have: list[Path], *, is_coded: bool = True) -> bytes:
        header = {"id": item.id, "place": item.place, "is_coded": is_coded, "paused_s": self.clock.paused_s}
        return pack(header, self.wire.encode([paths, have]))

    async def _ask(self, item: Item, paths: list[Path]) -> None:
        """Bring parts of a value here. The driver asks at the root's own peer, so that what has come to the root has come once."""
        asked_s = self.clock.now_s()
        try:
            answer = await self.post(
                item.place if self.home is not None else self.name,
                "ask",
                self._query(item, paths, list(item.leaves), is_coded=item.place != self.name),
            )
        except Unreachable:
            self.lose(item, item.place)
            return
        arrived_s = self.clock.now_s()
        header, blobs = unpack(answer)
        if "lost" in header:
            self.lose(item, header["lost"], header["error"])
            return
        item.label, item.started_s, item.made_s = header["label"], header["started_s"], header["made_s"]
        size = 0
        try:
            trees = self.wire.decode(blobs[0])
            if self.is_counted and self.home is not None and self.network.places[item.place].role == "client":
                self.tally.released(item.place, trees)
            for path, tree in zip(paths, trees, strict=True):
                size += take(item, path, tree, partial(self._opened, item))
                item.arrived_s[path] = arrived_s
        except (ScenarioError, Unsupported) as error:
            self.lose(item, item.place, str(error))
            return
        if self.home is not None:
            self._note(item.place, self.name, item.label, "value", size, len(answer), max(asked_s, header["sent_s"]), arrived_s)
        elif item.place != self.name:  # the root's text has it: not a message of its own, but part of what one takes
            seconds = max(self.clock.now_s() - max(asked_s, header["made_s"]), 0.0)
            self.lines.append({"kind": "handed", "from": item.place, "to": self.name, "function": item.label, "bytes": size, "seconds": seconds})
        for path in paths:
            future = item.parts[path]
            if not future.done():
                future.set_result(None)

    async def peek(self, ref: PlaceRef) -> Any:
        """A value from wherever it is, off the clock: it is not charged and has not come here."""
        item = self.item(ref.id, ref.where)
        if item.find(ref.path) is None:
            header, blobs = unpack(await self.post(ref.where, "ask", self._query(item, [ref.path], [], is_coded=False)))
            if "lost" in header:
                raise RunFailed(header["error"]) if header["error"] is not None else DeviceLost(header["lost"])
            return self.wire.decode(blobs[0])[0]
        return self.value(ref)

    def _opened(self, item: Item, leaf: Any) -> Any:
        """What a code stands for; other leaves as they are."""
        if not isinstance(leaf, Code):
            return leaf
        codec = self.codec
        if codec is None or (leaf.reference is not None and item.given is None):
            raise Unsupported(
                f"value of {item.label} at '{item.place}': '{self.name}' got it encoded by {codec} against what came down to it; allowed are values "
                f"that go up to where their call was issued: fetch it and send it on, or use codec=none"
            )
        return leaf.opened(codec, lambda path: part_of(item.given, path, lambda ref, rest: self.value(ref[rest] if rest else ref)))  # type: ignore[arg-type]

    def give(self, message: bytes) -> None:
        """Keep the arguments of calls that a program of this place has issued."""
        header, blobs = unpack(message)
        shared = self.wire.decode(blobs[0])
        for i, (id, place) in enumerate(header["calls"]):
            self.item(id, place).given = (*shared, *(self.wire.decode(blobs[1 + i]) if len(blobs) > 1 else ()))

    async def answer(self, query: bytes) -> bytes:
        """Answer another peer that asks for parts of a value that is made here, or brought here for the driver."""
        header, blobs = unpack(query)
        self.clock.hear(header["paused_s"])
        paths, have = self.wire.decode(blobs[0])
        assert self.home is not None
        if header["id"] in self.dropped:
            error = f"Ref {header['id']} at '{self.home}': no state has named it for {_AGES} rounds; keep it in State"
            return pack({"lost": self.home, "error": error})
        item = self.item(header["id"], header["place"])
        refs = [PlaceRef(self, item.id, item.place, tuple(path)) for path in paths]
        try:
            for future in self.want(refs):
                await asyncio.shield(future)
        except DeviceLost as error:
            return pack({"lost": error.device, "error": None})
        except RunFailed as error:
            return pack({"lost": self.home, "error": str(error)})
        sent_s = self.clock.now_s()
        known = set(map(tuple, have))
        trees: list[Any] = []
        for ref in refs:
            try:
                is_coded = header["is_coded"] or self.is_protected
                tree = replaced(self.value(ref), item.codes, ref.path) if is_coded else self.value(ref)
                trees.append(without(tree, ref.path, known))
            except (KeyError, IndexError, TypeError):
                return pack({"lost": self.home, "error": f"Ref of {item.label}: got part {list(ref.path)!r}, which its value does not have"})
        try:
            blob = self.wire.encode(trees)
        except AirloomError as error:
            return pack({"lost": self.home, "error": f"value of {item.label} at '{self.home}': {error}"})
        return pack({"label": item.label, "started_s": item.started_s, "made_s": item.made_s, "sent_s": sent_s}, blob)

    def value(self, ref: PlaceRef) -> Any:
        """A value that is here."""
        item = self.items[ref.id]
        held = item.find(ref.path)
        assert held is not None
        return at(item.trees[held], ref.path[len(held) :])

    def _note(self, source: str, target: str, label: str, kind: str, size: int, wire_bytes: int, sent_s: float, arrived_s: float) -> None:
        """A message has come."""
        seconds = max(arrived_s - sent_s, 0.0)
        self.tally.message(source, target, size, seconds)
        self.lines.append(
            {
                "kind": kind, "from": source, "to": target, "function": label, "bytes": size, "wire_bytes": wire_bytes, "sent_s": sent_s,
                "seconds": seconds,
            }
        )  # fmt: skip

    def _read_ref(self, tree: Any) -> PlaceRef:
        id, where, path = tree
        return PlaceRef(self, id, where, tuple(path))

    # --- presence ---------------------------------------------------------------------------------------------------------------------

    def hear(self, news: Mapping[str, Any]) -> None:
        """The driver says who is away, and how often each place has left; older news than the last are no news."""
        if news["change"] < self.change:
            return
        self.change = news["change"]
        epochs: dict[str, int] = news["epochs"]
        for place in (*news["absent"], *[place for place, epoch in epochs.items() if epoch != self.epochs.get(place, 0)]):
            if place != self.home:
                self.left(place)
        for place in [place for place in self.absent if place not in news["absent"]]:
            self.came(place, epochs.get(place, 0))

    def left(self, place: str) -> None:
        """A place is gone: whoever waits for something of it is told."""
        if place in self.absent:
            return
        self.absent[place] = None
        for item in list(self.items.values()):
            if item.place == place and item.place != self.home:
                self.lose(item, place)

    def came(self, place: str, epoch: int) -> None:
        """A place is there again."""
        self.absent.pop(place, None)
        self.epochs[place] = epoch

    def reset(self, epoch: int, *, is_wiped: bool) -> None:
        """This place was given up and is taken back: what ran here is over."""
        self.epoch = epoch
        for item in list(self.items.values()):
            self.lose(item, self.name)
        for table in (self.items, self.calls, self.running, self.lanes, self.programs, self.written):
            table.clear()
        del self.reports[:]
        self.told[1] = 0
        if is_wiped:
            self.state.clear()

    # --- calls that come --------------------------------------------------------------------------------------------------------------

    def accept(self, message: bytes) -> bytes:
        """Take a call or a program that is to run here."""
        header, blobs = unpack(message)
        assert self.home is not None
        self.clock.hear(header["paused_s"])
        if header["epoch"] != self.epoch:
            return pack({"lost": self.home})
        item = self.item(header["id"], self.home)
        if header["is_program"]:
            self.programs[header["id"]] = None
        fn = self.wire.functions.named(header["fn"], header["owner"])
        args = tuple([arg for blob in blobs for arg in self.wire.decode(blob)])
        call = Called(header, message, fn, args)
        self.calls[header["id"]] = call
        item.label = header["fn"]
        if header["by"] != self.home:
            sizes = [(body_bytes(leaf), leaf) for _, leaf in leaves(args)]
            body = sum([size for size, _ in sizes if size >= 0])
            control = sum([control_bytes(leaf) for size, leaf in sizes if size < 0])
            if not body and any([isinstance(leaf, Ref) for _, leaf in sizes]):
                control = 0
            self._note(header["by"], self.home, header["fn"], "arguments", body + control, len(message), header["sent_s"], self.clock.now_s())
        lane = self._lane(header)
        if lane is not None and header["seq"] is not None:
            lane.queues.setdefault(header["program"], Queue()).calls[header["seq"]] = call
        self.spawn(self._prepare(call))
        return pack({})

    def _lane(self, header: Mapping[str, Any]) -> Lane | None:
        on = header["on"]
        if on is None or header["is_program"]:
            return None
        if on not in self.lanes:
            self.lanes[on] = Lane(self.network.places[self.name].device.slots[on])
        return self.lanes[on]

    async def _prepare(self, call: Called) -> None:
        """Bring a call's arguments here, then let it wait for its turn."""
        refs: list[PlaceRef] = [leaf for _, leaf in leaves(call.args) if isinstance(leaf, PlaceRef)]
        epoch, header = self.epoch, call.header
        try:
            for future in self.want(refs):
                await asyncio.shield(future)
        except (DeviceLost, RunFailed) as error:
            if epoch == self.epoch:
                self._drop(call, error)
            return
        if epoch != self.epoch:
            return
        call.args = map_leaves(lambda leaf: self.value(leaf) if isinstance(leaf, PlaceRef) else leaf, call.args)
        call.is_ready = True
        lane = self._lane(header)
        if header["is_program"]:
            self._start_program(call)
        elif lane is None:
            self._start(call, None)
        elif header["priority"] < 0:
            self.number += 1
            heappush(lane.fillers, (-header["priority"], self.number, call))
            self._try_start(lane)
        else:
            self._advance(lane, lane.queues[header["program"]])
            self._try_start(lane)

    def _drop(self, call: Called, error: DeviceLost | RunFailed) -> None:
        """A call will never get its arguments."""
        header = call.header
        self.calls.pop(header["id"], None)
        self.programs.pop(header["id"], None)
        device = error.device if isinstance(error, DeviceLost) else self.name
        self.lose(self.item(header["id"], self.name), device, None if isinstance(error, DeviceLost) else str(error))
        lane = self._lane(header)
        if lane is not None and header["seq"] is not None:
            queue = lane.queues[header["program"]]
            queue.calls[header["seq"]] = None
            self._advance(lane, queue)
            self._try_start(lane)

    def _advance(self, lane: Lane, queue: Queue) -> None:
        """The oldest unstarted call of a program may be ready now."""
        while queue.next in queue.calls and queue.calls[queue.next] is None:
            del queue.calls[queue.next]
            queue.next += 1
        call = queue.calls.get(queue.next)
        if call is not None and call.is_ready:
            del queue.calls[queue.next]
            queue.next += 1
            self.number += 1
            heappush(lane.ready, (self.number, call))

    def _try_start(self, lane: Lane) -> None:
        """Start calls while slots are free: in order of readiness, fillers last."""
        while lane.free and (lane.ready or lane.fillers):
            if lane.ready:
                _, call = heappop(lane.ready)
                lane.free -= 1
                self._start(call, lane)
                self._advance(lane, lane.queues[call.header["program"]])
            else:
                lane.free -= 1
                self._start(heappop(lane.fillers)[2], lane)

    def _start(self, call: Called, lane: Lane | None) -> None:
        """Run a device function in a thread; the end comes back to the loop."""
        header = call.header
        for other in self.running.values():  # calls side by side draw one after the other, so the draws must be known now
            if other.drawn is None:
                other.drawn = self._draws(other)
                self.drawn += other.drawn
        self.number += 1
        call.started, call.started_s, call.state = self.number, self.clock.now_s(), dict(self.state)
        before = self.drawn
        if self.running:
            call.drawn = self._draws(call)
            self.drawn += call.drawn
        self.running[header["id"]] = call
        job = Job(0, call.fn, header["fn"], self.name, call.args, call.state, before, call.started_s)
        epoch = self.epoch

        def run() -> tuple[Result, float]:
            began_s = time.monotonic()
            result = run_job(job, self.network, self.task, self.seed)
            return result, time.monotonic() - began_s

        def ended(future: asyncio.Future[tuple[Result, float]]) -> None:
            if epoch == self.epoch:
                self._end(call, lane, *future.result())

        self.loop.run_in_executor(self.threads, run).add_done_callback(ended)

    def _draws(self, call: Called) -> int:
        """Samples that a call draws, from a dry run."""
        sig = ((call.header["fn"], call.header["owner"]), signature(call.args))
        price = self.pricer.price(call.fn, sig, call.args, self._standing(call.state), call.started_s)
        if price is None:
            raise ScenarioError(
                f"{call.header['fn']} at '{self.name}': its draws depend on values, so it cannot run beside another call; use on='cpu'"
            )
        return price.drawn

    def _standing(self, state: Mapping[str, Any]) -> Standing:
        """This place with a state, for prices."""
        place = self.network.places[self.name]
        shadow = {key: (signature(value), map_leaves(to_meta, value), 0) for key, value in state.items()}
        return Standing(self.name, place.device, place, shadow, self.drawn)

    def _end(self, call: Called, lane: Lane | None, result: Result, seconds: float) -> None:
        """A device function has returned: merge its state, make its value, start the next."""
        header = call.header
        id = header["id"]
        del self.running[id]
        self.calls.pop(id, None)
        item = self.item(id, self.name)
        self.tally.work(self.name, header["on"], seconds, result.spent)
        clash = [key for key in result.changes if self.written.get(key, 0) > call.started]
        if result.error is not None or clash:
            what = (
                f"{type(result.error).__name__}: {result.error}" if result.error is not None else f"two overlapping calls wrote state[{clash[0]!r}]"
            )
            self.error = f"{header['fn']} at device '{self.name}', issued at {header['made_at']}: {what}"
            self.lose(item, self.name, self.error)
        else:
            self.state.update(result.changes)
            self.number += 1
            self.written.update(dict.fromkeys(result.changes, self.number))
            spent = result.spent
            assert spent is not None
            if call.drawn is None:
                self.drawn += spent.drawn
            elif call.drawn != spent.drawn:
                self.error = f"{header['fn']} at '{self.name}': predicted {call.drawn} draws, found {spent.drawn}"
            work = spent.work
            self.lines.append(
                {
                    "kind": "call", "place": self.name, "function": header["fn"], "on": header["on"], "flops": work.flops, "steps": work.steps,
                    "samples": work.samples, "width": work.width, "started_s": call.started_s, "seconds": seconds,
                }
            )  # fmt: skip
            self.make(item, result.value, header["fn"], call.started_s, result.codes)
        if lane is not None:
            lane.free += 1
            self._try_start(lane)

    def _start_program(self, call: Called) -> None:
        """Run a program's text in a thread of its own."""
        header = call.header
        id, epoch = header["id"], self.epoch
        item = self.item(id, self.name)
        node = PlaceNode(self, self.name, id)
        started_s = self.clock.now_s()

        def over(value: Any, error: BaseException | None) -> None:
            if epoch != self.epoch:
                return
            self.programs.pop(id, None)
            self.calls.pop(id, None)
            if isinstance(error, DeviceLost):
                self.lose(item, error.device)
            elif error is not None:
                self.error = f"{header['fn']} at '{self.name}': {error if isinstance(error, RunFailed) else f'{type(error).__name__}: {error}'}"
                self.lose(item, self.name, self.error)
            else:
                self.make(item, value, header["fn"], started_s)

        def text() -> None:
            value, error = None, None
            try:
                value = call.fn(node, *call.args)
            except BaseException as caught:
                error = caught
            self.loop.call_soon_threadsafe(over, value, error)

        threading.Thread(target=text, name=id, daemon=True).start()

    def warm_up(self) -> None:
        """Load data and libraries with one step of training that leaves no trace, so that the first call does not pay for them."""
        if self.home is None or self.home not in self.task.shards or not isinstance(self.method, Method):
            return
        job = Job(0, _one_step, "warm up", self.home, (self.task.model.initial(self.seed),), {}, 0, 0.0)
        run_job(job, self.network, self.task, self.seed)  # what cannot be trained so is loaded by the first call

    # --- what the driver asks ---------------------------------------------------------------------------------------------------------

    def forget(self, told: Sequence[int]) -> None:
        """Let go of lines and reports that the driver has: so many of each in this place's present life."""
        for kept, has, had in zip((self.lines, self.reports), told, self.told):
            del kept[: has - had]
        self.told = list(told)

    def settle(self, live: Sequence[str] | None, told: Sequence[int]) -> bytes:
        """Tell what was measured and is not among what the driver has; with `live`, drop values that no state has named for two rounds."""
        self.forget(told)
        refs: dict[str, None] = {}
        if live is not None:
            named = set(live)
            for call in self.calls.values():
                named.update(call.needs)
                refs.update(call.needs)
            for id, item in list(self.items.items()):
                item.age = 0 if id in named else item.age + 1
                if item.age >= _AGES and id not in self.calls and all([future.done() for future in item.parts.values()]):
                    del self.items[id]
                    if item.place == self.home:
                        self.dropped.add(id)
                elif () in item.trees:
                    refs.update(dict.fromkeys([leaf.id for _, leaf in leaves(item.trees[()]) if isinstance(leaf, PlaceRef)]))
        header = {
            "tally": self.tally.as_json(), "lines": self.lines, "programs": len(self.programs), "error": self.error, "drawn": self.drawn,
            "refs": list(refs),
        }  # fmt: skip
        return pack(header, *self.reports)

    def freeze(self) -> bytes:
        """State, values and unfinished calls of this place."""
        given = [[item.id, item.place, item.given] for item in self.items.values() if item.given is not None]
        blobs = [self.wire.encode([self.state, given])]
        kept: list[dict[str, Any]] = []
        for id, item in self.items.items():
            if item.place == self.home and item.made_s is not None:
                try:
                    blobs.append(self.wire.encode([item.trees[()], list(item.codes.items())]))
                except Unsupported:  # a Tape: it stays here and ends with the process
                    continue
                kept.append({"id": id, "label": item.label, "started_s": item.started_s, "made_s": item.made_s})
        lanes = {on: {program: queue.next for program, queue in lane.queues.items()} for on, lane in self.lanes.items()}
        for call in self.calls.values():  # it will run again, from its start
            header = call.header
            if header["seq"] is not None:
                lanes[header["on"]][header["program"]] = min(lanes[header["on"]][header["program"]], header["seq"])
            blobs.append(call.message)
        drawn = self.drawn - sum([call.drawn or 0 for call in self.running.values()])
        return pack({"drawn": drawn, "items": kept, "lanes": lanes, "calls": len(self.calls)}, *blobs)

    def thaw(self, frozen: bytes) -> None:
        """Be what `freeze` wrote down."""
        assert self.home is not None
        header, (state, *blobs) = unpack(frozen)
        self.drawn = header["drawn"]
        self.state, given = self.wire.decode(state)
        for id, place, args in given:
            self.item(id, place).given = args
        for kept, blob in zip(header["items"], blobs):
            value, codes = self.wire.decode(blob)
            self.make(self.item(kept["id"], self.home), value, kept["label"], kept["started_s"], {tuple(path): code for path, code in codes})
        for on, queues in header["lanes"].items():
            lane = self._lane({"on": on, "is_program": False})
            assert lane is not None
            lane.queues.update({program: Queue(next) for program, next in queues.items()})
        self.thawed = blobs[len(header["items"]) :]

    def go_on(self, number: int) -> None:
        """Begin calls of a checkpoint again. Values of before, up to this number of the root's program, that are not here now will not come."""
        for message in self.thawed:
            own, parts = unpack(message)
            self.accept(pack({**own, "epoch": self.epoch, "by": self.home}, *parts))  # its message was charged before
        self.thawed, self.old = [], number
        for item in list(self.items.values()):
            if item.made is not None and item.id not in self.calls and self._is_old(item.id):
                self.lose(item, item.place)

    async def delivered(self) -> None:
        """Wait until all that was sent from here so far is where it belongs."""
        await asyncio.gather(*self.sending, return_exceptions=True)

    async def estimate(self, message: bytes) -> bytes:
        """Price a call that is not made."""
        header, (blob,) = unpack(message)
        fn = self.wire.functions.named(header["fn"], header["owner"])
        args = self.wire.decode(blob)
        refs: list[PlaceRef] = [leaf for _, leaf in leaves(args) if isinstance(leaf, PlaceRef)]
        for future in self.want(refs):
            await asyncio.shield(future)
        values = map_leaves(lambda leaf: self.value(leaf) if isinstance(leaf, PlaceRef) else leaf, args)
        try:
            told = estimated(self.pricer, fn, args, values, self._standing(self.state), self.clock.now_s(), self.network.framing_bytes)
        except ScenarioError as error:
            return pack({"error": str(error)})
        return pack({"estimate": list(told)})

    # --- threads and the loop ---------------------------------------------------------------------------------------------------------

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Let something happen on the loop; what it raises is this peer's error."""
        task = self.loop.create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self._done)

    def send(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Let a message be brought to its place."""
        task = self.loop.create_task(coroutine)
        self.sending.add(task)
        task.add_done_callback(self.sending.discard)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.error = self.error or f"at '{self.name}': {type(error).__name__}: {error}"

    def sync(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Do something on the loop and wait for it, from a program's thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    async def wait(self, refs: Sequence[PlaceRef], need: int, timeout_s: float | None) -> tuple[list[int], list[int]]:
        """Wait until `need` of the values are here or can no longer come; indices of those that came (in order) and of the lost ones."""
        arrived: list[int] = []
        lost: list[int] = []
        errors: list[RunFailed] = []
        changed = asyncio.Event()

        def done(i: int, future: asyncio.Future[None]) -> None:
            error = future.exception()
            if error is None:
                arrived.append(i)
            elif isinstance(error, DeviceLost):
                lost.append(i)
            else:
                errors.append(error if isinstance(error, RunFailed) else RunFailed(str(error)))
            changed.set()

        futures = self.want(refs)
        there = [(i, f) for i, f in enumerate(futures) if f.done()]
        there.sort(key=lambda pair: (refs[pair[0]].arrived_s or 0.0, [int(part) for part in refs[pair[0]].id.split(".")]))
        for i, future in there:
            done(i, future)
        callbacks: list[tuple[asyncio.Future[None], Callable[[asyncio.Future[None]], None]]] = []
        for i, future in enumerate(futures):
            if not future.done():
                callback: Callable[[asyncio.Future[None]], None] = lambda f, i=i: done(i, f)  # noqa: E731
                future.add_done_callback(callback)
                callbacks.append((future, callback))
        ends_s = None if timeout_s is None else self.loop.time() + timeout_s
        try:
            while len(arrived) < need and len(arrived) + len(lost) < len(refs) and not errors:
                changed.clear()
                left_s = None if ends_s is None else ends_s - self.loop.time()
                if left_s is not None and left_s <= 0:
                    break
                try:
                    await asyncio.wait_for(changed.wait(), left_s)
                except TimeoutError:
                    break
        finally:
            for future, callback in callbacks:
                future.remove_done_callback(callback)
        if errors:
            raise errors[0]
        return arrived, lost


def _one_step(here: Here, x: Params) -> Params:
    return here.train(x, steps=1, lr=0.0, batch_size=1)
