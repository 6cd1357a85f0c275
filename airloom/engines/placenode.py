"""A program's handle on its place, on real machines."""

# Trees (states, arguments, results) are of any shape, so what is taken out of them has no static type.
# pyright: strict, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from airloom.clock.rng import generator
from airloom.engines.fold import fold
from airloom.engines.placed import PlaceRef, Unreachable, pack, reached, unpack
from airloom.engines.snapshot import snapshot
from airloom.errors import DeviceLost, ScenarioError, Unsupported
from airloom.program.method import function_name
from airloom.program.node import Estimate, Node, OnLoss, Snapshot
from airloom.program.reducer import AirSum
from airloom.program.ref import Ref
from airloom.tasks.requests import Request

if TYPE_CHECKING:
    from airloom.engines.places import Peer


class PlaceNode(Node):
    """A program's handle on its place, on real machines. Its verbs are called in the program's own thread."""

    def __init__(self, peer: Peer, name: str, id: str, on_report: Callable[[Any, Any, dict[str, Any]], None] | None = None) -> None:
        self.peer = peer
        self.place = name
        self.id = id
        self.epoch = peer.epoch
        self.number = 0
        self.sequences: dict[tuple[str, int, str], int] = {}
        self.on_report = on_report

    @property
    def name(self) -> str:
        return self.place

    @property
    def now_s(self) -> float:
        return self.peer.clock.now_s()

    def _present(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if name not in self.peer.absent]

    @property
    def children(self) -> list[str]:
        return self._present(self.peer.network.children(self.place))

    @property
    def neighbors(self) -> list[str]:
        return self._present(self.peer.network.neighbors(self.place))

    @property
    def clients(self) -> list[str]:
        return self._present(self.peer.network.clients(self.place))

    @property
    def network(self) -> Snapshot:
        peer = self.peer
        return snapshot(peer.network, peer.task, peer.seed, self.place, self.now_s, lambda name: name not in peer.absent)

    @property
    def requests(self) -> Sequence[Request]:
        return self.peer.task.requests.get(self.name, ())

    def estimate(self, fn: Callable[..., Any], where: str, *args: Any) -> Estimate:
        peer = self.peer
        name, owner = peer.wire.functions.name_of(fn)
        message = pack({"fn": name, "owner": owner}, peer.wire.encode(args))
        answer = peer.sync(peer.estimate(message) if where == peer.home else reached(peer.post(where, "estimate", message), where))
        found, _ = unpack(answer)
        if "error" in found:
            raise ScenarioError(found["error"])
        return Estimate(*found["estimate"])

    # --- issuing ----------------------------------------------------------------------------------------------------------------------

    def _issue(
        self, fn: Callable[..., Any], where: Sequence[str], args: tuple[Any, ...], each: Sequence[Sequence[Any]], on: str | None, priority: int,
        share_hz: Sequence[float] | None, is_program: bool = False,
    ) -> list[Ref]:  # fmt: skip
        peer = self.peer
        if each and len(each) != len(where):
            raise ScenarioError(f"map(each=...): got {len(each)} entries for {len(where)} places; allowed is one entry per place")
        if share_hz is not None:
            raise Unsupported("map(share_hz=...): got shares of a band; real links share themselves; use the simulated engine, or leave it out")
        if self.epoch != peer.epoch:
            raise DeviceLost(self.place)
        name, owner = peer.wire.functions.name_of(fn)
        shared = peer.wire.encode(args) if args else None
        refs: list[Ref] = []
        calls: list[tuple[PlaceRef, bytes]] = []
        parts: list[bytes] = []
        for i, place in enumerate(where):
            if place not in peer.network.places:
                some = ", ".join(list(peer.network.places)[:3])
                raise ScenarioError(f"{function_name(fn)}: got place {str(place)!r}; allowed are the network's places (such as {some})")
            slots = peer.network.places[place].device.slots
            if on is not None and on not in slots and not is_program:
                raise ScenarioError(f"call(on={on!r}) at '{place}': its device has {sorted(slots)}; use one of these, or declare Device(slots=...)")
            self.number += 1
            ref = PlaceRef(peer, f"{self.id}.{self.number}", place)
            refs.append(ref)
            if place in peer.absent:
                peer.loop.call_soon_threadsafe(lambda ref=ref: peer.lose(peer.item(ref.id, ref.where), ref.where))
                continue
            epoch = peer.epoch if place == peer.home else peer.epochs.get(place, 0)
            sequence = None
            if on is not None and priority >= 0 and not is_program:
                sequence = self.sequences.get((place, epoch, on), 0)
                self.sequences[place, epoch, on] = sequence + 1
            header = {
                "id": ref.id, "fn": name, "owner": owner, "program": self.id, "seq": sequence, "on": on, "priority": priority, "by": self.place,
                "epoch": epoch, "is_program": is_program, "sent_s": self.now_s, "paused_s": peer.clock.paused_s, "made_at": _caller(),
            }  # fmt: skip
            own = [peer.wire.encode(tuple(each[i]))] if each else []
            parts += own
            calls.append((ref, pack(header, *([shared] if shared is not None else []), *own)))
        if peer.codec is not None and not is_program and calls:
            told = {"calls": [[ref.id, ref.where] for ref, _ in calls]}
            peer.sync(self._give(pack(told, shared if shared is not None else peer.wire.encode(()), *parts)))
        for ref, message in calls:
            if ref.where == peer.home:
                peer.loop.call_soon_threadsafe(peer.accept, message)
            else:
                peer.loop.call_soon_threadsafe(lambda ref=ref, message=message: peer.send(self._deliver(ref, message)))
        return refs

    async def _give(self, message: bytes) -> None:
        """Let the peer that will take the calls' values know their arguments."""
        if self.peer.home is not None:
            self.peer.give(message)
        else:
            await self.peer.post(self.place, "give", message)

    async def _deliver(self, ref: PlaceRef, message: bytes) -> None:
        """Bring a call to its place."""
        peer = self.peer
        try:
            answer, _ = unpack(await peer.post(ref.where, "call", message))
            is_lost = "lost" in answer
        except Unreachable:
            is_lost = True
        if is_lost:
            peer.lose(peer.item(ref.id, ref.where), ref.where)

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
        return self._issue(fn, where, args, each, on, priority, share_hz)

    def call(self, fn: Callable[..., Any], where: str, *args: Any, on: str | None = "cpu", priority: int = 0) -> Ref:
        return self._issue(fn, (where,), args, (), on, priority, None)[0]

    def program(self, where: str, fn: Callable[..., Any], *args: Any) -> Ref:
        return self._issue(fn, (where,), args, (), None, 0, None, is_program=True)[0]

    def put(self, value: Any) -> Ref:
        peer = self.peer
        self.number += 1
        ref = PlaceRef(peer, f"{self.id}.{self.number}", self.place)
        blob = peer.wire.encode(value)
        if peer.home is not None:
            peer.sync(peer.put(ref.id, blob))
        else:
            peer.loop.call_soon_threadsafe(lambda: peer.send(peer.post(self.place, "put", pack({"id": ref.id}, blob))))  # type: ignore[arg-type]
        return ref

    # --- verbs that suspend -----------------------------------------------------------------------------------------------------------

    def _wait(self, refs: Sequence[Any], need: int, timeout_s: float | None, verb: str) -> tuple[list[int], list[int]]:
        for i, ref in enumerate(refs):
            if not isinstance(ref, PlaceRef):
                raise ScenarioError(f"node.{verb}: got {type(ref).__name__} at position {i}; allowed are Refs of this run")
        if self.epoch != self.peer.epoch:
            raise DeviceLost(self.place)
        return self.peer.sync(self.peer.wait(refs, need, timeout_s))

    def fetch(self, refs: Any) -> Any:
        many = refs if isinstance(refs, list | tuple) else [refs]
        lost = self._wait_all(many)
        if lost:
            raise DeviceLost(next(iter(lost.values())))
        values = self._values(many)
        return values if isinstance(refs, list | tuple) else values[0]

    def first(self, refs: Sequence[Ref], k: int, timeout_s: float | None = None) -> tuple[list[Ref], list[Ref], list[Ref]]:
        if k < 0:
            raise ScenarioError(f"node.first(k={k}): allowed are integers >= 0")
        arrived, lost = self._wait(refs, min(k, len(refs)), timeout_s, "first")
        arrived = arrived[:k]
        gone = set(arrived) | set(lost)
        self.peer.lines.append({"kind": "first", "place": self.place, "program": self.id, "of": len(refs), "arrived": arrived, "lost": lost})
        return [refs[i] for i in arrived], [ref for i, ref in enumerate(refs) if i not in gone], [refs[i] for i in lost]

    def reduce(
        self, refs: Sequence[Ref], weights: Sequence[float] | None = None, over: Any = None, on_loss: OnLoss = "renormalize", like: Any = None
    ) -> Any:
        return fold(self, refs, weights, over, on_loss, like, self._wait_all, self._values)

    def _wait_all(self, refs: Sequence[Any]) -> dict[int, str]:
        _, lost = self._wait(refs, len(refs), None, "fetch")
        return {i: self.peer.items[refs[i].id].lost or refs[i].where for i in sorted(lost)}

    def _values(self, refs: Sequence[Any]) -> list[Any]:
        return [self.peer.value(ref) for ref in refs]

    def over_the_air(self, over: AirSum, refs: Sequence[Ref]) -> Any:
        """Refuse: wires and sockets add nothing up on the way."""
        raise Unsupported("air_sum: it needs a radio channel that adds signals up; use the simulated engine, or another reducer")

    def sleep(self, until_s: float) -> None:
        while (left_s := until_s - self.now_s) > 0:
            time.sleep(min(left_s, 0.5))  # the clock may stand still meanwhile

    def report(self, *, model: Any = None, personal: Mapping[str, Any] | None = None, **metrics: Any) -> None:
        if self.on_report is not None:
            self.on_report(model, personal, metrics)
        else:
            tree = {"model": model, "personal": None if personal is None else dict(personal), "metrics": metrics}
            self.peer.reports.append(self.peer.wire.encode(tree))

    def rng(self, *labels: object) -> np.random.Generator:
        return generator(self.peer.seed, "node", self.place, *labels)


def _caller() -> str:
    """file:line of the method's text that called a verb."""
    import sys

    frame = sys._getframe(3)  # pyright: ignore[reportPrivateUsage]  (inspect would read the source file)
    return f"{frame.f_code.co_filename.rsplit('/', 1)[-1]}:{frame.f_lineno}"
