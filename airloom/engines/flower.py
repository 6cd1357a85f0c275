"""The Flower engine: packets of `star` and `host` as messages of a Flower deployment (flwr 1.41).

The SuperLink is Flower's own. It knows machines by their registered keys, carries messages over TLS, and never sees anything but bytes. The server of
a run is `airloom run`: it starts a Flower run, takes its ServerApp's task itself (with the deployment's secret) and then talks to Flower's grid. A
node (`airloom node`) speaks the SuperNode's protocol. It runs no code that a message or a Flower app brings: the app of our runs is empty, and what a
node does with a packet is decided by `host`. Model and data are loaded once per node, not once per message.

A message costs some 18 requests whatever it holds, so packets that leave together for one node share one. The node answers a message when it has done
all that it was given, or `_SHARE_S` later with what it has done by then; for the rest the server sends it an empty one.

Two more locks: nodes take packets only with the server's signature, so that nobody else who may start runs on the SuperLink can use them; and the
server uses only nodes whose key is in the deployment's folder, whoever else has registered at the SuperLink.

Paper: Beutel et al., "Flower: A Friendly Federated Learning Framework", 2020, arXiv 2007.14390. Interfaces of flwr that are not public are used (the
clients of its Control, Runtime and Fleet APIs), so the version is pinned.
Left out: Flower's own strategies, mods and simulation; account management.
"""

# flwr ships protobuf classes without types
# pyright: strict, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false, reportMissingImports=false
# pyright: reportMissingTypeStubs=false, reportPrivateUsage=false

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.metadata
import logging
import os
import queue
import signal
import threading
import time
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

from airloom.engines.host import Host, Packet
from airloom.engines.star import Transport
from airloom.errors import MissingExtra, RunFailed, ScenarioError

VERSION = "1.41"
MESSAGE_TYPE = "query.airloom"
TTL_S = 24 * 3600.0
_RETRY_S = 60.0  # for a SuperLink that does not answer
_PARTS_S = 5.0  # for the parts of a message that is announced
_SHARE_S = 0.5  # that a node waits for more answers to send together
_SHARE_BYTES = 32 << 20  # in one message
_BEAT_S = 10.0  # between two signs of life of a node; the SuperLink gives a node up after twice that
_APP = {
    "pyproject.toml": b"""[project]
name = "airloom"
version = "1.0.0"
description = "Placeholder: airloom's server and nodes take this run's messages; nothing of this app is ever run"
license = "Apache-2.0"
dependencies = []
[tool.hatch.build.targets.wheel]
packages = ["."]
[tool.flwr.app]
publisher = "airloom"
[tool.flwr.app.components]
serverapp = "app:server"
clientapp = "app:client"
[tool.flwr.app.config]
""",
    "app.py": b"",
}


def find_flower(home: str | None = None) -> SimpleNamespace:
    """What is used of flwr; MissingExtra without it. Telemetry and update checks are off.

    Arguments:
        home: folder that flwr may write to; it uses the user's home without one.
    """
    os.environ.update(FLWR_TELEMETRY_ENABLED="0", FLWR_DISABLE_UPDATE_CHECK="1")
    if home is not None:
        os.environ["FLWR_HOME"] = home
    try:
        found = importlib.metadata.version("flwr")
        if not found.startswith(VERSION + "."):
            raise ScenarioError(f"flwr: got version {found}; the engine is written for {VERSION}: pip install 'airloom[flower]'")
        names = {
            "flwr.app": ("ConfigRecord", "Message", "RecordDict"),
            "flwr.cli.build": ("build_fab_from_files",),
            "flwr.common.constant": ("SubStatus",),
            "flwr.common.serde": ("fab_to_proto", "message_from_proto", "message_to_proto", "run_from_proto"),
            "flwr.proto.control_pb2": ("ListNodesRequest", "RegisterNodeRequest", "StartRunRequest", "UnregisterNodeRequest"),
            "flwr.proto.fleet_pb2": ("ActivateNodeRequest", "DeactivateNodeRequest", "PullMessagesRequest", "PushMessagesRequest"),
            "flwr.proto.heartbeat_pb2": ("SendNodeHeartbeatRequest",),
            "flwr.proto.node_pb2": ("Node",),
            "flwr.proto.runtime_pb2": ("AcquireTaskRequest", "PullTaskInputRequest", "PushTaskOutputRequest", "SendTaskHeartbeatRequest"),
            "flwr.supercore.constant": ("TaskType",),
            "flwr.supercore.control.control_http_client": ("ControlHttpClient",),
            "flwr.supercore.fab": ("Fab",),
            "flwr.supercore.inflatable.inflatable_object": (
                "get_all_nested_objects", "get_object_tree", "iterate_object_tree", "no_object_id_recompute",
            ),
            "flwr.supercore.inflatable.inflatable_protobuf_utils": (
                "make_confirm_message_received_fn_protobuf", "make_pull_object_fn_protobuf", "make_push_object_fn_protobuf",
            ),
            "flwr.supercore.inflatable.inflatable_utils": ("inflate_object_from_contents", "pull_objects", "push_object_contents_from_iterable"),
            "flwr.app.message": ("remove_content_from_message",),
            "flwr.supercore.interceptors": ("RuntimeVersionHttpInterceptor", "SuperExecAuthHttpInterceptor"),
            "flwr.supercore.primitives.asymmetric": ("public_key_to_bytes",),
            "flwr.supercore.retry": ("RetryInvoker", "exponential"),
            "flwr.supercore.run": ("RunNotRunningException",),
            "flwr.supercore.runtime": ("RuntimeHttpClient",),
            "flwr.supercore.task_identity": ("TaskIdentity",),
            "flwr.supernode.fleet_http_client": ("FleetHttpClient",),
            "flwr.supernode.node_auth_http_interceptor": ("NodeAuthHttpInterceptor",),
            "flwr.superlink.grid": ("HttpGrid",),
        }  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what flwr imports: not for us to mend
            parts: dict[str, Any] = {name: getattr(importlib.import_module(module), name) for module, wanted in names.items() for name in wanted}
        parts["httpx"] = importlib.import_module("httpx")
        # Flower waits up to two hours, in steps of seconds, for the parts of a message whose sender died: everybody else would wait too
        parts["pull_objects"] = partial(parts["pull_objects"], max_time=_PARTS_S, initial_backoff=0.05, backoff_cap=0.2)
        http_grid: Any = importlib.import_module("flwr.superlink.grid.http_grid")
        http_grid.pull_objects = parts["pull_objects"]
    except (importlib.metadata.PackageNotFoundError, ModuleNotFoundError) as error:
        raise MissingExtra("flower", "engine flower") from error
    for name in ("flwr", "httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return SimpleNamespace(**parts)


def _words(error: BaseException) -> str:
    """What an error of the connection says, without what a stranger may have put there."""
    text = str(error)
    response = getattr(error, "response", None)
    if response is not None:
        text = f"{response.status_code} {response.reason_phrase}"
    return f"{type(error).__name__}: {text[:300]}"


def control(flwr: SimpleNamespace, address: str, ca: bytes) -> Any:
    """A client of the SuperLink's Control API."""
    return flwr.ControlHttpClient.from_server_address(address, False, ca, [flwr.RuntimeVersionHttpInterceptor(component_name="flwr CLI")])


def register(flwr: SimpleNamespace, address: str, ca: bytes, name: str, public_key: bytes) -> None:
    """Let the SuperLink know a node's key; a key that it knows already is left as it is."""
    client = control(flwr, address, ca)
    try:
        client.RegisterNode(flwr.RegisterNodeRequest(public_key=public_key, name=name))
    except flwr.httpx.HTTPStatusError as error:
        if error.response.status_code != flwr.httpx.codes.CONFLICT and "lready" not in error.response.text:
            raise RunFailed(f"SuperLink at {address}: it refused the key of node '{name}' ({_words(error)})") from error
    finally:
        client.close()


def online(flwr: SimpleNamespace, address: str, ca: bytes) -> dict[str, str]:
    """Status of all nodes that the SuperLink knows, by name."""
    client = control(flwr, address, ca)
    try:
        return {node.name: node.status for node in client.ListNodes(flwr.ListNodesRequest()).nodes_info}
    finally:
        client.close()


# --- the server's side ----------------------------------------------------------------------------------------------------------------


class SuperLink(Transport):
    """A run's connection to the SuperLink.

    Arguments:
        address: HOST:PORT.
        ca: PEM of the certificate authority that must have signed the SuperLink's certificate.
        secret: of the deployment; who has it may be the server of runs.
        keys: public keys (PEM) of the nodes that may be used, by name.
        home: folder that flwr may write to.
    """

    def __init__(self, address: str, ca: bytes, secret: bytes, keys: Mapping[str, bytes], home: str) -> None:
        self.flwr = flwr = find_flower(home)
        self.names = {key.strip(): name for name, key in keys.items()}
        self.grid: Any = None
        self.count = 0
        self.waiting: dict[Any, list[tuple[int, Packet]]] = {}
        self.messages: dict[Any, tuple[Any, list[int]]] = {}  # that have no answer yet: to whom, with which packets
        self.old: set[Any] = set()  # of these, sent to a node that was lost since then
        self.owed: dict[Any, dict[int, None]] = {}  # packets without an answer, by node
        self._is_over = threading.Event()
        httpx = flwr.httpx
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                fab, _ = flwr.build_fab_from_files(_APP)
            client = control(flwr, address, ca)
            try:
                run_id = client.StartRun(flwr.StartRunRequest(fab=flwr.fab_to_proto(flwr.Fab(hashlib.sha256(fab).hexdigest(), fab, {})))).run_id
            finally:
                client.close()
            token = self._acquire(address, ca, secret, run_id)
            self.grid = flwr.HttpGrid(address, False, ca, token=token)
            self.grid._retry_invoker = flwr.RetryInvoker(
                lambda: flwr.exponential(max_delay=2), httpx.TransportError, max_tries=None, max_time=_RETRY_S
            )  # fmt: skip  # Flower's own ends the process where the task is gone
            given = self.grid._runtime_client.PullTaskInput(flwr.PullTaskInputRequest())
        except httpx.HTTPError as error:
            raise RunFailed(
                f"SuperLink at {address}: {_words(error)}; is it up (airloom up), and are certificate and secret those of this deployment?"
            ) from error
        flwr.TaskIdentity.task_id, flwr.TaskIdentity.run_id = given.task_id, given.run.run_id
        flwr.TaskIdentity.node_id = given.context.node_id
        self.grid.set_run(flwr.run_from_proto(given.run))
        self._beats = threading.Thread(target=self._beat, daemon=True)
        self._beats.start()

    def _acquire(self, address: str, ca: bytes, secret: bytes, run_id: int) -> str:
        """Take the task of our run; tasks of runs whose server died are taken out of the way."""
        flwr = self.flwr
        lock = flwr.SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=frozenset({"/flwr.proto.Runtime/AcquireTask"}))
        client = flwr.RuntimeHttpClient.from_server_address(
            address, False, ca, [flwr.RuntimeVersionHttpInterceptor(component_name="SuperExec"), lock]
        )  # fmt: skip
        ends_s = time.monotonic() + _RETRY_S
        try:
            while time.monotonic() < ends_s:
                got = client.AcquireTask(flwr.AcquireTaskRequest(supported_task_types=[flwr.TaskType.SERVER_APP]))
                if not got.token:
                    time.sleep(0.2)
                elif got.task.run_id == run_id:
                    return got.token
                else:
                    grid = flwr.HttpGrid(address, False, ca, token=got.token)
                    grid._runtime_client.PullTaskInput(flwr.PullTaskInputRequest())
                    grid._runtime_client.PushTaskOutput(
                        flwr.PushTaskOutputRequest(sub_status=flwr.SubStatus.FAILED, details="nobody took this run's task in time")
                    )
                    grid.close()
        finally:
            client.close()
        raise RunFailed(
            f"SuperLink at {address}: it gave this run's task to nobody within {_RETRY_S:g} s; another server may have taken it; run again"
        )

    def _beat(self) -> None:
        """Tell the SuperLink that this server lives."""
        while not self._is_over.wait(_BEAT_S):
            try:
                if not self.grid._runtime_client.SendTaskHeartbeat(self.flwr.SendTaskHeartbeatRequest()).success:
                    signal.raise_signal(signal.SIGINT)  # somebody stopped the run (flwr stop)
                    return
            except self.flwr.httpx.HTTPError:
                continue  # what waits for messages notices it too, and ends the run with words

    @contextlib.contextmanager
    def _talking(self) -> Generator[None]:
        try:
            yield
        except (self.flwr.httpx.HTTPError, self.flwr.RunNotRunningException) as error:
            raise RunFailed(f"SuperLink: {_words(error)}; when it is up again: airloom resume") from error

    def machines(self) -> dict[str, Any]:
        with self._talking():
            nodes = list(self.grid.get_nodes())
        return {self.names[node.public_key.strip()]: node.node_id for node in nodes if node.public_key.strip() in self.names}

    def send(self, address: Any, packet: Packet) -> Any:
        self.count += 1
        self.waiting.setdefault(address, []).append((self.count, packet))
        return self.count

    def deliver(self) -> None:
        waiting, self.waiting = self.waiting, {}
        for address, packets in waiting.items():
            for bundle in bundles(packets):
                self._push(address, bundle)
                self.owed.setdefault(address, {}).update(dict.fromkeys([number for number, _ in bundle]))

    def _push(self, address: Any, bundle: Sequence[tuple[int, Packet]]) -> None:
        """Send packets to a node, or none: then it is asked for what it still owes."""
        flwr = self.flwr
        content = {name: flwr.ConfigRecord(fields) for name, fields in written(bundle).items()}
        with self._talking():
            tickets = list(self.grid.push_messages([flwr.Message(flwr.RecordDict(content), address, MESSAGE_TYPE, ttl=TTL_S)]))
        if not tickets or tickets[0] is None:
            size = sum([len(packet.body) + len(packet.shared) for _, packet in bundle])
            raise RunFailed(f"SuperLink: it took no message of {size} bytes; send less at once")
        self.messages[tickets[0]] = (address, [number for number, _ in bundle])

    def answers(self, tickets: Sequence[Any]) -> list[tuple[Any, Packet | None]]:
        wanted = set(tickets)
        with self._talking():
            came = list(self.grid.pull_messages(list(self.messages))) if self.messages else []
        found: list[tuple[Any, Packet | None]] = []
        for message in came:
            ticket = message.metadata.reply_to_message_id
            address = self.messages.pop(ticket)[0]
            owed = self.owed.get(address, {})
            answered: Sequence[tuple[int, Packet | None]] | None = read(message)
            if message.has_error():  # none of it will come
                answered = [] if ticket in self.old else [(number, None) for number in owed]
            elif answered is None:  # it cannot be read, so the first answer cannot
                answered = [(number, Packet("")) for number in list(owed)[:1]]
            for number, packet in answered:
                if number in owed:
                    del owed[number]
                    found.append((number, packet))
        for address, owed in self.owed.items():
            if gone := [number for number in owed if number not in wanted]:  # given up, as the node was; its messages may have gone with it
                for number in gone:
                    del owed[number]
                self.old |= {ticket for ticket, (to, numbers) in self.messages.items() if to == address and not owed.keys() & set(numbers)}
            if owed and not any([to == address and ticket not in self.old for ticket, (to, _) in self.messages.items()]):
                self._push(address, [])
        return found

    def close(self, error: str | None) -> None:
        if self.grid is None or self._is_over.is_set():
            return
        self._is_over.set()
        flwr = self.flwr
        status = flwr.SubStatus.COMPLETED if error is None else flwr.SubStatus.FAILED
        with contextlib.suppress(flwr.httpx.HTTPError, flwr.RunNotRunningException):  # the run's record says how it ended
            self.grid._retry_invoker.max_tries = 1
            self.grid._runtime_client.PushTaskOutput(flwr.PushTaskOutputRequest(sub_status=status, details=(error or "")[:200]))
        self.grid.close()


def bundles(packets: Sequence[tuple[int, Packet]]) -> list[list[tuple[int, Packet]]]:
    """Packets that share a message: what a node must answer at once goes alone, and no message is larger than it may be.

    >>> [len(bundle) for bundle in bundles([(1, Packet("a")), (2, Packet('{"kind": "ping"}')), (3, Packet("b"))])]
    [1, 2]
    """
    found = [[pair] for pair in packets if _is_ping(pair[1])]
    size = _SHARE_BYTES
    for number, packet in packets:
        if _is_ping(packet):
            continue
        own = len(packet.head) + len(packet.body) + len(packet.shared)
        if size + own > _SHARE_BYTES:
            found.append([])
            size = 0
        found[-1].append((number, packet))
        size += own
    return found


def written(bundle: Sequence[tuple[int, Packet]]) -> dict[str, dict[str, list[Any]]]:
    """The records of a message. What packets share is there once, in a record of its own: the SuperLink keeps equal ones once."""
    shared = list(dict.fromkeys([packet.shared for _, packet in bundle]))
    own = {
        "numbers": [number for number, _ in bundle], "heads": [packet.head for _, packet in bundle], "bodies": [packet.body for _, packet in bundle],
        "signatures": [packet.signature for _, packet in bundle], "shared": [shared.index(packet.shared) for _, packet in bundle],
    }  # fmt: skip
    return {"own": own, "shared": {"bodies": shared}}


def read(message: Any) -> list[tuple[int, Packet]] | None:
    """The packets in a message, with their numbers; None if it is none of ours."""
    try:
        own, bodies = message.content["own"], list(message.content["shared"]["bodies"])
        columns = [list(own[name]) for name in ("numbers", "heads", "bodies", "signatures", "shared")]
        found = [(number, Packet(head, body, bodies[k], signature)) for number, head, body, signature, k in zip(*columns, strict=True)]
    except (KeyError, ValueError, TypeError, IndexError):
        return None
    kinds = (str, bytes, bytes, bytes)
    is_good = all([type(number) is int and all([type(part) is kind for part, kind in zip(packet, kinds, strict=True)]) for number, packet in found])
    return found if is_good else None


# --- a node's side --------------------------------------------------------------------------------------------------------------------


class Refused(Exception):
    """The SuperLink does not let this node in."""


class Owed:
    """What a node still owes a run: messages without an answer, how many packets came, and which are done."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.count = 0
        self.done: list[tuple[int, Packet]] = []
        self.since_s = 0.0  # when the first of these was done

    def is_time(self, now_s: float) -> bool:
        """Whether to send what is done."""
        is_full = sum([len(packet.body) for _, packet in self.done]) > _SHARE_BYTES
        return bool(self.messages and self.done) and (len(self.done) == self.count or now_s - self.since_s > _SHARE_S or is_full)

    def sent(self) -> None:
        """What was done is owed no more."""
        self.count -= len(self.done)
        self.messages, self.done = self.messages[1:], []


class Fleet:
    """A node's connection to the SuperLink, by the SuperNode's protocol.

    Arguments:
        host: answers packets.
        address, ca: of the SuperLink.
        key: the node's private key (an EC key of cryptography).
        say: told in a line what happens.
    """

    def __init__(self, host: Host, address: str, ca: bytes, key: Any, home: str, say: Callable[[str], None]) -> None:
        self.flwr = find_flower(home)
        self.host = host
        self.address, self.ca, self.key, self.say = address, ca, key, say
        self.is_over = threading.Event()
        self.work: queue.SimpleQueue[tuple[int, int, Packet]] = queue.SimpleQueue()
        self.done: queue.SimpleQueue[tuple[int, int, Packet]] = queue.SimpleQueue()
        self.runs: dict[int, Owed] = {}

    def serve(self, patience_s: float) -> None:
        """Answer until `is_over` is set. A SuperLink that goes away is waited for.

        Raises:
            Refused: the SuperLink does not know the key, its certificate is not signed by `ca`, or it did not answer within patience_s at the start.
        """
        threading.Thread(target=self._work, daemon=True).start()
        ends_s = time.monotonic() + patience_s
        pause_s = 0.5
        while not self.is_over.is_set():
            try:
                with self._connected() as (client, node):
                    ends_s, pause_s = time.monotonic() + 10 * patience_s, 0.5
                    self._listen(client, node)
            except self.flwr.httpx.HTTPError as error:
                words = _words(error)
                status = getattr(getattr(error, "response", None), "status_code", None)
                if "ertificate" in words or "SSL" in words:
                    raise Refused(f"the certificate of {self.address} is not signed by this deployment's authority ({words})") from error
                if time.monotonic() > ends_s:
                    why = (
                        "it does not know this node's key; register it (airloom admit)"
                        if status is not None and status < 500
                        else "it does not answer"
                    )
                    raise Refused(f"SuperLink at {self.address}: {why} ({words})") from error
                self.say(f"waiting for the SuperLink at {self.address} ({words})")
                self.is_over.wait(pause_s)
                pause_s = min(2 * pause_s, 2.0)

    @contextlib.contextmanager
    def _connected(self) -> Generator[tuple[Any, Any]]:
        flwr = self.flwr
        public = flwr.public_key_to_bytes(self.key.public_key())
        locks = [flwr.RuntimeVersionHttpInterceptor(component_name="SuperNode"), flwr.NodeAuthHttpInterceptor(self.key, self.key.public_key())]
        with flwr.FleetHttpClient.from_server_address(self.address, False, self.ca, interceptors=locks) as client:
            answer = client.ActivateNode(flwr.ActivateNodeRequest(public_key=public, heartbeat_interval=_BEAT_S))
            node = flwr.Node(node_id=answer.node_id)
            self.say(f"connected to {self.address}")
            try:
                yield client, node
            finally:
                with contextlib.suppress(flwr.httpx.HTTPError, RuntimeError):
                    client.DeactivateNode(flwr.DeactivateNodeRequest(node_id=answer.node_id))

    def _listen(self, client: Any, node: Any) -> None:
        """Take messages and send answers, and signs of life."""
        flwr = self.flwr
        beat_s = time.monotonic()
        pause_s = 0.02
        while not self.is_over.is_set():
            if time.monotonic() > beat_s:
                client.SendNodeHeartbeat(flwr.SendNodeHeartbeatRequest(node=node, heartbeat_interval=_BEAT_S))
                beat_s = time.monotonic() + 0.7 * _BEAT_S
            is_busy = False
            answer = client.PullMessages(flwr.PullMessagesRequest(node=node))
            if answer.messages_list:
                message = self._pull(client, node, answer.messages_list[0], answer.message_object_trees[0])
                is_busy = True
                if message is not None:
                    self._take(client, node, message)
            while not self.done.empty():
                self._keep(*self.done.get())
            for owed in self.runs.values():
                if owed.is_time(time.monotonic()):
                    self._push(client, node, owed.messages[0], owed.done)
                    owed.sent()
                    is_busy = True
            pause_s = 0.02 if is_busy else min(1.4 * pause_s, 0.5)
            if not is_busy:
                with contextlib.suppress(queue.Empty):
                    self._keep(*self.done.get(timeout=pause_s))

    def _take(self, client: Any, node: Any, message: Any) -> None:
        """Begin what a message asks for."""
        packets, run = read(message), int(message.metadata.run_id)
        if packets is None:  # not ours
            self._push(client, node, message, [])
        elif len(packets) == 1 and _is_ping(packets[0][1]):  # answered also while a call runs
            self._push(client, node, message, [(packets[0][0], self.host.answer(packets[0][1]))])
        else:
            if run not in self.runs:
                self.runs = {run: Owed()}
            owed = self.runs[run]
            owed.messages.append(message)
            owed.count += len(packets)
            for number, packet in packets:
                self.work.put((run, number, packet))

    def _keep(self, run: int, number: int, answer: Packet) -> None:
        """Something is done; for a run that is over nobody waits."""
        owed = self.runs.get(run, Owed())
        owed.since_s = owed.since_s if owed.done else time.monotonic()
        owed.done.append((number, answer))

    def _work(self) -> None:
        """Answer packets one after another."""
        while not self.is_over.is_set():
            run, number, packet = self.work.get()
            self.done.put((run, number, self.host.answer(packet)))

    def _pull(self, client: Any, node: Any, head: Any, tree: Any) -> Any:
        """The whole message, or None if its parts are gone."""
        flwr = self.flwr
        message = flwr.message_from_proto(head)
        run_id, message_id = message.metadata.run_id, message.metadata.message_id
        try:
            parts = flwr.pull_objects(
                [part.object_id for part in flwr.iterate_object_tree(tree)],
                pull_object_fn=flwr.make_pull_object_fn_protobuf(client.PullObject, node, run_id),
            )
            flwr.make_confirm_message_received_fn_protobuf(client.ConfirmMessageReceived, node, run_id)(message_id)
            whole = flwr.inflate_object_from_contents(message_id, parts)
        except flwr.httpx.HTTPStatusError as error:  # the run is over
            if error.response.status_code == flwr.httpx.codes.UNAUTHORIZED:
                raise
            return None
        except ValueError:
            return None
        whole.metadata.__dict__["_message_id"] = message_id
        return whole

    def _push(self, client: Any, node: Any, message: Any, answers: Sequence[tuple[int, Packet]]) -> None:
        """Send answers."""
        flwr = self.flwr
        reply = flwr.Message(flwr.RecordDict({name: flwr.ConfigRecord(fields) for name, fields in written(answers).items()}), reply_to=message)
        try:
            with flwr.no_object_id_recompute():
                reply.metadata.__dict__["_message_id"] = reply.object_id
                request = flwr.PushMessagesRequest(
                    node=node, messages_list=[flwr.message_to_proto(flwr.remove_content_from_message(reply))],
                    message_object_trees=[flwr.get_object_tree(reply)], clientapp_runtime_list=[0.0],
                )  # fmt: skip
                answer = client.PushMessages(request)
                parts, wanted = flwr.get_all_nested_objects(reply), set(answer.objects_to_push)
                flwr.push_object_contents_from_iterable(
                    ((name, part.deflate()) for name, part in parts.items() if name in wanted),
                    push_object_fn=flwr.make_push_object_fn_protobuf(client.PushObject, node, reply.metadata.run_id, answer.session_id),
                )
        except flwr.httpx.HTTPStatusError as error:  # the run is over: nobody waits for this answer
            if error.response.status_code == flwr.httpx.codes.UNAUTHORIZED:
                raise


def _is_ping(packet: Packet) -> bool:
    return len(packet.head) < 200 and '"ping"' in packet.head
