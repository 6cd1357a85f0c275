"""How to divide a cell's band over the devices of a round: all finish together, or fixed shares.

Device n computes tau_n seconds and would then upload for c_n seconds with the whole band B. With a share b_n it finishes at tau_n + c_n B / b_n
(rate proportional to bandwidth). All finish at the same time T where

    sum_n c_n / (T - tau_n) = 1,   b_n = B c_n / (T - tau_n),   min tau + sum c <= T <= max tau + sum c <= sum (tau_n + c_n)

and no division of the band that stays fixed during the round finishes earlier.

Paper: reconstructed for J. Geng et al., "Adaptive Federated Learning in Heterogeneous Wireless Networks with Independent Sampling" (2024,
arXiv 2402.10097), whose own rule was not available.

Left out: power-limited rates. A narrow band is then used at a higher SNR, so that true uploads end earlier than planned here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from airloom.errors import ScenarioError
from airloom.plans.root import rising_root

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class BandwidthPlan:
    """Shares of a band and the times they lead to.

    Fields:
        share_hz: bandwidth by device, in Hz.
        arrived_s: predicted end of each upload, in seconds after the start of computing.
        finish_s: the latest of these, 0 without devices.
    """

    share_hz: Floats
    arrived_s: Floats
    finish_s: float


@dataclass(frozen=True, kw_only=True)
class FinishBounds:
    """What the common finish time lies between, in seconds: `low_s <= T <= high_s <= serial_s`."""

    low_s: float
    high_s: float
    serial_s: float


def _checked(owner: str, compute_s: ArrayLike, whole_band_s: ArrayLike, band_hz: float = 1.0) -> tuple[Floats, Floats]:
    tau, c = np.asarray(compute_s, dtype=np.float64), np.asarray(whole_band_s, dtype=np.float64)
    if tau.ndim != 1 or tau.shape != c.shape:
        raise ScenarioError(f"{owner}: got compute_s of shape {tau.shape} and whole_band_s of shape {c.shape}; must be two lists of one length")
    if not (np.isfinite(tau).all() and (tau >= 0).all()):
        raise ScenarioError(f"{owner}(compute_s={compute_s!r}): must be finite and >= 0")
    if not (np.isfinite(c).all() and (c > 0).all()):
        raise ScenarioError(
            f"{owner}(whole_band_s={whole_band_s!r}): must be finite and > 0; leave out devices that send nothing or cannot be reached"
        )
    if not 0 < band_hz < np.inf:
        raise ScenarioError(f"{owner}(band_hz={band_hz!r}): must be finite and > 0")
    return tau, c


def common_finish(compute_s: ArrayLike, whole_band_s: ArrayLike, band_hz: float) -> BandwidthPlan:
    """Shares with which all devices finish at the same time.

    Arguments:
        compute_s: tau, seconds until each device begins to send, >= 0.
        whole_band_s: c, seconds of each upload with the whole band, > 0.
        band_hz: B, the band to divide, in Hz, > 0.

    Returns:
        shares that add up to the band, and the common finish time; an empty plan for no devices.

    Raises:
        ScenarioError: lists of different lengths, or a value out of range.

    >>> plan = common_finish([0.0, 1.0], [1.0, 1.0], 20e6)   # 1/T + 1/(T-1) = 1, so T = (3 + sqrt 5)/2
    >>> round(plan.finish_s, 6), (plan.share_hz / 1e6).round(3).tolist()
    (2.618034, [7.639, 12.361])
    """
    tau, c = _checked("common_finish", compute_s, whole_band_s, band_hz)
    if not len(tau):
        return BandwidthPlan(share_hz=np.zeros(0), arrived_s=np.zeros(0), finish_s=0.0)
    slowest = float(tau.max())
    ahead = slowest - tau  # work with T - max tau: T itself rounds away a short last upload
    wait = rising_root(lambda u: 1.0 - float((c / (u + ahead)).sum()), float(c[ahead == 0].sum()), float(c.sum()))
    shares = c / (wait + ahead)
    return BandwidthPlan(share_hz=band_hz * shares / shares.sum(), arrived_s=np.full(len(tau), slowest + wait), finish_s=slowest + wait)


def fixed_shares(share_hz: ArrayLike, compute_s: ArrayLike, whole_band_s: ArrayLike, band_hz: float) -> BandwidthPlan:
    """What given shares lead to.

    Arguments:
        share_hz: bandwidth by device, in Hz, > 0, together at most the band.
        compute_s, whole_band_s, band_hz: as for `common_finish`.

    Raises:
        ScenarioError: shares that exceed the band or are not positive, or a value out of range.

    >>> fixed_shares([5e6, 15e6], [0.0, 1.0], [1.0, 1.5], 20e6).arrived_s.tolist()
    [4.0, 3.0]
    """
    tau, c = _checked("fixed_shares", compute_s, whole_band_s, band_hz)
    shares = np.asarray(share_hz, dtype=np.float64)
    if shares.shape != tau.shape or not (shares > 0).all() or not shares.sum() <= band_hz * (1 + 1e-9):
        raise ScenarioError(f"fixed_shares(share_hz={share_hz!r}): must be {len(tau)} positive numbers that add up to at most {band_hz!r} Hz")
    arrived = tau + c * band_hz / shares
    return BandwidthPlan(share_hz=shares, arrived_s=arrived, finish_s=float(arrived.max(initial=0.0)))


def equal_shares(compute_s: ArrayLike, whole_band_s: ArrayLike, band_hz: float) -> BandwidthPlan:
    """Give each device the same share of the band; arguments as for `common_finish`.

    >>> equal_shares([0.0, 1.0], [1.0, 1.0], 20e6).finish_s
    3.0
    """
    tau, c = _checked("equal_shares", compute_s, whole_band_s, band_hz)
    return fixed_shares(np.full(len(tau), band_hz / max(len(tau), 1)), tau, c, band_hz)


def finish_bounds(compute_s: ArrayLike, whole_band_s: ArrayLike) -> FinishBounds:
    """Bounds of the common finish time that need no root.

    >>> finish_bounds([0.0, 1.0], [1.0, 1.0])
    FinishBounds(low_s=2.0, high_s=3.0, serial_s=3.0)
    """
    tau, c = _checked("finish_bounds", compute_s, whole_band_s)
    total = float(c.sum())
    return FinishBounds(
        low_s=float(tau.min()) + total if len(tau) else 0.0,
        high_s=float(tau.max()) + total if len(tau) else 0.0,
        serial_s=float((tau + c).sum()),
    )
