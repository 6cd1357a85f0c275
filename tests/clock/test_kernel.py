"""The event kernel: order, programs, endings."""

from __future__ import annotations

from typing import Any

import pytest

from airloom.clock.kernel import Kernel, Program


def test_events_of_one_time_run_in_the_order_asked() -> None:
    kernel, seen = Kernel(), []
    for name in "abc":
        kernel.at(1.0, seen.append, name)
    kernel.at(0.5, lambda _: kernel.at(1.0, seen.append, "d"), None)
    kernel.run()
    assert seen == ["a", "b", "c", "d"]
    assert kernel.now == 1.0


def spawn(kernel: Kernel, text: Any, over: list[Any]) -> Program:
    return kernel.spawn("p", "here", None, text, lambda _p, value, error: over.append((value, error)))


def test_a_program_waits_and_goes_on() -> None:
    kernel, over = Kernel(), []

    def text() -> Any:
        program = kernel.running
        assert program is not None
        kernel.at(2.0, lambda _: kernel.wake(program, "hello"), None)
        return kernel.park("a word"), kernel.now

    spawn(kernel, text, over)
    kernel.run()
    assert over == [(("hello", 2.0), None)]


def test_an_exception_that_wakes_a_program_is_raised_in_it() -> None:
    kernel, over = Kernel(), []

    def text() -> str:
        program = kernel.running
        assert program is not None
        kernel.at(1.0, lambda _: kernel.wake(program, KeyError("x")), None)
        try:
            kernel.park("an error")
        except KeyError:
            return "caught"
        return "not raised"

    spawn(kernel, text, over)
    kernel.run()
    assert over == [("caught", None)]


def test_a_killed_program_never_goes_on() -> None:
    kernel, over = Kernel(), []
    program = spawn(kernel, lambda: kernel.park("nothing"), over)
    kernel.at(1.0, lambda _: kernel.kill(program), None)
    kernel.at(2.0, lambda _: kernel.wake(program), None)
    kernel.run()
    assert over == []
    assert not kernel.programs


def test_endings_run_once_per_instant_and_may_add_to_it() -> None:
    kernel, seen = Kernel(), []
    pending = ["late"]

    def ending() -> bool:
        if not pending:
            return False
        kernel.at(kernel.now, seen.append, pending.pop())
        return True

    def unsettle(what: str) -> None:
        pending.append(what)
        kernel.is_unsettled = True

    kernel.endings.append(ending)
    kernel.at(1.0, seen.append, "early")
    kernel.at(2.0, seen.append, "next")
    pending.clear()
    kernel.at(1.0, unsettle, "late")
    kernel.run()
    assert seen == ["early", "late", "next"]


def test_changes_that_nobody_waits_for_do_not_keep_a_run_alive() -> None:
    kernel = Kernel()
    kernel.later(100.0, lambda _: pytest.fail("nobody waited for this"), None)
    kernel.run()
    assert kernel.now == 0.0
