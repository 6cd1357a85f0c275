"""A cell: one direction of a set of links that share spectrum, and the rate that a share of it gives each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf, isinf, log2, sqrt
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from airloom.network.channel import (
    SHANNON,
    THERMAL_DBM_PER_HZ,
    FadingTable,
    Floats,
    RateCurve,
    coherence_s,
    draw_complex_normal,
    draw_power_gain,
    fading_table,
    linear,
    watts,
)
from airloom.network.check import need_non_negative, need_positive, need_share, refuse

if TYPE_CHECKING:
    from airloom.network.link import Link


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockFading:
    """Small-scale fading: one draw per coherence time, Rayleigh or (links with a `rice_db`) Rician; longer transfers see the mean rate."""

    carrier_hz: float

    def __post_init__(self) -> None:
        need_positive("BlockFading", "carrier_hz", self.carrier_hz, "give the carrier frequency")


class _Budget(NamedTuple):
    """A link in this cell, reduced to what its rate depends on (powers and bands on the air)."""

    sinr_hz_per_w: float  # SINR of one watt in one hertz, at the mean gain
    power_w: float
    power_w_per_hz: float
    lost: float  # E[X; X below the fade in which no band reaches the minimum]
    rice: float
    coherence_s: float
    table: FadingTable | None
    is_reachable: bool  # at the mean gain


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Cell:
    """One direction of a set of links that share spectrum.

    On the air a share `hz` of `bandwidth_hz` occupies `b = hz / (time_share * (1 - overhead))`, because the direction has the air for
    `time_share` of the time and spends `overhead` of it on control and reference signals:

    rate = (1 - block_error) * hz * f(SINR(b)),   SINR(b) = min(P / b, p_density) * gain / N,   N = N0 * noise figure * noise rise

    Below the curve's minimum SINR a device uses the widest band that reaches it, down to one resource block; a share of less than one
    resource block is a whole block for part of the time. With fading, transfers that take longer than the coherence time see the mean
    of that rate over fading (the band follows the fade), shorter ones the draw of the block in which they start; one that starts in a
    fade too deep for any band waits for the first block that carries it.

    Arguments
    ---------
    bandwidth_hz : what this direction may use after the TDD split and overhead; shares of links add up to it.
    sharing : "tdma" (one link at a time has all of it, fair air time) or "fdma" (each has a band of its own, at the power it has).
    time_share, overhead : see above; the defaults mean that `bandwidth_hz` is what is on the air.
    resource_block_hz : narrowest band; 0 means any.
    curve : rate at a SINR; the default is Shannon's.
    noise_dbm_per_hz, noise_figure_db, noise_rise_db : thermal noise (290 K), receiver, interference from other cells.
    block_error : share of blocks sent again.
    fading : None, or `BlockFading`; its links need a speed.
    estimate_error_db, estimate_delay_s : what planners see: standard deviation of the gain in dB, and its age.
    """

    name: str
    bandwidth_hz: float
    sharing: Literal["tdma", "fdma"]
    time_share: float = 1.0
    overhead: float = 0.0
    resource_block_hz: float = 0.0
    curve: RateCurve = SHANNON
    noise_dbm_per_hz: float = THERMAL_DBM_PER_HZ
    noise_figure_db: float = 0.0
    noise_rise_db: float = 0.0
    block_error: float = 0.0
    fading: BlockFading | None = None
    estimate_error_db: float = 0.0
    estimate_delay_s: float = 0.0
    _useful: float = field(init=False, repr=False)
    _budgets: dict[Link, _Budget] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        owner = f"Cell('{self.name}')"
        need_positive(owner, "bandwidth_hz", self.bandwidth_hz, "give the spectrum of this direction")
        if self.sharing not in ("tdma", "fdma"):
            refuse(owner, "sharing", self.sharing, "'tdma' or 'fdma'", "choose one")
        need_share(owner, "time_share", self.time_share, "1 without TDD")
        for name, value in (("overhead", self.overhead), ("block_error", self.block_error)):
            if not 0.0 <= value < 1.0:
                refuse(owner, name, value, "in [0, 1)", "give a share, not percent")
        need_non_negative(owner, "resource_block_hz", self.resource_block_hz, "0 lets a band be as narrow as it likes")
        for name, value in (("noise_figure_db", self.noise_figure_db), ("noise_rise_db", self.noise_rise_db)):
            need_non_negative(owner, name, value, "noise is never below thermal noise")
        if not -inf < self.noise_dbm_per_hz < inf:
            refuse(owner, "noise_dbm_per_hz", self.noise_dbm_per_hz, "finite", "thermal noise is -174")
        need_non_negative(owner, "estimate_error_db", self.estimate_error_db, "give a standard deviation")
        need_non_negative(owner, "estimate_delay_s", self.estimate_delay_s, "give the age of an estimate")
        object.__setattr__(self, "_useful", self.time_share * (1.0 - self.overhead))
        if self.resource_block_hz * self._useful > self.bandwidth_hz:
            refuse(owner, "resource_block_hz", self.resource_block_hz, "within the band on the air", "widen the band or narrow the block")
        object.__setattr__(self, "_budgets", {})

    # ---- what the clock asks

    def rate_bps(self, link: Link, hz: float, *, at_s: float, bits: float, seed: int) -> float:
        """Return the rate of a transfer of `bits` that starts at `at_s` with `hz` of this cell's `bandwidth_hz`.

        Under TDMA, `hz` is `bandwidth_hz`, and the rate is that of the link's own turns. A link that no band reaches is an error, not a
        rate of zero: its device is absent.
        """
        budget = self._budgets.get(link)
        if budget is None:
            if link.bps_per_hz is not None:
                return hz * link.bps_per_hz
            budget = self._budget(link)
        if not budget.is_reachable:
            todo = "list its device in Network.unreachable, as the builder `cells` does"
            refuse(link.label, "gain_db", link.gain_db, "enough for one resource block to reach the minimum SINR", todo)
        if budget.table is None:
            return self._rate(budget, hz, 1.0)
        ergodic = self._mean_rate(budget, hz)
        if bits <= 0.0 or bits > ergodic * budget.coherence_s:
            return ergodic
        return self._block_rate(link, budget, hz, at_s, bits, seed)

    def rates_bps(self, links: Sequence[Link], hz: float | Floats, *, at_s: float | Floats, bits: float | Floats, seed: int) -> Floats:
        """Return `rate_bps` of many links at once; `hz`, `at_s` and `bits` are one number for all or one per link.

        A loop over the table look-ups of `rate_bps`: at a microsecond each, arrays of them were no faster at any length tried.
        """
        n = len(links)
        columns = [np.broadcast_to(np.asarray(x, dtype=np.float64), n).tolist() for x in (hz, at_s, bits)]
        rate_bps = self.rate_bps
        rates = [rate_bps(link, b, at_s=t, bits=size, seed=seed) for link, b, t, size in zip(links, *columns)]
        return np.array(rates, dtype=np.float64)

    def draw_gain(self, link: Link, *, at_s: float, seed: int) -> float:
        """Return the linear power gain of a link now: its mean gain times the fading of the block that holds `at_s`."""
        if link.gain_db is None:
            refuse(f"Link '{link.source}' to '{link.target}'", "gain_db", None, "given", "a link with bps_per_hz has no channel to draw")
        mean = linear(link.gain_db)
        budget = self._known(link)
        if budget.table is None:
            return mean
        return mean * _draw(link, budget, int(at_s // budget.coherence_s), seed)

    def transmit_power_w(self, link: Link, hz: float) -> float:
        """Return the power while on the air with `hz`: all of `transmit_power_w`, or less where the power density caps it."""
        budget = self._known(link)
        band = max(hz / self._useful, self.resource_block_hz)
        return min(budget.power_w, budget.power_w_per_hz * band)

    def air_share(self, hz: float) -> float:
        """Return the share of elapsed time in which a link with `hz` is on the air (TDD, and parts of a resource block)."""
        return self.time_share * min(1.0, hz / self._useful / self.resource_block_hz) if self.resource_block_hz else self.time_share

    # ---- what planners and builders ask

    def estimated_rate_bps(self, link: Link, hz: float, *, at_s: float, seed: int, bits: float = inf) -> float:
        """Return what a planner believes the rate to be: from a gain that is `estimate_delay_s` old and off by `estimate_error_db`.

        Transfers shorter than the coherence time are estimated with the old block's fading, all others with the mean rate. An estimate
        below what any band can carry is raised to the least that one can.
        """
        if link.bps_per_hz is not None:
            return hz * link.bps_per_hz
        budget = self._known(link)
        seen_s = max(at_s - self.estimate_delay_s, 0.0)
        block = 0 if isinf(budget.coherence_s) else int(seen_s // budget.coherence_s)
        factor = 1.0
        if self.estimate_error_db:
            normal = sqrt(2.0) * draw_complex_normal(seed, "estimate", link.source, link.target, block)[0]
            factor = linear(self.estimate_error_db * normal)
        seen = budget._replace(sinr_hz_per_w=max(budget.sinr_hz_per_w * factor, self._least_sinr_hz_per_w(budget) * (1.0 + 1e-12)))
        if budget.table is None:
            return self._rate(seen, hz, 1.0)
        seen = seen._replace(lost=self._lost(seen))
        ergodic = self._mean_rate(seen, hz)
        if bits > ergodic * budget.coherence_s:
            return ergodic
        least = self._least_sinr_hz_per_w(seen) / seen.sinr_hz_per_w * (1.0 + 1e-12)  # not below it by rounding
        fade = max(_draw(link, budget, block, seed), least)
        return self._rate(seen, hz, fade)

    def best_band_hz(self, link: Link) -> float:
        """Return the widest share of `bandwidth_hz` that reaches the minimum SINR at the mean gain; 0 if none does."""
        if link.bps_per_hz is not None:
            return self.bandwidth_hz
        budget = self._known(link)
        low = self.curve.min_sinr
        if not budget.is_reachable:
            return 0.0
        if low == 0.0:
            return self.bandwidth_hz
        return min(self.bandwidth_hz, budget.power_w * budget.sinr_hz_per_w / low * self._useful)

    def reachable(self, link: Link) -> bool:
        """Return whether any band, down to one resource block, reaches the minimum SINR at the mean gain."""
        return self.best_band_hz(link) > 0.0

    def sinr(self, link: Link, hz: float) -> float:
        """Return the mean SINR (linear) of a link that uses `hz`."""
        budget = self._known(link)
        return self.transmit_power_w(link, hz) / max(hz / self._useful, self.resource_block_hz) * budget.sinr_hz_per_w

    def describe(self) -> dict[str, float | str | None]:
        """Return the constants of this cell, for records."""
        return {
            "bandwidth_hz": self.bandwidth_hz,
            "sharing": self.sharing,
            "time_share": self.time_share,
            "overhead": self.overhead,
            "resource_block_hz": self.resource_block_hz,
            "attenuation": self.curve.attenuation,
            "min_sinr_db": None if isinf(self.curve.min_sinr_db) else self.curve.min_sinr_db,
            "max_bps_per_hz": None if isinf(self.curve.max_bps_per_hz) else self.curve.max_bps_per_hz,
            "noise_dbm_per_hz": self.noise_dbm_per_hz,
            "noise_figure_db": self.noise_figure_db,
            "noise_rise_db": self.noise_rise_db,
            "block_error": self.block_error,
            "fading_carrier_hz": None if self.fading is None else self.fading.carrier_hz,
            "estimate_error_db": self.estimate_error_db,
            "estimate_delay_s": self.estimate_delay_s,
        }

    # ---- inside

    def _known(self, link: Link) -> _Budget:
        """The budget of a link, reduced at its first use."""
        budget = self._budgets.get(link)
        return self._budget(link) if budget is None else budget

    def _budget(self, link: Link) -> _Budget:
        """Reduce a link to its budget, once."""
        if link.gain_db is None or link.transmit_power_w is None:
            refuse(f"Link '{link.source}' to '{link.target}'", "gain_db, transmit_power_w", None, "given", "or give bps_per_hz")
        rise_db = self.noise_rise_db if link.noise_rise_db is None else link.noise_rise_db
        noise = watts(self.noise_dbm_per_hz + self.noise_figure_db + rise_db)
        fading = self.fading
        rice = linear(link.rice_db)
        budget = _Budget(
            sinr_hz_per_w=linear(link.gain_db) / noise,
            power_w=link.transmit_power_w,
            power_w_per_hz=link.power_w_per_hz,
            lost=0.0,
            rice=rice,
            coherence_s=inf if fading is None else coherence_s(speed_m_per_s=link.speed_m_per_s, carrier_hz=fading.carrier_hz),
            table=None if fading is None else fading_table(self.curve, rice),
            is_reachable=True,
        )
        is_reachable = budget.sinr_hz_per_w >= self._least_sinr_hz_per_w(budget)
        budget = budget._replace(lost=self._lost(budget), is_reachable=is_reachable)
        self._budgets[link] = budget
        return budget

    def _least_sinr_hz_per_w(self, budget: _Budget) -> float:
        """The weakest channel in which one resource block still reaches the minimum SINR."""
        rb = self.resource_block_hz
        densest = budget.power_w_per_hz if rb == 0.0 else min(budget.power_w_per_hz, budget.power_w / rb)
        return self.curve.min_sinr / densest

    def _lost(self, budget: _Budget) -> float:
        """E[X; X below the fade in which no band reaches the minimum]."""
        return 0.0 if budget.table is None else budget.table.mean_below(self._least_sinr_hz_per_w(budget) / budget.sinr_hz_per_w)

    def _rate(self, budget: _Budget, hz: float, fade: float) -> float:
        """Rate in a channel of known fade."""
        curve, per_w = self.curve, budget.sinr_hz_per_w * fade
        band = max(hz / self._useful, self.resource_block_hz)
        sinr = min(budget.power_w / band, budget.power_w_per_hz) * per_w
        if sinr >= curve.min_sinr:
            efficiency = min(curve.attenuation * log2(1.0 + sinr), curve.max_bps_per_hz)
        elif per_w < self._least_sinr_hz_per_w(budget):
            return 0.0
        else:
            efficiency = curve.slope * sinr
        return efficiency * hz * (1.0 - self.block_error)

    def _mean_rate(self, budget: _Budget, hz: float) -> float:
        """Rate averaged over fading, the band following the fade."""
        table = budget.table
        if table is None:
            return self._rate(budget, hz, 1.0)
        band = hz / self._useful
        if band < self.resource_block_hz:
            band = self.resource_block_hz
        sinr = budget.power_w / band
        if sinr > budget.power_w_per_hz:
            sinr = budget.power_w_per_hz
        sinr *= budget.sinr_hz_per_w
        return (table.bps_per_hz(sinr) - self.curve.slope * sinr * budget.lost) * hz * (1.0 - self.block_error)

    def _block_rate(self, link: Link, budget: _Budget, hz: float, at_s: float, bits: float, seed: int) -> float:
        """Rate in the block of `at_s`, or counted from `at_s` to the end in the first later block that carries anything."""
        block = int(at_s // budget.coherence_s)
        rate = self._rate(budget, hz, _draw(link, budget, block, seed))
        if rate > 0.0:
            return rate
        while rate == 0.0:
            block += 1
            rate = self._rate(budget, hz, _draw(link, budget, block, seed))
        return bits / (block * budget.coherence_s - at_s + bits / rate)


def _draw(link: Link, budget: _Budget, block: int, seed: int) -> float:
    """Fading of a coherence block: a function of seed, link and block alone."""
    return draw_power_gain(budget.rice, seed, "channel", link.source, link.target, block)
