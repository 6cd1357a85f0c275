"""Packets that share a message of Flower: who gets what, and that no answer is waited for in vain. The wires here are lists."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from airloom.engines import flower
from airloom.engines.flower import Owed, SuperLink, bundles, read, written
from airloom.engines.host import Packet

PING = Packet('{"kind": "ping"}')


class Message:
    """A message of either side."""

    def __init__(self, content: Any, to: Any = None, kind: str = "", ttl: float = 0.0, reply_to: int = 0, is_error: bool = False) -> None:
        self.content, self.to, self.is_error = content, to, is_error
        self.metadata = SimpleNamespace(reply_to_message_id=reply_to)

    def has_error(self) -> bool:
        return self.is_error


class Grid:
    """Messages that were pushed, and replies that lie there."""

    def __init__(self) -> None:
        self.pushed: list[Message] = []
        self.replies: list[Message] = []

    def push_messages(self, messages: list[Message]) -> list[int]:
        self.pushed += messages
        return [len(self.pushed)]

    def pull_messages(self, tickets: list[int]) -> list[Message]:
        found = [reply for reply in self.replies if reply.metadata.reply_to_message_id in tickets]
        self.replies = [reply for reply in self.replies if reply not in found]
        return found


def link() -> tuple[SuperLink, Grid]:
    """A server's end without a SuperLink."""
    one = object.__new__(SuperLink)
    httpx = SimpleNamespace(HTTPError=OSError)
    one.flwr = SimpleNamespace(ConfigRecord=dict, RecordDict=dict, Message=Message, httpx=httpx, RunNotRunningException=OSError)
    one.count, one.waiting, one.messages, one.old, one.owed = 0, {}, {}, set(), {}
    one.grid = Grid()
    return one, one.grid


def reply(grid: Grid, to: int, *answers: tuple[int, str], is_error: bool = False) -> None:
    grid.replies.append(Message(written([(number, Packet(head)) for number, head in answers]), reply_to=to, is_error=is_error))


def numbers(message: Message) -> list[int]:
    packets = read(message)
    assert packets is not None
    return [number for number, _ in packets]


def test_what_leaves_together_for_a_node_shares_a_message() -> None:
    one, grid = link()
    tickets = [one.send(node, Packet("call", b"own", b"shared")) for node in (7, 8, 7, 7)]
    assert not grid.pushed
    one.deliver()
    assert [(message.to, numbers(message)) for message in grid.pushed] == [(7, [1, 3, 4]), (8, [2])]
    assert grid.pushed[0].content["shared"] == {"bodies": [b"shared"]}  # once
    assert read(grid.pushed[1]) == [(2, Packet("call", b"own", b"shared"))]
    reply(grid, 2, (2, "done"))
    assert one.answers(tickets) == [(2, Packet("done"))]


def test_the_rest_is_asked_for_by_an_empty_message_and_taken_once() -> None:
    one, grid = link()
    tickets = [one.send(7, Packet("call")) for _ in range(3)]
    one.deliver()
    reply(grid, 1, (2, "second"))
    assert one.answers(tickets) == [(2, Packet("second"))]
    assert [numbers(message) for message in grid.pushed] == [[1, 2, 3], []]
    reply(grid, 2, (1, "first"), (2, "second again"), (9, "never asked"), (3, "third"))
    assert one.answers([1, 3]) == [(1, Packet("first")), (3, Packet("third"))]
    assert len(grid.pushed) == 2 and not one.messages  # nothing is owed


def test_a_message_that_fails_ends_all_that_its_node_owes() -> None:
    one, grid = link()
    tickets = [one.send(7, Packet("call")) for _ in range(2)]
    one.deliver()
    reply(grid, 1, is_error=True)
    assert one.answers(tickets) == [(1, None), (2, None)]


def test_an_answer_of_another_node_is_not_taken_and_one_without_sense_is_told() -> None:
    one, grid = link()
    tickets = [one.send(7, Packet("call")), one.send(8, Packet("call"))]
    one.deliver()
    reply(grid, 2, (1, "for the other"), (2, "own"))
    assert one.answers(tickets) == [(2, Packet("own"))]
    grid.replies.append(Message({"own": {"numbers": "none"}}, reply_to=1))
    assert one.answers([1]) == [(1, Packet(""))]  # an empty head, which bars the machine


def test_a_node_that_was_given_up_and_came_back_owes_nothing_old() -> None:
    one, grid = link()
    old = [one.send(7, Packet("call")) for _ in range(2)]
    one.deliver()
    assert one.answers(old) == []
    greeting = one.send(7, Packet("hello"))  # the server has lost the node, and greets it anew
    one.deliver()
    assert one.answers([greeting]) == [] and one.old == {1}
    reply(grid, 1, (1, "late"), (3, "hello"))  # the node answers by the message that it has had longest
    assert one.answers([greeting]) == [(3, Packet("hello"))]
    call = one.send(7, Packet("call"))
    one.deliver()
    reply(grid, 2, (4, "done"))
    assert one.answers([call]) == [(4, Packet("done"))]


def test_pings_go_alone_and_large_packets_apart(monkeypatch: Any) -> None:
    monkeypatch.setattr(flower, "_SHARE_BYTES", 10)
    packets = [(1, Packet("abcd")), (2, PING), (3, Packet("abcd")), (4, Packet("abcd")), (5, Packet("abcdefghijklmno"))]
    assert [[number for number, _ in bundle] for bundle in bundles(packets)] == [[2], [1, 3], [4], [5]]


def test_a_node_answers_when_all_is_done_or_some_has_waited() -> None:
    owed = Owed()
    owed.messages, owed.count = ["message"], 2
    assert not owed.is_time(0.0)
    owed.done, owed.since_s = [(1, Packet("a"))], 10.0
    assert not owed.is_time(10.1) and owed.is_time(10.1 + flower._SHARE_S)
    owed.done.append((2, Packet("b")))
    assert owed.is_time(10.1)
    owed.sent()
    assert (owed.messages, owed.count, owed.done) == ([], 0, [])
