"""Spans of a simulated run: what each resource did, told as it ends."""

from __future__ import annotations

from collections.abc import Callable

from airloom.clock.kernel import Kernel
from airloom.clock.span import Span
from airloom.clock.wires import Transfer, Wire, Wires
from airloom.engines.numerics import Numerics
from airloom.engines.pending import Call, Value


class Watch:
    """Turns ends of calls and of hops into spans; it only looks, so that a watched run is the same run.

    Arguments:
        kernel, numerics, wires: of the simulation.
        tell: called with each span.
    """

    def __init__(self, kernel: Kernel, numerics: Numerics, wires: Wires, tell: Callable[[Span], None]) -> None:
        self.kernel = kernel
        self.numerics = numerics
        self.wires = wires
        self.tell = tell

    def call(self, call: Call, part: float) -> None:
        """A call ended, or was lost after a share of its time."""
        place, on = call.site.name, "handler" if call.resource is None else call.resource.name
        label, joules, is_lost = _short(call.issue.label), call.joules * part, call.is_lost
        start_s, end_s = call.started_s or 0.0, self.kernel.now if is_lost else call.end_s
        at, number, issuer = self.numerics.round, call.number, call.issue.issuer
        self.tell(Span("call", at, number, place, issuer, place, on, label, start_s, end_s, 0.0, 0.0, joules, is_lost))

    def hop(self, transfer: Transfer, what: Call | Value, wire: Wire, part: float | None) -> None:
        """A message's last bit left a link, or the message was lost after a share of it (None: it costs latency only); `what` it serves."""
        start_s = end_s = self.kernel.now
        nbytes, joules = 0.0, 0.0
        if part is not None:
            start_s = transfer.start_s
            end_s = transfer.end_s if 0.0 <= transfer.end_s < end_s else end_s
            nbytes, send_j, receive_j = self.wires.spent(transfer, part)
            joules = send_j + receive_j
        link, goal = wire.link, transfer.route[-1].target.name
        label, is_lost = _short(what.issue.label), transfer.is_lost
        latency_s = 0.0 if is_lost else wire.latency_s
        at, number, on = self.numerics.round, what.number, link.direction
        self.tell(Span("message", at, number, link.source, link.target, goal, on, label, start_s, end_s, latency_s, nbytes, joules, is_lost))


def _short(label: str) -> str:
    """A function's name without its module."""
    return label.rpartition(":")[2]
