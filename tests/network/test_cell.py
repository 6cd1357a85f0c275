"""Rates in a cell: both ways of sharing, the cell edge, fading, and what planners see."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airloom.errors import ScenarioError
from airloom.network.cell import BlockFading, Cell
from airloom.network.channel import DOWN_RATE, UP_RATE, linear, watts
from airloom.network.link import Link

RB = 360e3
BAND = 51 * RB


def textbook(sharing: Any = "tdma") -> Cell:
    return Cell(name="c", bandwidth_hz=1e6, sharing=sharing)


def up_cell(**change: Any) -> Cell:
    """The up-link of the default plan: 18.36 MHz on the air for a quarter of the time, 8 % of it overhead."""
    fields: dict[str, Any] = {
        "name": "up",
        "bandwidth_hz": BAND * 0.25 * 0.92,
        "sharing": "fdma",
        "time_share": 0.25,
        "overhead": 0.08,
        "resource_block_hz": RB,
        "curve": UP_RATE,
        "noise_figure_db": 5.0,
        "noise_rise_db": 3.0,
        "block_error": 0.1,
    }
    return Cell(**(fields | change))


def link(cell: Cell, loss_db: float, **change: Any) -> Link:
    fields: dict[str, Any] = {
        "source": "phone",
        "target": "edge",
        "latency_s": 0.01,
        "direction": "up",
        "cell": cell,
        "gain_db": -loss_db,
        "transmit_power_w": watts(23.0),
        "speed_m_per_s": 1.0,
    }
    return Link(**(fields | change))


def rate(cell: Cell, of: Link, hz: float, bits: float = 1e9, at_s: float = 0.0, seed: int = 0) -> float:
    return cell.rate_bps(of, hz, at_s=at_s, bits=bits, seed=seed)


def test_tdma_and_fdma_by_hand() -> None:
    # 0.1 W (-10 dBW) over 100 dB in 1 MHz: -110 dBW against noise of -204 dBW/Hz + 60 dB = -144 dBW: SNR 34 dB = 2511.886
    #   all of the band: 1e6 * log2(2512.886) = 11.29513 Mbit/s; four in turn get 2.82378 each
    #   a quarter of the band: SNR 4 * 2511.886, 2.5e5 * log2(10048.546) = 3.323675 Mbit/s: 18 % more than a turn
    cell = textbook()
    phone = link(cell, 100.0, transmit_power_w=0.1)
    assert rate(cell, phone, 1e6) == pytest.approx(11.29513e6, rel=1e-6)
    assert rate(cell, phone, 0.25e6) == pytest.approx(3.323675e6, rel=1e-6)
    assert cell.sinr(phone, 1e6) == pytest.approx(2511.886, rel=1e-6)


def test_a_fixed_efficiency_gives_the_simplified_rate() -> None:
    cell = textbook()
    phone = Link(source="a", target="b", latency_s=0.0, direction="up", cell=cell, bps_per_hz=8.0)
    assert rate(cell, phone, 1e6) == 8e6
    assert cell.rates_bps([phone, phone], np.array([1e6, 5e5]), at_s=0.0, bits=1.0, seed=0).tolist() == [8e6, 4e6]
    assert cell.estimated_rate_bps(phone, 1e6, at_s=0.0, seed=0) == 8e6
    assert cell.best_band_hz(phone) == 1e6
    with pytest.raises(ScenarioError, match="gain_db"):
        cell.draw_gain(phone, at_s=0.0, seed=0)


def test_a_phone_at_the_cell_edge_narrows_its_band() -> None:
    # noise -174 + 5 + 3 = -166 dBm/Hz; 23 dBm over 135 dB: SINR(b) = 54 dB - 10 log10(b). The minimum, -10 dB, at b = 10^6.4 = 2.51189 MHz.
    # There 0.4 log2(1.1) = 0.0550014 bit/s/Hz: 138,157 bit/s on the air; * 0.25 (TDD) * 0.92 (overhead) * 0.9 (block errors) = 28,598 bit/s.
    cell = up_cell()
    edge = link(cell, 135.0)
    assert cell.best_band_hz(edge) == pytest.approx(10**6.4 * 0.25 * 0.92)
    assert rate(cell, edge, cell.bandwidth_hz) == pytest.approx(28_598.5, rel=1e-4)
    # more band than it can use changes nothing; a narrower one than that reaches a better SINR
    assert rate(cell, edge, cell.bandwidth_hz / 2) == pytest.approx(28_598.5, rel=1e-4)
    one_block = RB * 0.25 * 0.92  # SINR 54 - 55.563 = -1.563 dB = 0.69775: 0.4 log2(1.69775) = 0.305449; * 360e3 * 0.207
    assert rate(cell, edge, one_block) == pytest.approx(0.305449 * RB * 0.207, rel=1e-5)
    # 3 dB more loss halves the rate, as the design says: proportional to SNR
    assert rate(cell, link(cell, 138.0103), cell.bandwidth_hz) == pytest.approx(28_598.5 / 2, rel=1e-4)


def test_a_phone_is_unreachable_only_when_one_resource_block_is() -> None:
    # one block is 55.563 dBHz: SINR 54 - 55.563 - (loss - 135); -9.563 dB at 143 dB, -10.563 dB at 144 dB
    cell = up_cell()
    assert cell.reachable(link(cell, 143.0))
    assert rate(cell, link(cell, 143.0), cell.bandwidth_hz) > 0.0
    assert not cell.reachable(link(cell, 144.0))
    assert cell.best_band_hz(link(cell, 144.0)) == 0.0
    for each in (cell, up_cell(fading=BlockFading(carrier_hz=3.5e9))):
        with pytest.raises(ScenarioError, match="unreachable"):
            rate(each, link(each, 144.0), each.bandwidth_hz)


def test_less_than_a_resource_block_is_a_block_for_part_of_the_time() -> None:
    cell = up_cell()
    phone = link(cell, 120.0)
    block = RB * 0.25 * 0.92
    assert rate(cell, phone, block / 3) == pytest.approx(rate(cell, phone, block) / 3)
    assert cell.air_share(block / 3) == pytest.approx(0.25 / 3)
    assert cell.air_share(block) == cell.air_share(cell.bandwidth_hz) == 0.25


def test_power_control_keeps_the_density_until_the_power_is_used_up() -> None:
    # -80 + 0.8 * 100 = 0 dBm per 180 kHz; 18.36 MHz are 102 of these: 20.086 dBm < 23. Received: -100 dBm, noise -166 + 52.553 = -113.447:
    # 13.447 dB = 22.118 in any band; 0.4 log2(23.118) = 1.812340
    cell = up_cell()
    density = watts(-80.0 + 0.8 * 100.0) / 180e3
    near = link(cell, 100.0, power_w_per_hz=density)
    assert cell.transmit_power_w(near, cell.bandwidth_hz) == pytest.approx(watts(20.086), rel=1e-4)
    for share in (1.0, 0.5, 0.1):
        assert rate(cell, near, cell.bandwidth_hz * share) == pytest.approx(1.812340 * BAND * 0.207 * share, rel=1e-5)
    # 51 blocks of it at 120 dB would take 36 dBm: all of 23 dBm in the whole band, the density in one block (102 -> 2 parts: 19.01 dBm)
    far = link(cell, 120.0, power_w_per_hz=watts(-80.0 + 0.8 * 120.0) / 180e3)
    assert cell.transmit_power_w(far, cell.bandwidth_hz) == watts(23.0)
    assert cell.transmit_power_w(far, RB * 0.23) == pytest.approx(watts(16.0) * 2)


def test_a_density_that_misses_the_minimum_is_not_helped_by_a_narrow_band() -> None:
    down = up_cell(name="down", curve=DOWN_RATE, noise_figure_db=9.0)
    # 44 dBm over the band: 44 - 72.639 = -28.639 dBm/Hz; noise -162 dBm/Hz: SINR 133.361 dB - loss in any band
    base = {"direction": "down", "transmit_power_w": watts(44.0), "power_w_per_hz": watts(44.0) / BAND}
    assert down.reachable(link(down, 143.3, **base))
    assert not down.reachable(link(down, 143.4, **base))
    assert down.best_band_hz(link(down, 140.0, **base)) == down.bandwidth_hz


@given(st.floats(60.0, 143.0), st.integers(1, 300), st.integers(1, 300))
def test_a_wider_band_never_lowers_the_rate_and_narrow_ones_are_worth_more(loss_db: float, n: int, m: int) -> None:
    for fading in (None, BlockFading(carrier_hz=3.5e9)):
        cell = up_cell(fading=fading)
        phone = link(cell, loss_db, power_w_per_hz=watts(-80.0 + 0.8 * loss_db) / 180e3)
        few, many = sorted((n, m))
        wide, narrow = (rate(cell, phone, cell.bandwidth_hz / k) for k in (few, many))
        assert 0.0 < narrow <= wide * (1 + 1e-9)
        assert narrow * many >= wide * few * (1 - 1e-4)  # tables are interpolated


def test_the_cell_refuses_what_it_cannot_use() -> None:
    for change in (
        {"bandwidth_hz": 0.0},
        {"bandwidth_hz": math.nan},
        {"sharing": "csma"},
        {"time_share": 0.0},
        {"overhead": 1.0},
        {"block_error": -0.1},
        {"noise_figure_db": -1.0},
        {"noise_dbm_per_hz": math.inf},
        {"resource_block_hz": 1e9},
        {"estimate_error_db": math.nan},
        {"estimate_delay_s": -1.0},
    ):
        with pytest.raises(ScenarioError, match=next(iter(change))):
            up_cell(**change)
    with pytest.raises(ScenarioError, match="carrier_hz"):
        BlockFading(carrier_hz=0.0)


# ---- fading


def fading_cell(**change: Any) -> Cell:
    return up_cell(fading=BlockFading(carrier_hz=3.5e9), **change)


def test_long_transfers_see_the_mean_rate_of_many_blocks() -> None:
    cell = fading_cell()
    phone = link(cell, 110.0)
    hz = cell.bandwidth_hz
    coherence = 0.423 * 299_792_458.0 / 3.5e9  # at 1 m/s: 36.2 ms
    ergodic = rate(cell, phone, hz)
    short = [rate(cell, phone, hz, bits=100.0, at_s=(k + 0.5) * coherence) for k in range(4000)]
    assert np.mean(short) == pytest.approx(ergodic, abs=4 * float(np.std(short)) / math.sqrt(4000))
    # the border: a transfer as long as the coherence time
    assert rate(cell, phone, hz, bits=ergodic * coherence * 1.001) == ergodic
    assert rate(cell, phone, hz, bits=ergodic * coherence * 0.999) == rate(cell, phone, hz, bits=100.0)


def test_a_draw_belongs_to_seed_link_and_block_alone() -> None:
    cell = fading_cell()
    phone = link(cell, 110.0)
    other = link(cell, 110.0, source="other")
    hz, coherence = cell.bandwidth_hz, 0.423 * 299_792_458.0 / 3.5e9
    one = rate(cell, phone, hz, bits=100.0, at_s=0.2 * coherence)
    assert rate(cell, phone, hz, bits=200.0, at_s=0.8 * coherence) == one
    assert rate(fading_cell(), link(fading_cell(), 110.0), hz, bits=100.0) == one
    assert one not in (
        rate(cell, phone, hz, bits=100.0, at_s=1.2 * coherence),
        rate(cell, phone, hz, bits=100.0, seed=1),
        rate(cell, other, hz, bits=100.0),
    )
    gain = cell.draw_gain(phone, at_s=0.5 * coherence, seed=0)
    fade = gain / linear(-110.0)
    steady = up_cell()
    assert one == pytest.approx(rate(steady, link(steady, 110.0 - 10 * math.log10(fade)), hz))


def test_a_transfer_in_a_deep_fade_waits_for_the_first_block_that_carries_it() -> None:
    # at 143 dB a fade below -0.44 dB puts one block under -10 dB: more than half of all coherence blocks carry nothing
    cell = fading_cell()
    phone = link(cell, 143.0)
    coherence = 0.423 * 299_792_458.0 / 3.5e9
    least = linear(-10.0 + 9.563 - 0.0)  # fade that one resource block needs: SINR -9.563 dB at the mean gain
    blocks = [cell.draw_gain(phone, at_s=(k + 0.5) * coherence, seed=0) / linear(-143.0) for k in range(200)]
    silent = next(k for k in range(199) if blocks[k] < least * 0.99 and blocks[k + 1] > least * 1.01)
    start = (silent + 0.25) * coherence
    bits = 10.0
    waited = bits / rate(cell, phone, cell.bandwidth_hz, bits=bits, at_s=start)
    direct = bits / rate(cell, phone, cell.bandwidth_hz, bits=bits, at_s=(silent + 1.0001) * coherence)
    assert waited == pytest.approx(0.75 * coherence + direct)


def test_the_mean_rate_leaves_out_fades_that_no_band_carries() -> None:
    cell = fading_cell()
    phone = link(cell, 142.0)
    hz = cell.bandwidth_hz
    x = np.array([cell.draw_gain(phone, at_s=(k + 0.5) * 0.0363, seed=3) for k in range(6000)]) / linear(-142.0)
    steady = up_cell()
    # nothing in the deep fades: built from the steady cell at each gain
    faded = [link(steady, 142.0 - 10 * math.log10(f)) for f in x]
    each = np.array([rate(steady, of, hz) if steady.reachable(of) else 0.0 for of in faded])
    assert (each == 0.0).any()
    assert rate(cell, phone, hz) == pytest.approx(each.mean(), abs=4 * each.std() / math.sqrt(len(x)))


def test_fading_needs_a_speed() -> None:
    with pytest.raises(ScenarioError, match="speed_m_per_s"):
        link(fading_cell(), 100.0, speed_m_per_s=0.0)


def test_many_rates_equal_single_ones() -> None:
    cell = fading_cell()
    links = [link(cell, 80.0 + i, source=f"p{i}", rice_db=9.0 if i % 2 else -math.inf) for i in range(60)]
    at, bits = np.linspace(0.0, 1.0, 60), np.where(np.arange(60) % 3 == 0, 100.0, 1e9)
    many = cell.rates_bps(links, cell.bandwidth_hz / 60, at_s=at, bits=bits, seed=2)
    each = [rate(cell, of, cell.bandwidth_hz / 60, bits=float(b), at_s=float(t), seed=2) for of, b, t in zip(links, bits, at)]
    assert many.tolist() == each


# ---- what planners see


def test_estimates_are_off_by_the_stated_error() -> None:
    cell = textbook()
    exact = link(cell, 100.0)
    assert cell.estimated_rate_bps(exact, 1e6, at_s=3.0, seed=0) == rate(cell, exact, 1e6)
    blurred = Cell(name="c", bandwidth_hz=1e6, sharing="tdma", estimate_error_db=2.0)
    errors = []
    for seed in range(2000):
        seen = blurred.estimated_rate_bps(link(blurred, 100.0), 1e6, at_s=0.0, seed=seed)
        snr = 2.0 ** (seen / 1e6) - 1.0
        errors.append(10 * math.log10(snr / cell.sinr(exact, 1e6)))
    assert np.mean(errors) == pytest.approx(0.0, abs=4 * 2.0 / math.sqrt(2000))
    assert np.std(errors) == pytest.approx(2.0, rel=4 / math.sqrt(4000))


def test_an_estimate_shows_the_old_block_to_short_transfers() -> None:
    coherence = 0.423 * 299_792_458.0 / 3.5e9
    cell = fading_cell(estimate_delay_s=2 * coherence)
    phone = link(cell, 110.0)
    hz = cell.bandwidth_hz
    seen = cell.estimated_rate_bps(phone, hz, at_s=7.5 * coherence, seed=0, bits=100.0)
    assert seen == pytest.approx(rate(cell, phone, hz, bits=100.0, at_s=5.5 * coherence))
    assert cell.estimated_rate_bps(phone, hz, at_s=7.5 * coherence, seed=0) == pytest.approx(rate(cell, phone, hz))


def test_an_estimate_is_never_zero() -> None:
    cell = fading_cell(estimate_error_db=10.0)
    phone = link(cell, 143.0)
    assert all(cell.estimated_rate_bps(phone, cell.bandwidth_hz, at_s=0.0, seed=s, bits=b) > 0.0 for s in range(200) for b in (10.0, 1e9))


def test_description_is_plain() -> None:
    assert textbook().describe()["min_sinr_db"] is None
    assert fading_cell().describe()["fading_carrier_hz"] == 3.5e9
