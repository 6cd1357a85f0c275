"""A span: one call on a resource, or one message on a link, with its begin and end on the clock."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Span(NamedTuple):
    """What a resource did, and for which call.

    Arguments:
        kind: "call", or "message" for one hop of a message.
        round: the root's round when the span ended.
        number: of the call, or of the call or value that a message serves; messages and calls that belong together share it.
        place: where the call ran, or who sent.
        other: who issued the call, or who received.
        goal: the place where a message's route ends; of a call its own place.
        on: the resource ("cpu"), or the link's direction ("up", "down", "backhaul", "peer").
        label: the function, or "put".
        start_s, end_s: begin and end, in seconds; a message ends with its last bit.
        latency_s: what passes after the last bit, in seconds.
        bytes: that crossed the link.
        joules: active ones of the place that computed, or of sender and receiver.
        is_lost: it ended because a place left.

    >>> Span("message", 0, 7, "phone1", "cloud", "cloud", "up", "client", 1.0, 3.0, 0.5, 64.0, 0.2, False).arrival_s
    3.5
    """

    kind: Literal["call", "message"]
    round: int
    number: int
    place: str
    other: str
    goal: str
    on: str
    label: str
    start_s: float
    end_s: float
    latency_s: float
    bytes: float
    joules: float
    is_lost: bool

    @property
    def arrival_s(self) -> float:
        """When the message is there, or the call's result exists."""
        return self.end_s + self.latency_s
