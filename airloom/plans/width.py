"""Which width each device trains in a round: by a utility that follows the run, by capacity, or at random.

    WHALE-FL    W_n = |D_n| sqrt(Fbar_n) (T_set / T_n)^beta_T,   Fbar_n the mean of F_n over rounds r-2-delay-onepoint .. r-2-delay+onepoint
                u_n = W_n / linear_arg;   5 levels: u >= 0.8 -> 1, [0.6, 0.8) -> 1/2, [0.4, 0.6) -> 1/4, [0.2, 0.4) -> 1/8, below -> 1/16
    capacity    devices in order of the seconds that the whole model costs them, in as many equal groups as there are levels: the fastest train it all

Paper: H. Su, J. Geng, L. Li et al., "WHALE-FL: Wireless and Heterogeneity Aware Latency Efficient Federated Learning over Mobile Devices via Adaptive
Subnetwork Scheduling" (AAAI 2025, arXiv 2405.00885); the groups are those of E. Diao, J. Ding, V. Tarokh, "HeteroFL" (ICLR 2021, arXiv 2010.01264).
Left out: memory; a device that a width does not fit into raises in the engine. What a round of chosen widths takes is foreseen by
`airloom.parts.width.round_seconds`, because the sizes of slices are those of the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Literal

import numpy as np

from airloom.errors import ScenarioError

Mode = Literal["exact", "paper"]

BEFORE_WINDOW = 1e-5  # what stands for sqrt(Fbar) while there is no window (authors' code)


def rate(u: float, levels: int = 5) -> float:
    """Quantize a utility in [0, 1]: the interval is cut into `levels` equal parts, the top one trains the whole model, each further one half of that.

    >>> [rate(u) for u in (1.7, 0.8, 0.79, 0.6, 0.4, 0.2, 0.19, 0.0)]
    [1.0, 1.0, 0.5, 0.5, 0.25, 0.125, 0.0625, 0.0625]
    """
    if levels < 1 or not u >= 0:
        raise ScenarioError(f"rate(u={u!r}, levels={levels!r}): must be a utility >= 0 and at least one level")
    missed = sum(u < k / levels for k in range(1, levels))
    return 0.5**missed


def window(history: Sequence[Mapping[str, float]], *, delay: int, onepoint: int, mode: Mode = "exact") -> dict[str, float]:
    """Fbar by device; empty before the window exists, and without the devices that are not in all of it.

    Arguments:
        history: F by device as last known after each round so far; the last entry is round r - 1.
        delay, onepoint: lag and half-width of the window, in rounds, 0 <= onepoint <= delay + 1.
        mode: "exact", or "paper": the authors' code divides inside the averaging loop, and its history holds the latest values only, so that w equal
            entries F give F (1/w + ... + 1/w^w).

    >>> window([{"a": 1.0}, {"a": 2.0}, {"a": 6.0}, {"a": 9.0}], delay=1, onepoint=1)
    {'a': 3.0}
    """
    if delay < 0 or not 0 <= onepoint <= delay + 1:
        raise ScenarioError(
            f"window(delay={delay!r}, onepoint={onepoint!r}): must be 0 <= onepoint <= delay + 1, or the window reaches past the last round"
        )
    first, w = len(history) - 2 - delay - onepoint, 2 * onepoint + 1
    if first < 0:
        return {}
    if mode == "paper":
        return {n: F * sum(float(w) ** -k for k in range(1, w + 1)) for n, F in history[-1].items()}
    seen = history[first : first + w]
    return {n: sum(F[n] for F in seen) / w for n in seen[0] if all(n in F for F in seen)}


def utility(samples: int, fisher: float | None, last_s: float, *, scale_s: float, power: float) -> float:
    """W of a device; `fisher` is None before its window exists.

    >>> utility(100, 0.25, 10.0, scale_s=20.0, power=1.0), utility(100, None, 20.0, scale_s=20.0, power=1.0)
    (100.0, 0.001)
    """
    if not last_s > 0 or not scale_s > 0 or (fisher is not None and not fisher >= 0):
        raise ScenarioError(f"utility(fisher={fisher!r}, last_s={last_s!r}, scale_s={scale_s!r}): must be seconds > 0 and a mean square >= 0")
    return samples * (BEFORE_WINDOW if fisher is None else sqrt(fisher)) * (scale_s / last_s) ** power


def by_capacity(whole_s: Mapping[str, float], levels: int = 5) -> dict[str, float]:
    """Fixed widths: the fastest 1/levels of the devices train the whole model, the next half of its width, and so on.

    >>> by_capacity({"a": 3.0, "b": 1.0, "c": 2.0, "d": 4.0}, levels=2)
    {'b': 1.0, 'c': 1.0, 'a': 0.5, 'd': 0.5}
    """
    if levels < 1 or any(not s > 0 for s in whole_s.values()):
        raise ScenarioError(f"by_capacity(whole_s={dict(whole_s)!r}, levels={levels!r}): must be seconds > 0 and at least one level")
    order = sorted(whole_s, key=lambda n: whole_s[n])
    return {n: 0.5 ** (i * levels // len(order)) for i, n in enumerate(order)}


def at_random(names: Sequence[str], levels: int, rng: np.random.Generator) -> dict[str, float]:
    """Widths drawn anew, all levels alike.

    >>> sorted(set(at_random(["a"] * 1, 1, np.random.default_rng(0)).values()))
    [1.0]
    """
    return {n: 0.5 ** int(k) for n, k in zip(names, rng.integers(0, levels, len(names)), strict=True)}
