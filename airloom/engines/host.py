"""A machine that hosts clients of a star: it answers messages of a server, and holds what its clients must keep.

A message is a head (JSON), a body and a body shared by many clients (both in the form of `wire`), signed by the server. What a machine runs, and for
which worlds, is decided where it is started (`open_job`), not by the message. A message that is refused changes nothing.

    hello   a run begins, goes on from a round, or takes this machine in again: load the world once, answer with an epoch
    ping    are you still the one that I gave calls to?
    call    run a device function for a client; answer with those parts of the result that somebody has asked for already
    get     parts of results that stayed here
"""

# Trees (states, arguments, results) are of any shape, so what is taken out of them has no static type.
# pyright: strict, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from airloom.engines.executors import Job, run_job
from airloom.engines.wire import Limits, Wire
from airloom.errors import ScenarioError, WireError
from airloom.network.network import Network
from airloom.program.codec import Code
from airloom.program.method import Method, Service, function_name
from airloom.program.protection import is_protected
from airloom.program.ref import Ref
from airloom.program.tree import Path as TreePath
from airloom.program.tree import at, replaced
from airloom.tasks.task import Task

HEAD_BYTES = 1 << 20
STALE = "for an earlier process or run"


class Packet(NamedTuple):
    """One message in either direction."""

    head: str
    body: bytes = b""
    shared: bytes = b""
    signature: bytes = b""

    def signed(self) -> bytes:
        """What a signature covers."""
        parts = [self.head.encode(), self.body, self.shared]
        return b"".join([len(part).to_bytes(8, "little") + part for part in parts])


class Opened(NamedTuple):
    """What a job text stands for on this machine."""

    method: Method | Service
    network: Network
    task: Task
    seed: int


class Stand(Ref):
    """A Ref that came with a message: the name of a value that must be here."""

    __slots__ = ("number", "path")

    def __init__(self, number: int, path: TreePath) -> None:
        self.number = number
        self.path = path

    place = started_s = made_s = arrived_s = None  # type: ignore[assignment]  # nothing on this side asks for these

    def __getitem__(self, key: Any) -> Stand:
        return Stand(self.number, (*self.path, key))


@dataclass
class Client:
    """What one client keeps: its state, how far it has drawn its data, and the round and number of its last call.

    `mark` is (round, state, drawn) at the server's last checkpoint, `undo` (state, drawn, round, number) before the last call.
    """

    state: dict[str, Any] = field(default_factory=dict)
    drawn: int = 0
    round: int = -1
    number: int = 0
    mark: tuple[int, dict[str, Any], int] | None = None
    undo: tuple[dict[str, Any], int, int, int] | None = None


class Host:
    """Answers a server's messages for the clients that live on this machine.

    Arguments:
        open_job: turns a job's description into objects, or refuses it; called once per run.
        verify: raises an error unless a signature of these bytes is the server's; None accepts all (only where the transport is the process itself).
        folder: where the clients' states outlive this process, or None.
        limits: of messages.
    """

    def __init__(
        self,
        open_job: Callable[[Mapping[str, Any]], Opened],
        verify: Callable[[bytes, bytes], None] | None,
        folder: Path | None = None,
        limits: Limits = Limits(),
    ) -> None:
        self.open_job = open_job
        self.verify = verify
        self.folder = folder
        self.limits = limits
        self.epoch = secrets.token_hex(8)  # another one for every process and greeting: older calls are refused
        self.loads = 0  # worlds that this process has loaded
        self.run = ""
        self.opened: Opened | None = None
        self.wire: Wire | None = None
        self.clients: dict[str, Client] = {}
        self.held: dict[tuple[str, int, TreePath], Any] = {}
        self.codes: dict[tuple[str, int], Mapping[TreePath, Code]] = {}  # what is sent for parts of held values

    # --- messages ---------------------------------------------------------------------------------------------------------------------

    def kind_of(self, packet: Packet) -> str:
        """What a message wants, after checking that it comes from the server; WireError otherwise."""
        if self.verify is not None:
            try:
                self.verify(packet.signature, packet.signed())
            except Exception as error:
                raise WireError("message: its signature is not the server's; nothing was done") from error
        kind = self._head(packet).get("kind")
        if kind not in ("hello", "ping", "call", "get"):
            raise WireError("message: got an unknown kind; allowed are hello, ping, call and get")
        return kind

    def answer(self, packet: Packet) -> Packet:
        """The answer to a message; errors become answers."""
        try:
            kind = self.kind_of(packet)
            head = self._head(packet)
            if kind == "ping":
                return _packet({"kind": "ping", "epoch": self.epoch})
            if kind == "hello":
                return self._hello(head)
            if head.get("epoch") != self.epoch or head.get("run") != self.run or self.wire is None:
                raise WireError(f"message: it is {STALE} of this machine; nothing was done")
            return self._call(head, packet) if kind == "call" else self._get(head)
        except Exception as error:  # whatever goes wrong is told; this machine goes on
            return _packet({"kind": "error", "type": type(error).__name__, "message": str(error)[:2000]})

    def _head(self, packet: Packet) -> dict[str, Any]:
        if len(packet.head) > HEAD_BYTES:
            raise WireError(f"message: got a head of {len(packet.head)} bytes; allowed are {HEAD_BYTES}")
        try:
            head = json.loads(packet.head)
        except (ValueError, RecursionError) as error:
            raise WireError(f"message: its head cannot be read ({type(error).__name__})") from error
        if type(head) is not dict:
            raise WireError("message: got a head that is no JSON object")
        return head

    def _hello(self, head: Mapping[str, Any]) -> Packet:
        run, job, names = _field(head, "run", str), _field(head, "job", dict), _field(head, "places", list)
        back_to, taken = head.get("round"), _field(head, "taken", dict)
        if not run.isalnum() or len(run) > 64 or (back_to is not None and type(back_to) is not int):
            raise WireError("hello: got a run or a round that is none")
        if run != self.run:
            opened = self.open_job(job)
            known = opened.network.places
            if not all(type(name) is str and name in known and known[name].role == "client" for name in names):
                raise WireError("hello: got clients that are not in the scenario; use the same scenario and version on all machines")
            for name in names:
                opened.task.data(name, 0.0)
            self.loads += 1
            self.opened, self.run = opened, run
            self.wire = Wire(opened.method, [opened.task.model], self.limits, read_ref=self._stand)
            self.clients = {name: self._stored(name) for name in names}
        keep = _field(head, "keep", dict)
        self.held = {key: value for key, value in self.held.items() if key[1] in keep.get(key[0], ()) and not key[2]}
        self.epoch = secrets.token_hex(8)
        for name, client in self.clients.items():
            if back_to is not None:
                self._go_back(name, client, back_to)
            elif client.undo is not None and client.number > taken.get(name, 0):  # the server lost that call: it has changed nothing
                client.state, client.drawn, client.round, client.number = client.undo
        return _packet({"kind": "hello", "epoch": self.epoch, "loads": self.loads, "held": [[place, number] for place, number, _ in self.held]})

    def _go_back(self, name: str, client: Client, round: int) -> None:
        """Let a client be what it was when a round began."""
        if round == 0:
            client.state, client.drawn, client.round, client.mark = {}, 0, -1, None
            client.undo = None
        elif client.mark is not None and client.mark[0] == round:
            client.state, client.drawn, client.round = dict(client.mark[1]), client.mark[2], round - 1
        elif client.round >= round:
            raise ScenarioError(f"client '{name}': its state of round {round} is gone (it is at round {client.round}); start the run anew")

    def _call(self, head: Mapping[str, Any], packet: Packet) -> Packet:
        opened, wire = self.opened, self.wire
        assert opened is not None and wire is not None
        number, place, round = _field(head, "number", int), _field(head, "place", str), _field(head, "round", int)
        kept, drop = head.get("kept"), _field(head, "drop", list)
        wants = [tuple(path) for path in _field(head, "wants", list)]
        client = self.clients.get(place)
        if client is None:
            raise WireError("call: got a place that does not live here")
        body = wire.decode(packet.body)
        shared = wire.decode(packet.shared) if packet.shared else ()
        if type(body) is not dict or body.keys() != {"fn", "each", "values"} or not callable(body["fn"]) or not isinstance(shared, tuple):
            raise WireError("call: got a body without function, arguments and values")
        news = {(place, n, tuple(path)): value for n, path, value in body["values"]}
        args: list[Any] = [self._resolved(place, arg, news) for arg in (*shared, *body["each"])]
        if kept is not None and (client.mark is None or client.mark[0] != kept):
            client.mark = (kept, dict(client.state), client.drawn)
        started = time.monotonic()
        result = run_job(
            Job(number, body["fn"], function_name(body["fn"]), place, tuple(args), client.state, client.drawn, 0.0),
            opened.network, opened.task, opened.seed,
        )  # fmt: skip
        busy_s = time.monotonic() - started
        if result.error is not None:
            raise result.error
        assert result.spent is not None
        answer = _packet(
            {"kind": "done", "number": number, "busy_s": busy_s, "spent": [*result.spent.work, result.spent.drawn, result.spent.declared_s]},
            wire.encode([replaced(at(result.value, path), result.codes, path) for path in wants]),
        )
        # from here on nothing can be refused any more
        client.undo, client.number = (client.state, client.drawn, client.round, client.number), number
        client.state = {**client.state, **result.changes}
        client.drawn += result.spent.drawn
        client.round = round
        gone = {n for n in drop if type(n) is int}
        self.held = {key: value for key, value in {**self.held, **news}.items() if key[0] != place or key[1] not in gone}
        self.held[place, number, ()] = result.value
        self.codes = {key: codes for key, codes in self.codes.items() if key in {known[:2] for known in self.held}}
        self.codes[place, number] = result.codes
        self._store(place, client)
        return answer

    def _get(self, head: Mapping[str, Any]) -> Packet:
        assert self.wire is not None
        number, place = _field(head, "number", int), _field(head, "place", str)
        if (place, number, ()) not in self.held:
            raise WireError("get: got the name of a value that is not here")
        whole = self.held[place, number, ()]
        is_exact = head.get("is_coded") is False and self.opened is not None and not is_protected(self.opened.method)
        codes = {} if is_exact else self.codes.get((place, number), {})
        parts = [replaced(at(whole, tuple(path)), codes, tuple(path)) for path in _field(head, "wants", list)]
        return _packet({"kind": "got", "number": number}, self.wire.encode(parts))

    def _stand(self, tree: Any) -> Stand:
        if not (isinstance(tree, tuple) and len(tree) == 2 and type(tree[0]) is int and isinstance(tree[1], tuple)):
            raise WireError("message: got a name of a value that is none")
        return Stand(*tree)

    def _resolved(self, place: str, tree: Any, news: Mapping[Any, Any]) -> Any:
        """The tree with values where it names them."""
        if isinstance(tree, Stand):
            for cut in range(len(tree.path), -1, -1):
                key = (place, tree.number, tree.path[:cut])
                if key in news or key in self.held:
                    return at(news[key] if key in news else self.held[key], tree.path[cut:])
            raise WireError("call: got the name of a value that is not here")
        if type(tree) is dict:
            return {key: self._resolved(place, value, news) for key, value in tree.items()}
        if type(tree) is list or type(tree) is tuple:
            return type(tree)([self._resolved(place, value, news) for value in tree])
        return tree

    # --- what outlives the process ----------------------------------------------------------------------------------------------------

    def _file(self, name: str) -> Path | None:
        if self.folder is None or self.opened is None or self.opened.network.on_leave != "keep":
            return None
        return self.folder / f"{self.run}-{name.encode().hex()}.state"

    def _store(self, name: str, client: Client) -> None:
        """Write a client's state, whole or not at all, for its owner's eyes only."""
        path = self._file(name)
        if path is None or self.wire is None:
            return
        raw = self.wire.encode({f.name: getattr(client, f.name) for f in fields(client)})
        partial = path.with_suffix(".partial")
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(raw)
        os.replace(partial, path)

    def _stored(self, name: str) -> Client:
        """What an earlier process of this machine kept of a client in this run."""
        path = self._file(name)
        if path is None or self.wire is None or not path.is_file():
            return Client()
        return Client(**self.wire.decode(path.read_bytes()))


def _packet(head: Mapping[str, Any], body: bytes = b"") -> Packet:
    return Packet(json.dumps(head), body)


def _field(head: Mapping[str, Any], name: str, kind: type) -> Any:
    """A field of a head, of the right kind."""
    value = head.get(name)
    if type(value) is not kind:
        raise WireError(f"message: its '{name}' is a {type(value).__name__}; it must be a {kind.__name__}")
    return value
