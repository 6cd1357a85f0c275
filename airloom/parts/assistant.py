"""What all assistants share: users ask at their devices, each request is a program there, and every answer becomes a point of the ledger."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from types import MappingProxyType
from typing import Any, NamedTuple

from airloom.errors import DeviceLost
from airloom.program.here import Here
from airloom.program.method import Service, ranged
from airloom.program.node import Node
from airloom.program.ref import Ref
from airloom.tasks.requests import Request


class Reply(NamedTuple):
    """An answer at the device that asked: the text, how sure its endpoint is, where it was made, when its first token came (seconds), and what
    else the ledger is to hold."""

    text: str
    confidence: float
    where: str
    first_s: float
    is_fallback: bool = False
    more: Mapping[str, Any] = MappingProxyType({})


def majority(replies: Sequence[Reply]) -> Reply:
    """The reply that most endpoints gave, the first one of equals.

    >>> majority([Reply("3", 1, "a", 0), Reply("4", 1, "b", 0), Reply("4", 1, "c", 0)]).where
    'b'
    """
    votes = Counter(reply.text for reply in replies)
    return max(replies, key=lambda reply: votes[reply.text])


@dataclass(frozen=True, kw_only=True)
class Assistant(Service):
    """A way to answer requests with endpoints at device, edge and cloud; subclasses say how in `serve`.

    Whoever waits for another place waits at most `timeout_s`, then answers with the best local answer; what was sent and begun until then is charged.

    Arguments:
        timeout_s: longest wait for one remote answer, seconds (ours: no user waits longer).
    """

    timeout_s: float = ranged(0, inf, default=30.0, open_low=True)

    @abstractmethod
    def serve(self, device: Node, above: list[str], asked: Request) -> Reply:
        """Answer one request at the device; `above` names the places over it, the nearest first, the cloud last."""

    def prepare(self, node: Node) -> None:
        """What a service does before it opens, on the clock; nothing here."""

    def run(self, node: Node) -> None:
        self.prepare(node)
        node.report(answered=0)
        self.spread(node, [], node.now_s)

    def spread(self, node: Node, above: list[str], opens_s: float) -> None:
        """Go down the tree; at a device, start a program per request at its time."""
        begun = [node.program(child, self.spread, [node.name, *above], opens_s) for child in node.children]
        for i, asked in enumerate(node.requests):
            node.sleep(opens_s + asked.at_s)
            begun.append(node.program(node.name, self.one, above, i))
        node.first(begun, len(begun))

    def one(self, device: Node, above: list[str], i: int) -> None:
        """Answer request i of this device and grade the answer."""
        asked, asked_s = device.requests[i], device.now_s
        reply = self.serve(device, above, asked)
        device.report(
            request=asked.number, correct=int(reply.text == asked.truth), latency_s=device.now_s - asked_s, first_s=max(0.0, reply.first_s - asked_s),
            where=reply.where, is_remote=int(reply.where != device.name), is_fallback=int(reply.is_fallback), **reply.more,
        )  # fmt: skip

    # --- words of the patterns ----------------------------------------------------------------------------------------------------------

    def ask(self, node: Node, where: str, asked: Request, *notes: Ref) -> Ref:
        """Have the endpoint at a place answer, having read notes; the reply stays there."""
        return node.call(self.answer, where, asked.question, asked.context, *notes)

    def answer(self, here: Here, question: str, context: Any, *notes: Any) -> Any:
        """The device function of an answer."""
        return here.answer(question, context, notes)

    def take(self, node: Node, ref: Ref, timeout_s: float | None = None) -> Reply | None:
        """Bring a reply here; None if it does not come in time (None: one that is made here is waited for, others for `self.timeout_s`)."""
        limit_s = None if timeout_s is None and ref.place == node.name else self.timeout_s if timeout_s is None else timeout_s
        arrived, _, _ = node.first([ref], 1, limit_s)
        if not arrived:
            return None
        try:
            said = node.fetch(ref)
        except DeviceLost:
            return None
        came_s = node.now_s if ref.arrived_s is None else ref.arrived_s
        return Reply(said["text"], float(said["confidence"]), ref.place, came_s - said["tail_s"])

    def local(self, node: Node, asked: Request, *notes: Ref) -> Reply:
        """Answer here."""
        return self.local_of(node, self.ask(node, node.name, asked, *notes))

    def local_of(self, node: Node, ref: Ref) -> Reply:
        """The reply that is made here, from nothing remote."""
        reply = self.take(node, ref)
        if reply is None:  # its endpoint failed; a program does not outlive its place
            node.fetch(ref)
            raise DeviceLost(node.name)
        return reply

    def vote(self, node: Node, refs: Sequence[Ref], own: Ref) -> Reply:
        """The answer that most replies give, all awaited together; where some do not come in time, `own` (made here, from nothing remote) votes."""
        node.first(refs, len(refs), None if len(refs) == 1 and refs[0].place == node.name else self.timeout_s)
        replies = [reply for ref in refs if (reply := self.take(node, ref, 0.0)) is not None]
        if len(replies) == len(refs):
            return replies[0] if len(refs) == 1 else majority(replies)._replace(first_s=node.now_s)
        mine = self.local_of(node, own)
        others = [reply for reply in replies if reply.where != node.name]
        return majority([mine, *others])._replace(first_s=node.now_s, is_fallback=len(others) < len([ref for ref in refs if ref.place != node.name]))

    def remote(self, node: Node, where: str, asked: Request, *notes: Ref, otherwise: Reply | None = None) -> Reply:
        """Have a place answer; if that takes too long, `otherwise`, or an answer made here."""
        reply = self.take(node, self.ask(node, where, asked, *notes))
        return reply if reply is not None else (otherwise or self.local(node, asked))._replace(is_fallback=True)
