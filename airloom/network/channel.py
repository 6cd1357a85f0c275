"""Radio formulas: path loss, line of sight, correlated shadowing, noise, truncated Shannon rate, fading. Pure functions and tables.

Sources: 3GPP TR 38.901 V16.1.0 (path loss: table 7.4.1-1; line of sight: 7.4.2-1; shadowing: 7.4.4 and 7.5-6), 3GPP TR 36.942 annex A (rate).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import cos, exp, inf, log, log1p, log2, pi, sin, sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from airloom.clock.rng import seed_of
from airloom.network.check import need_share, refuse

Floats = NDArray[np.float64]
Environment = Literal["umi", "uma", "indoor_mixed", "indoor_open"]

LIGHT_M_PER_S = 299_792_458.0
THERMAL_DBM_PER_HZ = -174.0  # k T at 290 K, 1.38e-23 * 290 W/Hz, rounded as the standards do


def watts(dbm: float) -> float:
    """Turn dBm into watts.

    >>> round(watts(23.0), 4)
    0.1995
    """
    return 10.0 ** (dbm / 10.0 - 3.0)


def linear(db: float) -> float:
    """Turn decibels into a factor; -inf gives 0."""
    return 10.0 ** (db / 10.0)


@dataclass(frozen=True, kw_only=True)
class RateCurve:
    """Attenuated, truncated Shannon: bit/s per Hz at a SINR.

    f(s) = 0 below s_min;  min(attenuation * log2(1 + s), max_bps_per_hz) from s_min on

    Paper: 3GPP TR 36.942, annex A.1. The cap is that of the top modulation and code rate.

    >>> round(UP_RATE.bps_per_hz(10.0), 4), UP_RATE.bps_per_hz(0.05)
    (1.3838, 0.0)
    """

    attenuation: float
    min_sinr_db: float
    max_bps_per_hz: float

    def __post_init__(self) -> None:
        need_share("RateCurve", "attenuation", self.attenuation, "1 is Shannon's limit")
        if not self.min_sinr_db < inf:
            refuse("RateCurve", "min_sinr_db", self.min_sinr_db, "a number, or -inf for none", "give the SINR of the most robust code")
        if not self.max_bps_per_hz > 0.0:
            refuse("RateCurve", "max_bps_per_hz", self.max_bps_per_hz, "> 0, or inf for none", "give the efficiency of the top modulation")
        if self.slope and self.attenuation * log2(1.0 + self.min_sinr) > self.max_bps_per_hz:
            refuse("RateCurve", "max_bps_per_hz", self.max_bps_per_hz, "at least the efficiency at min_sinr_db", "raise it")

    @cached_property
    def min_sinr(self) -> float:
        """Smallest usable SINR, linear (0 where there is none)."""
        return linear(self.min_sinr_db)

    @cached_property
    def slope(self) -> float:
        """f(s_min) / s_min: efficiency per unit of SINR of a device that narrows its band to stay at s_min; 0 where there is no s_min."""
        low = self.min_sinr
        return self.attenuation * log2(1.0 + low) / low if low > 0.0 else 0.0

    def bps_per_hz(self, sinr: float) -> float:
        """Return the efficiency at a linear SINR."""
        if sinr < self.min_sinr:
            return 0.0
        return min(self.attenuation * log2(1.0 + sinr), self.max_bps_per_hz)

    def bps_per_hz_narrowing(self, sinr: Floats) -> Floats:
        """Return f, continued below s_min by the line `slope * s` (the widest band that reaches s_min)."""
        above = np.minimum(self.attenuation * np.log2(1.0 + sinr), self.max_bps_per_hz)
        return np.where(sinr < self.min_sinr, self.slope * sinr, above)


# TR 36.942 table A.2: implementation losses, QPSK 1/5 (up) and 1/8 (down) at the low end, 16QAM 3/4 (up) and 64QAM 4/5 (down) at the top.
UP_RATE = RateCurve(attenuation=0.4, min_sinr_db=-10.0, max_bps_per_hz=2.0)
DOWN_RATE = RateCurve(attenuation=0.6, min_sinr_db=-10.0, max_bps_per_hz=4.4)
SHANNON = RateCurve(attenuation=1.0, min_sinr_db=-inf, max_bps_per_hz=inf)


# ---- fading -------------------------------------------------------------------------------------------------------------------------


def coherence_s(*, speed_m_per_s: float, carrier_hz: float) -> float:
    """Return the coherence time `0.423 c / (v f)`; infinite for v = 0.

    >>> round(coherence_s(speed_m_per_s=1.0, carrier_hz=3.5e9), 4)
    0.0362
    """
    return 0.423 * LIGHT_M_PER_S / (speed_m_per_s * carrier_hz) if speed_m_per_s > 0.0 else inf


def draw_complex_normal(*labels: object) -> tuple[float, float]:
    """Draw a complex Gaussian of mean square 1 for the stream named by `labels`: its real and imaginary part.

    Its squared radius is exponential; 64 bits of the stream give radius and angle, 32 each.
    """
    bits = seed_of(*labels)
    angle = 2.0 * pi * ((bits & 0xFFFFFFFF) * 2.0**-32)
    radius = sqrt(-log1p(-(bits >> 32) * 2.0**-32))
    return radius * cos(angle), radius * sin(angle)


def draw_power_gain(rice: float, *labels: object) -> float:
    """Draw |h|^2 with mean 1 for the stream named by `labels`: Rayleigh for rice = 0, else Rician with that K (linear)."""
    real, imaginary = draw_complex_normal(*labels)
    spread = sqrt(1.0 / (rice + 1.0))
    return (sqrt(rice) * spread + spread * real) ** 2 + (spread * imaginary) ** 2


_STEP = log(10.0) / 200.0  # grid of the fading tables: 0.05 dB
_LOW_DB, _HIGH_DB = -60, 80
_X_LOW_DB, _X_HIGH_DB = -100, 20


class FadingTable:
    """Expectation of a rate curve over fading, by mean SINR: E[f(s X)] with E[X] = 1.

    On a logarithmic grid the expectation is a correlation of f with the density of ln X, so the whole table costs one product.
    `mean_below(u)` is E[X; X < u].
    """

    def __init__(self, curve: RateCurve, rice: float) -> None:
        x = np.exp(np.arange(_X_LOW_DB * 20, _X_HIGH_DB * 20 + 1) * _STEP)
        density = np.exp(-x) if rice == 0.0 else _rice_density(x, rice)
        weight = x * density * _STEP  # of ln x
        weight /= weight.sum()
        sinr = np.exp(np.arange((_LOW_DB + _X_LOW_DB) * 20, (_HIGH_DB + _X_HIGH_DB) * 20 + 1) * _STEP)
        self.curve = curve
        self.values: list[float] = np.correlate(curve.bps_per_hz_narrowing(sinr), weight, mode="valid").real.tolist()
        self.values.append(self.values[-1])  # rounding may put an SINR just below `high` on the last point
        self._rice = rice
        self._below: list[float] = (np.cumsum(weight * x) - 0.5 * weight * x).tolist()
        self.low = exp(_LOW_DB * 20 * _STEP)
        self.high = exp((_HIGH_DB * 20) * _STEP)

    def bps_per_hz(self, sinr: float) -> float:
        """Return E[f(s X)], f continued below s_min by its line."""
        if sinr < self.low:
            return self.values[0] * sinr / self.low
        if sinr >= self.high:
            return min(self.values[-1] + self.curve.attenuation * log2(sinr / self.high), self.curve.max_bps_per_hz)
        position = log(sinr / self.low) / _STEP
        i = int(position)
        here = self.values[i]
        return here + (self.values[i + 1] - here) * (position - i)

    def mean_below(self, u: float) -> float:
        """Return E[X; X < u]."""
        if self._rice == 0.0:
            return 1.0 - (1.0 + u) * exp(-u)
        position = log(u) / _STEP - _X_LOW_DB * 20 if u > 0.0 else -1.0
        if position < 0.0:
            return 0.0
        i = int(position)
        if i + 1 >= len(self._below):
            return 1.0
        return self._below[i] + (self._below[i + 1] - self._below[i]) * (position - i)


@lru_cache(maxsize=64)
def fading_table(curve: RateCurve, rice: float) -> FadingTable:
    """Return the (cached) table of a curve and a linear Rice factor."""
    return FadingTable(curve, rice)


def _rice_density(x: Floats, rice: float) -> Floats:
    """Density of |h|^2 with mean 1 and Rice factor K: (K+1) exp(-K-(K+1)x) I0(2 sqrt(K(K+1)x))."""
    z = 2.0 * np.sqrt(rice * (rice + 1.0) * x)
    angle = (np.arange(512) + 0.5) * (pi / 512)  # I0(z) is the mean of exp(z cos angle); the midpoint rule is exact to rounding here
    scaled_bessel = np.exp(np.outer(z, np.cos(angle) - 1.0)).mean(axis=1)
    return (rice + 1.0) * np.exp(z - rice - (rice + 1.0) * x) * scaled_bessel


# ---- path loss ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Propagation:
    """Constants of one environment: TR 38.901 tables 7.4.1-1 (path loss, shadowing), 7.5-6 (correlation distance, Rice factor).

    los: (a, b) of `a + b log10(d3D) + 20 log10(f)`; beyond the breakpoint `a + 40 log10(d3D) + 20 log10(f) - c log10(d_bp^2 + dh^2)`.
    nlos: (a, b, c, e) of `a + b log10(d3D) + c log10(f) - e (h_device - 1.5)`, at least the line-of-sight loss. f in GHz, d in m.
    """

    los: tuple[float, float]
    breakpoint_c: float | None
    nlos: tuple[float, float, float, float]
    los_sigma_db: float
    nlos_sigma_db: float
    los_correlation_m: float
    nlos_correlation_m: float
    rice_db: float
    base_height_m: float


_UMI = Propagation(
    los=(32.4, 21.0),
    breakpoint_c=9.5,
    nlos=(22.4, 35.3, 21.3, 0.3),
    los_sigma_db=4.0,
    nlos_sigma_db=7.82,
    los_correlation_m=10.0,
    nlos_correlation_m=13.0,
    rice_db=9.0,
    base_height_m=10.0,
)
_UMA = Propagation(
    los=(28.0, 22.0),
    breakpoint_c=9.0,
    nlos=(13.54, 39.08, 20.0, 0.6),
    los_sigma_db=4.0,
    nlos_sigma_db=6.0,
    los_correlation_m=37.0,
    nlos_correlation_m=50.0,
    rice_db=9.0,
    base_height_m=25.0,
)
_INDOOR = Propagation(
    los=(32.4, 17.3),
    breakpoint_c=None,
    nlos=(17.3, 38.3, 24.9, 0.0),
    los_sigma_db=3.0,
    nlos_sigma_db=8.03,
    los_correlation_m=10.0,
    nlos_correlation_m=6.0,
    rice_db=7.0,
    base_height_m=3.0,
)
PROPAGATION: Mapping[Environment, Propagation] = {"umi": _UMI, "uma": _UMA, "indoor_mixed": _INDOOR, "indoor_open": _INDOOR}


def line_of_sight_probability(environment: Environment, distance_m: Floats, *, device_height_m: float = 1.5) -> Floats:
    """Return the probability of a line of sight at horizontal distances (TR 38.901 table 7.4.2-1).

    >>> [round(float(p), 4) for p in line_of_sight_probability("umi", np.array([10.0, 100.0]))]      # 0.18 + exp(-100/36) * 0.82
    [1.0, 0.231]
    """
    d = np.asarray(distance_m, dtype=np.float64)
    if environment == "indoor_mixed":
        far = np.exp(-np.maximum(d - 6.5, 0.0) / 32.6) * 0.32
        return np.where(d <= 1.2, 1.0, np.where(d < 6.5, np.exp(-np.maximum(d - 1.2, 0.0) / 4.7), far))
    if environment == "indoor_open":
        far = np.exp(-np.maximum(d - 49.0, 0.0) / 211.7) * 0.54
        return np.where(d <= 5.0, 1.0, np.where(d <= 49.0, np.exp(-np.maximum(d - 5.0, 0.0) / 70.8), far))
    near = np.minimum(18.0 / np.maximum(d, 1e-9), 1.0)
    probability = near + np.exp(-d / (36.0 if environment == "umi" else 63.0)) * (1.0 - near)
    if environment == "uma" and device_height_m > 13.0:
        probability *= 1.0 + ((device_height_m - 13.0) / 10.0) ** 1.5 * 1.25 * (d / 100.0) ** 3 * np.exp(-d / 150.0)
    return np.where(d <= 18.0, 1.0, np.minimum(probability, 1.0))


def path_loss_db(
    environment: Environment,
    distance_m: Floats,
    line_of_sight: NDArray[np.bool_],
    *,
    carrier_hz: float,
    base_height_m: float,
    device_height_m: float = 1.5,
) -> Floats:
    """Return the path loss at horizontal distances, without shadowing (TR 38.901 table 7.4.1-1).

    The effective environment height of the breakpoint is 1 m, which for UMa holds for devices below 13 m.

    >>> d, los = np.array([100.0, 100.0]), np.array([True, False])
    >>> [round(float(x), 2) for x in path_loss_db("umi", d, los, carrier_hz=3.5e9, base_height_m=10.0)]
    [85.31, 104.64]
    """
    p = PROPAGATION[environment]
    d2 = np.asarray(distance_m, dtype=np.float64)
    height = base_height_m - device_height_m
    d3 = np.sqrt(d2 * d2 + height * height)
    f = carrier_hz / 1e9
    direct: Floats = p.los[0] + p.los[1] * np.log10(d3) + 20.0 * np.log10(f)
    if p.breakpoint_c is not None:
        breakpoint_m = 4.0 * (base_height_m - 1.0) * (device_height_m - 1.0) * carrier_hz / LIGHT_M_PER_S
        beyond = p.los[0] + 40.0 * np.log10(d3) + 20.0 * np.log10(f) - p.breakpoint_c * np.log10(breakpoint_m**2 + height * height)
        direct = np.where(d2 <= breakpoint_m, direct, beyond)
    a, b, c, e = p.nlos
    blocked = a + b * np.log10(d3) + c * np.log10(f) - e * (device_height_m - 1.5)
    return np.where(line_of_sight, direct, np.maximum(direct, blocked))


# ---- shadowing ----------------------------------------------------------------------------------------------------------------------

_EXACT = 500  # places up to which the Gaussian field is drawn exactly (Cholesky: some 30 ms at 500, growing with the cube)
_WAVES = 512


def correlated_normals(positions_m: Floats, correlation_m: float, rng: np.random.Generator) -> Floats:
    """Draw standard normals at positions [n, 2], correlated as `exp(-distance / correlation_m)` (TR 38.901 section 7.4.4).

    Up to 500 positions the draw is exact (Cholesky factor). Above, it is a sum of 512 plane waves whose wave vectors follow the
    kernel's spectrum, a two-dimensional Cauchy density of scale 1 / correlation_m: mean, variance and correlation are those of the
    kernel, and by the central limit the values are nearly Gaussian; the cost grows with n instead of its cube.
    """
    n = len(positions_m)
    if n <= _EXACT:
        normals = rng.standard_normal(n)
        apart = positions_m[:, None, :] - positions_m[None, :, :]
        kernel = np.exp(-np.sqrt((apart * apart).sum(axis=2)) / correlation_m)
        kernel[np.diag_indices(n)] += 1e-9  # two devices on one spot
        return np.asarray(np.linalg.cholesky(kernel) @ normals, dtype=np.float64)
    # a Gaussian vector over an independent |Gaussian| is Cauchy in any dimension
    waves = rng.standard_normal((2, _WAVES)) / (np.abs(rng.standard_normal(_WAVES)) * correlation_m)
    phases = rng.random(_WAVES) * (2.0 * pi)
    field = np.empty(n)
    for start in range(0, n, 4096):
        rows = slice(start, start + 4096)
        field[rows] = np.cos(positions_m[rows] @ waves + phases).sum(axis=1)
    return field * sqrt(2.0 / _WAVES)


def shadowing_db(environment: Environment, positions_m: Floats, line_of_sight: NDArray[np.bool_], rng: np.random.Generator) -> Floats:
    """Draw log-normal shadowing at positions around one base station; devices with and without line of sight see separate fields."""
    p = PROPAGATION[environment]
    shadow = np.zeros(len(positions_m))
    for mask, sigma_db, correlation_m in (
        (line_of_sight, p.los_sigma_db, p.los_correlation_m),
        (~line_of_sight, p.nlos_sigma_db, p.nlos_correlation_m),
    ):
        if mask.any():
            shadow[mask] = sigma_db * correlated_normals(positions_m[mask], correlation_m, rng)
    return shadow
