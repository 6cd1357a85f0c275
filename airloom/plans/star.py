"""The closed form of a synchronous round on a star: one server, one hop to each device, the round ends with the last result.

    arrived = down + compute + up,        down = bits / rate + latency,  up likewise

Own links give this directly. Devices that share a `tdma` cell share its airtime equally while they are on the air (egalitarian processor sharing):
n flows at once each get 1/n of the time, so that a flow of w seconds of the whole band ends when the integral of 1/n since its start reaches w.

The simulated engine is tested against this module; planners use it to foresee a round without running one.

Left out: fading, power-limited bands (`fdma`), losses, half-duplex radios, and rounds that overlap.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from airloom.errors import ScenarioError

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class StarRound:
    """Times of one round by device, in seconds after its start; each field has one entry per device.

    Fields:
        received_s: the model is at the device.
        computed_s: the device has its result.
        arrived_s: the result is at the server.
    """

    received_s: Floats
    computed_s: Floats
    arrived_s: Floats

    @property
    def round_s(self) -> float:
        """Seconds until the last result is at the server; 0 without devices."""
        return float(self.arrived_s.max(initial=0.0))


def processor_sharing(start_s: ArrayLike, whole_band_s: ArrayLike) -> Floats:
    """Ends of flows that share a resource equally while they are active (exact, O(n log n)).

    Arguments:
        start_s: start of each flow, in seconds, in any order.
        whole_band_s: seconds that each flow would take alone, >= 0.

    Returns:
        end of each flow, in seconds.

    >>> processor_sharing([0.0, 0.5, 0.5], [1.0, 1.0, 0.25]).tolist()        # A 1 MB at 0, B 1 MB and C 0.25 MB at 0.5 s; 8 Mbit/s
    [1.75, 2.25, 1.25]
    """
    start, work = np.broadcast_arrays(np.asarray(start_s, dtype=np.float64), np.asarray(whole_band_s, dtype=np.float64))
    if start.ndim != 1 or not (np.isfinite(start).all() and np.isfinite(work).all() and (work >= 0).all()):
        raise ScenarioError(f"processor_sharing(start_s={start_s!r}, whole_band_s={whole_band_s!r}): must be lists of finite numbers, work >= 0")
    ends = np.empty(len(start))
    active: list[tuple[float, int]] = []  # virtual service at which a flow ends, and its number
    now = served = 0.0  # `served` grows by 1/n per second while n flows are active
    for i in [*np.argsort(start, kind="stable").tolist(), -1]:
        until = float(start[i]) if i >= 0 else np.inf
        while active and (end := now + (active[0][0] - served) * len(active)) <= until:
            served, flow = heappop(active)
            now = ends[flow] = end
        if i >= 0:
            if active:
                served += (until - now) / len(active)
            else:
                served = 0.0  # differences of large numbers lose digits
            now = until
            heappush(active, (served + float(work[i]), i))
    return ends


def star_round(
    *,
    down_bits: ArrayLike,
    down_bps: ArrayLike,
    down_latency_s: ArrayLike,
    compute_s: ArrayLike,
    up_bits: ArrayLike,
    up_bps: ArrayLike,
    up_latency_s: ArrayLike,
    downlink: Literal["unicast", "broadcast", "free"],
    is_down_shared: bool,
    is_up_shared: bool,
) -> StarRound:
    """Times of a synchronous round: the server sends to all devices at time 0, each computes, each sends its result back.

    Arguments (one number for all devices, or one per device):
        down_bits, up_bits: size of what is sent with its framing, in bit, >= 0.
        down_bps, up_bps: rate in bit/s with the whole band, > 0.
        down_latency_s, up_latency_s: seconds after the last bit, >= 0.
        compute_s: seconds of the device's work, >= 0.
        downlink: `unicast` (a copy each), `broadcast` (in a shared cell one copy for all, at the slowest receiver's rate; own links are no
            broadcast medium and carry a copy each) or `free` (neither time nor latency).
        is_down_shared, is_up_shared: the links of this direction share one tdma cell; else each has its rate to itself.

    Returns:
        times by device, in seconds.

    Raises:
        ScenarioError: a value out of range, or lists of different lengths.

    >>> links = dict(down_bits=8e6, down_bps=8e6, down_latency_s=0.0, up_bits=8e6, up_bps=8e6, up_latency_s=0.01)
    >>> star_round(**links, compute_s=[1.0, 1.5], downlink="broadcast", is_down_shared=True, is_up_shared=True).arrived_s.tolist()
    [3.51, 4.01]
    """
    given: dict[str, ArrayLike] = {
        "down_bits": down_bits,
        "down_bps": down_bps,
        "down_latency_s": down_latency_s,
        "compute_s": compute_s,
        "up_bits": up_bits,
        "up_bps": up_bps,
        "up_latency_s": up_latency_s,
    }
    arrays = {name: np.atleast_1d(np.asarray(value, dtype=np.float64)) for name, value in given.items()}
    for name, array in arrays.items():
        is_ok = np.isfinite(array).all() and (array > 0).all() if name.endswith("_bps") else np.isfinite(array).all() and (array >= 0).all()
        if array.ndim != 1 or not is_ok:
            allowed = "> 0" if name.endswith("_bps") else ">= 0"
            raise ScenarioError(f"star_round({name}={given[name]!r}): must be finite and {allowed}, one number or a list with one per device")
    lengths = {name: len(array) for name, array in arrays.items() if len(array) != 1}
    if len(set(lengths.values())) > 1:
        raise ScenarioError(f"star_round: got lists of different lengths, {lengths}; give one number for all devices, or one per device")
    a = dict(zip(arrays, np.broadcast_arrays(*arrays.values()), strict=True))

    down_s = a["down_bits"] / a["down_bps"]
    if downlink == "free":
        received = np.zeros_like(down_s)
    elif downlink == "broadcast" and is_down_shared:
        received = a["down_bits"] / a["down_bps"].min(initial=np.inf) + a["down_latency_s"]
    else:
        received = (processor_sharing(np.zeros_like(down_s), down_s) if is_down_shared else down_s) + a["down_latency_s"]
    computed = received + a["compute_s"]
    up_s = a["up_bits"] / a["up_bps"]
    sent = processor_sharing(computed, up_s) if is_up_shared else computed + up_s
    return StarRound(received_s=received, computed_s=computed, arrived_s=sent + a["up_latency_s"])
