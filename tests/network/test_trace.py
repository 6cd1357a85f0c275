"""Traces: finish times by hand, and as the inverse of the bits carried."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airloom.errors import ScenarioError
from airloom.network.trace import Trace, whole_periods

HELD = Trace(times_s=(0.0, 10.0, 15.0), rates_bps=(8e6, 0.0, 2e6))
LOOPED = Trace(times_s=(0.0, 2.0, 3.0), rates_bps=(1e6, 0.0, 4e6), period_s=4.0)


def test_finish_by_hand() -> None:
    # from 9 s: 8 Mbit by 10 s, nothing until 15 s, the other 2 Mbit take 1 s
    assert HELD.finish_s(9.0, 10e6) == 16.0
    assert HELD.finish_s(9.0, 8e6) == 10.0  # not 15: the last bit is through at 10 s
    assert HELD.finish_s(12.0, 4e6) == 17.0
    assert HELD.finish_s(100.0, 4e6) == 102.0
    assert HELD.finish_s(12.0, 0.0) == 12.0
    assert (HELD.rate_bps(0.0), HELD.rate_bps(10.0), HELD.rate_bps(99.0)) == (8e6, 0.0, 2e6)
    assert HELD.bits(9.0, 16.0) == 10e6


def test_repeated_trace_by_hand() -> None:
    # a lap of 4 s carries 2 + 0 + 4 = 6 Mbit
    assert LOOPED.bits(0.0, 8.0) == 12e6
    assert LOOPED.finish_s(0.0, 6e6) == 4.0
    assert LOOPED.finish_s(0.0, 60e6) == 40.0
    assert LOOPED.finish_s(1.0, 1e6) == 2.0
    # from 3.5 s: 2 Mbit by 4 s, 2 Mbit by 6 s, silence until 7 s, 4 Mbit by 8 s
    assert LOOPED.finish_s(3.5, 8e6) == pytest.approx(8.0)
    assert LOOPED.rate_bps(4.0) == 1e6
    silent_end = Trace(times_s=(0.0, 1.0), rates_bps=(1e6, 0.0), period_s=10.0)
    assert silent_end.finish_s(0.0, 1e6) == 1.0
    assert silent_end.finish_s(5.0, 1e6) == 11.0
    assert silent_end.finish_s(0.0, 3e6) == 21.0


@given(
    st.lists(st.tuples(st.floats(0.01, 50.0), st.floats(0.0, 1e7)), min_size=1, max_size=8),
    st.booleans(),
    st.floats(0.0, 300.0),
    st.floats(1.0, 1e8),
)
def test_finish_is_the_inverse_of_bits(parts: list[tuple[float, float]], is_looped: bool, start_s: float, bits: float) -> None:
    times, rates = [0.0], []
    for length, rate in parts:
        times.append(times[-1] + length)
        rates.append(rate)
    rates[-1] = max(rates[-1], 1e3)
    trace = Trace(times_s=times[:-1], rates_bps=rates, period_s=times[-1] if is_looped else None)
    end = trace.finish_s(start_s, bits)
    assert end > start_s
    assert trace.bits(start_s, end) == pytest.approx(bits, rel=1e-6, abs=1.0)


@pytest.mark.parametrize(
    ("times", "rates", "period"),
    [
        ((), (), None),
        ((0.0, 1.0), (1.0,), None),
        ((1.0,), (1.0,), None),
        ((0.0, 0.0), (1.0, 1.0), None),
        ((0.0, 5.0, 3.0), (1.0, 1.0, 1.0), None),
        ((0.0, 5.0), (1.0, 1.0), 4.0),
        ((0.0,), (-1.0,), None),
        ((0.0,), (float("nan"),), None),
        ((0.0, 1.0), (1.0, 0.0), None),
        ((0.0,), (0.0,), 5.0),
    ],
)
def test_trace_refuses(times: tuple[float, ...], rates: tuple[float, ...], period: float | None) -> None:
    with pytest.raises(ScenarioError, match="Trace"):
        Trace(times_s=times, rates_bps=rates, period_s=period)


def test_times_before_the_clock_are_refused() -> None:
    with pytest.raises(ScenarioError, match="at_s"):
        HELD.rate_bps(-1.0)
    with pytest.raises(ScenarioError, match="bits"):
        HELD.finish_s(0.0, -1.0)


def test_whole_periods_agree_with_multiples() -> None:
    assert all(whole_periods(k * 0.1, 0.1) == k for k in range(10_000))


def test_from_csv(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    file.write_text("t_s,mbps\n100,8\n101,2\n")
    trace = Trace.from_csv(file, rate_column="mbps", scale=1e6, period_s=2.0)
    assert trace == Trace(times_s=(0.0, 1.0), rates_bps=(8e6, 2e6), period_s=2.0)
    with pytest.raises(ScenarioError, match="no column 'rate_bps'"):
        Trace.from_csv(file, period_s=None)
    file.write_text("t_s,rate_bps\n0,8\n1,fast\n")
    with pytest.raises(ScenarioError, match="line 3"):
        Trace.from_csv(file, period_s=None)
