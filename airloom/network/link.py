"""A link: a directed connection between two places, with a rate, a trace or a share of a cell."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Literal, NamedTuple

from airloom.network.check import need_non_negative, need_positive, refuse

if TYPE_CHECKING:
    from airloom.network.cell import Cell
    from airloom.network.trace import Trace

Direction = Literal["up", "down", "backhaul", "peer"]
_DIRECTIONS = ("up", "down", "backhaul", "peer")


class Hop(NamedTuple):
    """A link of a route as a planner sees it: its rate now (bit/s; infinite where it is free), latency, and bytes on top of every message."""

    source: str
    target: str
    rate_bps: float
    latency_s: float
    framing_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Link:
    """A directed connection; two links are equal only if they are the same object.

    Arguments
    ---------
    source, target : names of places. latency_s : counts after the last bit. direction : which byte counter it feeds.
    rate_bps, trace, cell : exactly one.
    bps_per_hz : in a cell, a fixed spectral efficiency (`rate = hz * bps_per_hz`), or these of the radio channel:
    gain_db : mean power gain, path loss and shadowing included (negative). transmit_power_w : largest power of the sender.
    power_w_per_hz : the power grows with the band at this density until it reaches `transmit_power_w`; inf puts all of it into any band.
    noise_rise_db : interference at this receiver, instead of the cell's. speed_m_per_s : for the coherence time.
    rice_db : Rice factor of a line of sight; -inf is Rayleigh.
    resources : names of shared capacities that its flows use (`Network.capacities`), for max-min sharing.

    `transmit_power_w` also feeds `RadioEnergy.linear_pa` on links without a cell.

    >>> Link(source="edge1", target="phone7", latency_s=0.01, direction="down", rate_bps=8e6).rate_bps
    8000000.0
    """

    source: str
    target: str
    latency_s: float
    direction: Direction
    rate_bps: float | None = None
    trace: Trace | None = None
    cell: Cell | None = None
    bps_per_hz: float | None = None
    gain_db: float | None = None
    transmit_power_w: float | None = None
    power_w_per_hz: float = inf
    noise_rise_db: float | None = None
    speed_m_per_s: float = 0.0
    rice_db: float = -inf
    resources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0.0 <= self.latency_s < inf:
            need_non_negative(self.label, "latency_s", self.latency_s, "give seconds, or 0")
        if self.direction not in _DIRECTIONS:
            refuse(self.label, "direction", self.direction, "one of " + ", ".join(_DIRECTIONS), "it decides which byte counter is fed")
        cell = self.cell
        if (self.rate_bps is not None) + (self.trace is not None) + (cell is not None) != 1:
            given = [name for name, value in (("rate_bps", self.rate_bps), ("trace", self.trace), ("cell", cell)) if value is not None]
            refuse(self.label, "rate_bps, trace, cell", given, "exactly one of the three", "a link without a rate would be free")
        if self.rate_bps is not None and not 0.0 < self.rate_bps < inf:
            refuse(self.label, "rate_bps", self.rate_bps, "finite and > 0", "model an absent link with churn")
        if self.transmit_power_w is not None and not 0.0 < self.transmit_power_w < inf:
            need_positive(self.label, "transmit_power_w", self.transmit_power_w, "give watts")
        if cell is not None:
            self._check_radio(cell)

    @property
    def label(self) -> str:
        """The link as errors name it."""
        return f"Link from '{self.source}' to '{self.target}'"

    def _check_radio(self, cell: Cell) -> None:
        """Refuse a radio state that its cell cannot turn into a rate."""
        if (self.bps_per_hz is None) == (self.gain_db is None):
            refuse(self.label, "bps_per_hz, gain_db", (self.bps_per_hz, self.gain_db), "exactly one in a cell", "fixed efficiency or a radio channel")
        if self.bps_per_hz is not None:
            need_positive(self.label, "bps_per_hz", self.bps_per_hz, "model an absent link with churn")
            return
        if not -inf < (self.gain_db or 0.0) < inf:
            refuse(self.label, "gain_db", self.gain_db, "finite", "a path loss of 100 dB is gain_db=-100")
        if self.transmit_power_w is None:
            refuse(self.label, "transmit_power_w", None, "given with gain_db", "give the sender's power in watts")
        if not self.power_w_per_hz > 0.0:
            refuse(self.label, "power_w_per_hz", self.power_w_per_hz, "> 0, or inf for none", "give the power control's density")
        if self.noise_rise_db is not None and not 0.0 <= self.noise_rise_db < inf:
            refuse(self.label, "noise_rise_db", self.noise_rise_db, "a finite number >= 0", "or None for the cell's")
        if not self.rice_db < inf:
            refuse(self.label, "rice_db", self.rice_db, "a number, or -inf for Rayleigh", "give the Rice factor in dB")
        if not 0.0 <= self.speed_m_per_s < inf:
            refuse(self.label, "speed_m_per_s", self.speed_m_per_s, "a finite number >= 0", "give meters per second")
        if cell.fading is not None and self.speed_m_per_s == 0.0:
            refuse(self.label, "speed_m_per_s", 0.0, "> 0 with block fading", "something always moves; or set the cell's fading to None")
