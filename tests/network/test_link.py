"""Links refuse what would be free, absent or ambiguous."""

from __future__ import annotations

import math
from typing import Any

import pytest

from airloom.errors import ScenarioError
from airloom.network.cell import Cell
from airloom.network.link import Link
from airloom.network.trace import Trace

CELL = Cell(name="c", bandwidth_hz=1e6, sharing="tdma")
TRACE = Trace(times_s=(0.0,), rates_bps=(1e6,))


def link(**change: Any) -> Link:
    fields: dict[str, Any] = {"source": "a", "target": "b", "latency_s": 0.01, "direction": "up"}
    return Link(**(fields | change))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({}, "exactly one of the three"),
        ({"rate_bps": 1e6, "trace": TRACE}, "exactly one of the three"),
        ({"rate_bps": 0.0}, "model an absent link with churn"),
        ({"rate_bps": -1.0}, "rate_bps"),
        ({"rate_bps": math.nan}, "rate_bps"),
        ({"rate_bps": 1e6, "latency_s": -1.0}, "latency_s"),
        ({"rate_bps": 1e6, "latency_s": math.nan}, "latency_s"),
        ({"rate_bps": 1e6, "direction": "sideways"}, "direction"),
        ({"rate_bps": 1e6, "transmit_power_w": 0.0}, "transmit_power_w"),
        ({"cell": CELL}, "bps_per_hz, gain_db"),
        ({"cell": CELL, "bps_per_hz": 1.0, "gain_db": -90.0}, "bps_per_hz, gain_db"),
        ({"cell": CELL, "bps_per_hz": 0.0}, "bps_per_hz"),
        ({"cell": CELL, "gain_db": -90.0}, "transmit_power_w"),
        ({"cell": CELL, "gain_db": math.nan, "transmit_power_w": 0.2}, "gain_db"),
        ({"cell": CELL, "gain_db": -90.0, "transmit_power_w": 0.2, "power_w_per_hz": 0.0}, "power_w_per_hz"),
        ({"cell": CELL, "gain_db": -90.0, "transmit_power_w": 0.2, "noise_rise_db": -1.0}, "noise_rise_db"),
        ({"cell": CELL, "gain_db": -90.0, "transmit_power_w": 0.2, "rice_db": math.inf}, "rice_db"),
        ({"cell": CELL, "gain_db": -90.0, "transmit_power_w": 0.2, "speed_m_per_s": -1.0}, "speed_m_per_s"),
    ],
)
def test_link_refuses(change: dict[str, Any], word: str) -> None:
    with pytest.raises(ScenarioError, match=f"Link from 'a' to 'b'.*{word}"):
        link(**change)


def test_a_link_is_equal_to_itself_only() -> None:
    one, other = link(rate_bps=1e6), link(rate_bps=1e6)
    assert one == one
    assert one != other
    assert len({one, other}) == 2
