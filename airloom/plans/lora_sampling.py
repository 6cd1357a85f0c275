"""Who joins a round how often, and with how many rank rows: sampling probabilities and sketching ratios chosen together.

Client n joins each round with probability q_n and then trains k_n of r rank rows of the LoRA pairs, drawn at random; the draw of rows multiplies the
variance of its update by omega_n = r / k_n:

    rounds    h(q, k) = sum_n h_n,   h_n = alpha / (N (beta - N a_n^2 omega_n^nu / q_n)) = (alpha / (N beta)) q_n / (q_n - f_n)
    round     m(q, k) = sum_n q_n t_n(k_n)
    minimize  m h   over   f_n(k_n) < q_n <= 1,   f_n(k) = N a_n^2 (r / k)^nu / beta,   k_n in the grid and with a finite time
    log m + log h is concave, so its least value is at a point that minimizes h + lambda m for some price lambda of a second, and that is separable:
    for each n    (q_n, k_n) = argmin h_n + lambda q_n t_n(k),   q_n(k) = min{1, f_n + sqrt(alpha f_n / (N beta lambda t_n(k)))}
    search over lambda; then q for the best k by the closed form of `airloom.plans.sampling`, with a_n omega_n^(nu/2) in place of a_n

With times that are linear in k, t = tau0 + s k / r, and q below 1, a client's best k / r is (nu / (1 - nu)) tau0 / s: with nu = 1 it is always the
whole rank (joining less often saves the frozen part too), so that there is something to choose only where nu < 1 or q reaches 1.

Paper: Y. Hou, J. Geng, B. Li et al., "Adaptive Federated LoRA in Heterogeneous Wireless Networks with Independent Sampling" (2025, arXiv 2505.23555).
Reconstructed: its text was not at hand; the bound is that of the sampling paper with the variance factor of the sketch, the solution is ours.
Symbols: a_n `weights`, t_n(k) `times_s`, r `rank`, k `grid`, q `probabilities`.
Left out: ratios that change during training; energy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from airloom.errors import ScenarioError
from airloom.plans import sampling

Floats = NDArray[np.float64]
Columns = NDArray[np.int64]
_PRICES = 400  # ours: prices that are tried, evenly on a logarithmic scale
_LEAST_GAP = 1e-3  # ours: up to the price where q_n is this share above f_n


@dataclass(frozen=True, kw_only=True)
class JointPlan:
    """Probabilities, ranks, and what they are predicted to cost.

    Fields:
        probabilities, ranks: q and k, by client.
        round_s, rounds, seconds: m, h and m h.
    """

    probabilities: Floats
    ranks: tuple[int, ...]
    round_s: float
    rounds: float
    seconds: float


def linear_times(base_s: ArrayLike, adapter_s: ArrayLike, upload_s: ArrayLike, *, grid: Sequence[int], rank: int) -> Floats:
    """Return t_n(k) = tau0_n + (tau1_n + c_n) k / r as (clients, grid).

    Arguments:
        base_s: tau0, the frozen forward and backward part. adapter_s: tau1, the part of all rank rows. upload_s: c, of all rank rows.

    >>> linear_times([1.0], [2.0], [4.0], grid=[1, 4], rank=4).tolist()
    [[2.5, 7.0]]
    """
    base, slope = np.asarray(base_s, dtype=np.float64), np.asarray(adapter_s, dtype=np.float64) + np.asarray(upload_s, dtype=np.float64)
    return base[:, None] + slope[:, None] * np.asarray(grid, dtype=np.float64) / rank


def scaled(weights: ArrayLike, ranks: Sequence[int], *, rank: int, nu: float) -> tuple[Floats, float]:
    """Return a_n omega_n^(nu/2) as shares of their sum Z, and Z: with alpha / Z^2 and beta / Z^2, `airloom.plans.sampling` computes this h.

    >>> scaled([0.5, 0.5], [4, 1], rank=4, nu=1.0)
    (array([0.33333333, 0.66666667]), 1.5)
    """
    a = np.asarray(weights, dtype=np.float64) * (rank / np.asarray(ranks, dtype=np.float64)) ** (nu / 2.0)
    return a / a.sum(), float(a.sum())


def joint(
    weights: ArrayLike,
    times_s: ArrayLike,
    *,
    grid: Sequence[int],
    rank: int,
    alpha: float,
    beta: float,
    nu: float = 1.0,
    floor: float = 0.0,
    probabilities: ArrayLike | None = None,
) -> JointPlan:
    """The probabilities and ranks with the least predicted time.

    Arguments:
        weights: a, shares of the data, > 0, that add up to 1.
        times_s: t_n(k) as (clients, grid), seconds of compute and whole-band upload, > 0; infinite where a client cannot train rank k.
        grid: ranks to choose from, ascending, in 1 to `rank`.
        alpha, beta: constants of the bound, > 0. nu: power of the sketch's variance factor, >= 0.
        floor: least probability, in [0, 1].
        probabilities: fixed q, in (0, 1]; only ranks are chosen.

    Raises:
        ScenarioError: a value out of range, or a client for which no rank keeps the bound finite.

    >>> t = linear_times([1.0, 1.0], [0.0, 0.0], [1.0, 9.0], grid=[1, 2, 4], rank=4)
    >>> joint([0.5, 0.5], t, grid=[1, 2, 4], rank=4, alpha=1.0, beta=4.0, nu=0.5).ranks     # best k / r = (nu / (1 - nu)) tau0 / c: 1 and 1/9
    (4, 1)
    """
    a, t, k = _checked(weights, times_s, grid, rank, alpha, beta, nu)
    N, rows = len(a), np.arange(len(a))
    fixed = None if probabilities is None else np.asarray(probabilities, dtype=np.float64)[:, None]
    f = N * a[:, None] ** 2 * (rank / k) ** nu / beta  # (clients, grid)
    top = 1.0 if fixed is None else fixed
    possible = np.isfinite(t) & (f < top)
    if not possible.any(axis=1).all():
        n = int(possible.any(axis=1).argmin())
        most = k[np.isfinite(t[n])].max()
        raise ScenarioError(
            f"joint: client {n} has the share {a[n]:.4g} of the data and can train {most} of {rank} rank rows; N a^2 (r / k)^nu / q = "
            f"{N * a[n] ** 2 * (rank / most) ** nu / np.broadcast_to(top, (N, 1))[n, 0]:.4g} must be below beta = {beta:.4g}: cap the sizes of the "
            "partition, lower the model's rank, or estimate beta for this task"
        )
    seconds = np.where(possible, t, 1.0)

    def choices(price: float) -> Columns:
        q = np.minimum(1.0, f + np.sqrt(alpha * f / (N * beta * price * seconds))) if fixed is None else np.broadcast_to(fixed, f.shape)
        h = alpha / (N * beta) * q / np.where(possible, q - f, 1.0)
        return np.argmin(np.where(possible, h + price * q * seconds, np.inf), axis=1)

    unit = (alpha * f / (N * beta * seconds))[possible]
    low, high = float((unit / (1.0 - f[possible].clip(max=1 - 1e-9)) ** 2).min()), float((unit / (_LEAST_GAP * f[possible]) ** 2).max())
    best: JointPlan | None = None
    for at in {tuple(choices(price).tolist()) for price in np.geomspace(low / 2.0, high, _PRICES)}:
        chosen = k[list(at)].tolist()
        share, Z = scaled(a, chosen, rank=rank, nu=nu)
        t_k, alpha_z, beta_z = t[rows, list(at)], alpha / Z**2, beta / Z**2
        if fixed is None:
            plan = sampling.independent(share, t_k, alpha=alpha_z, beta=beta_z, floor=floor)
        else:
            plan = sampling.cost(fixed[:, 0], share, t_k, alpha=alpha_z, beta=beta_z)
        if best is None or plan.seconds < best.seconds:
            best = JointPlan(probabilities=plan.probabilities, ranks=tuple(chosen), round_s=plan.round_s, rounds=plan.rounds, seconds=plan.seconds)
    assert best is not None
    return best


def _checked(
    weights: ArrayLike, times_s: ArrayLike, grid: Sequence[int], rank: int, alpha: float, beta: float, nu: float
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """a, t and k, all in range."""
    a, t, k = np.asarray(weights, dtype=np.float64), np.asarray(times_s, dtype=np.float64), np.asarray(grid)
    if k.ndim != 1 or not len(k) or k.dtype.kind != "i" or (np.diff(k) <= 0).any() or k[0] < 1 or k[-1] > rank:
        raise ScenarioError(f"joint(grid={grid!r}, rank={rank!r}): must be integers from 1 to the rank, ascending")
    if a.ndim != 1 or not len(a) or not (a > 0).all() or abs(a.sum() - 1.0) > 1e-9:
        raise ScenarioError(f"joint(weights={weights!r}): must be positive shares of the data that add up to 1; leave out clients without data")
    if t.shape != (len(a), len(k)) or np.isnan(t).any() or not (t > 0).all():
        raise ScenarioError(f"joint(times_s of shape {t.shape}): must be numbers > 0, one per client and rank, {(len(a), len(k))}")
    if np.isinf(t).all(axis=1).any():
        n = int(np.isinf(t).all(axis=1).argmax())
        raise ScenarioError(f"joint(times_s): client {n} can train no rank of the grid {list(grid)}; leave it out, or add smaller ranks")
    for name, value in (("alpha", alpha), ("beta", beta)):
        if not 0 < value < np.inf:
            raise ScenarioError(f"joint({name}={value!r}): must be finite and > 0; estimate it with pilots")
    if not nu >= 0:
        raise ScenarioError(f"joint(nu={nu!r}): must be >= 0")
    return a, t, k
