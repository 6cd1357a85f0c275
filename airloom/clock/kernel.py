"""The event kernel: one clock, an agenda of events, and programs that read like straight-line text.

Every event is `(time_s, number, handler, subject)`: the handler is a bound method, the subject plain data, so that the agenda can be written
to a checkpoint by name. Programs are greenlets; they run only while no event of the same instant is being handled.

An *instant* is everything that happens at one time: events first, then woken programs, then the endings (`end_of_instant` callbacks) that
re-time shared spectrum once however many flows began or ended. An ending may create new events at the same time; they belong to the instant.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heappop
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet

from airloom.clock.agenda import Agenda

Handler = Callable[[Any], None]


class Program:
    """A text running at a place: its greenlet, what it waits for, and where its result goes.

    `number` orders programs by birth; it also names the order rule's queues ("calls of one program at one device run in issue order").
    """

    __slots__ = ("greenlet", "name", "number", "place", "result", "waits_for")

    def __init__(self, number: int, name: str, place: str, result: Any) -> None:
        self.number = number
        self.name = name
        self.place = place
        self.result = result
        self.waits_for: str | None = None
        self.greenlet: greenlet | None = None


class Kernel:
    """A clock with an agenda of events and a queue of programs that may go on.

    Arguments:
        start_s: time at which the clock stands, in seconds.

    >>> kernel = Kernel()
    >>> seen = []
    >>> kernel.at(2.0, seen.append, "b"); kernel.at(1.0, seen.append, "a")
    >>> kernel.run(); seen, kernel.now
    (['a', 'b'], 2.0)
    """

    __slots__ = ("agenda", "background", "endings", "hub", "is_awaiting_change", "is_unsettled", "now", "number", "programs", "ready", "running")

    def __init__(self, start_s: float = 0.0) -> None:
        self.now = start_s
        self.agenda = Agenda()
        self.number = 0
        self.background = 0  # events of the agenda that alone keep no program alive (churn)
        self.is_awaiting_change = False  # a program waits for one of those
        self.ready: deque[tuple[Program, Any]] = deque()
        self.programs: dict[int, Program] = {}
        self.endings: list[Callable[[], object]] = []
        self.is_unsettled = False  # an ending has something to do; whoever gives it something sets this
        self.hub: greenlet = getcurrent()
        self.running: Program | None = None

    def at(self, time_s: float, handler: Handler, subject: Any) -> None:
        """Call `handler(subject)` at `time_s` (seconds); events of one time run in the order in which they were asked for."""
        self.number += 1
        self.agenda.push((time_s, self.number, handler, subject))

    def later(self, time_s: float, handler: Handler, subject: Any) -> None:
        """As `at`, for an event that may come but that nobody waits for (a change of the network)."""
        self.background += 1
        self.at(time_s, handler, subject)

    # --- programs ---------------------------------------------------------------------------------------------------------------------

    def spawn(
        self,
        name: str,
        place: str,
        result: Any,
        text: Callable[[], Any],
        finished: Callable[[Program, Any, BaseException | None], None],
        number: int | None = None,
    ) -> Program:
        """Start `text()` as a program at `place`; `finished(program, value, error)` is called when it returns or raises.

        `number` gives a program that goes on after a checkpoint the number it was born with.
        """
        if number is None:
            self.number += 1
            number = self.number
        program = Program(number, name, place, result)
        self.programs[program.number] = program

        def body(_: Any) -> None:
            value, error = None, None
            try:
                value = text()
            except GreenletExit:
                return
            except BaseException as caught:
                error = caught
            self.programs.pop(program.number, None)
            finished(program, value, error)

        program.greenlet = greenlet(body, parent=self.hub)
        self.ready.append((program, None))
        return program

    def park(self, waits_for: str) -> Any:
        """Suspend the running program until it is woken; return what it is woken with."""
        program = self.running
        assert program is not None, "only a program can wait"
        program.waits_for = waits_for
        value = self.hub.switch()
        program.waits_for = None
        if isinstance(value, BaseException):
            raise value
        return value

    def wake(self, program: Program, value: Any = None) -> None:
        """Let `program` go on with `value` in this instant; an exception is raised inside it."""
        self.ready.append((program, value))

    def kill(self, program: Program) -> None:
        """End a program whose place left; its text sees nothing more."""
        self.programs.pop(program.number, None)
        if program.greenlet is not None and not program.greenlet.dead:
            program.greenlet.throw(GreenletExit)

    # --- the loop ---------------------------------------------------------------------------------------------------------------------

    def run(self, until: Callable[[], bool] | None = None) -> None:
        """Handle instants until `until()` holds or nothing is left to happen.

        A run may stop between two programs of an instant (when `until` holds); calling `run` again goes on exactly there.
        """
        ready, agenda = self.ready, self.agenda
        chunk, front = agenda.chunk, agenda.front
        self.hub = getcurrent()
        for program in self.programs.values():
            if program.greenlet is not None:
                program.greenlet.parent = self.hub
        while True:
            while ready:
                program, value = ready.popleft()
                if program.number not in self.programs:
                    continue
                self.running = program
                assert program.greenlet is not None
                program.greenlet.switch(value)
                self.running = None
                if until is not None and until():
                    return
            if not chunk:
                agenda.sort()
            is_front = bool(front) and (not chunk or front[0] < chunk[-1])
            event = front[0] if is_front else chunk[-1] if chunk else None
            if event is None or event[0] > self.now:
                if self.is_unsettled:
                    self.is_unsettled = False
                    for ending in self.endings:
                        ending()
                    continue
                if event is None or (self.background >= len(agenda) and not self.is_awaiting_change):
                    return
                self.now = event[0]
            if is_front:
                heappop(front)
            else:
                chunk.pop()
            event[2](event[3])
