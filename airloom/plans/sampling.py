"""Who joins a round, and how often: independent probabilities that make the time to convergence short.

Client n joins each round with probability q_n, whoever else does, and its update counts a_n / q_n:

    rounds    h(q) = sum_n alpha q_n / (N beta q_n - N^2 a_n^2) = (1/N) sum_n alpha / (beta - N a_n^2 / q_n)
    round     m(q) = sum_n q_n t_n >= E[T]
    P1        minimize m(q) h(q)   over   f_n < q_n <= 1,   f_n = N a_n^2 / beta
    given m   q_n = min{1, f_n + s g_n},   g_n = (a_n / beta) / sqrt(t_n),   s >= 0 such that sum_n q_n t_n = m       (from the KKT conditions)
    exact     m and h are A + B s and C + D / s between two values of s at which a client reaches 1, so that m h is least at
              sqrt(A D / (B C)) or at an end; the best of all intervals is the solution of P1, in O(N log N)

Paper: J. Geng, Y. Hou, X. Tao et al., "Adaptive Federated Learning in Heterogeneous Wireless Networks with Independent Sampling" (2024,
arXiv 2402.10097). Objective, constraints and schemes are those of the authors' code; the solution by intervals is ours (they try values of m and
leave the rest to a generic solver, with a surrogate of the objective: `mode="paper"`).
Symbols: a_n `weights`, t_n `times_s` (compute and whole-band upload of client n), q_n `probabilities`, h `rounds`, m `round_s`.
Left out: energy. m is a loose bound of the expected round where many join; alpha scales `rounds` and changes no probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from airloom.errors import ScenarioError
from airloom.plans.root import rising_root

Floats = NDArray[np.float64]
Mode = Literal["exact", "paper"]
Scheme = Literal["proposed", "constant", "full", "uniform", "weight", "fix"]


@dataclass(frozen=True, kw_only=True)
class SamplingPlan:
    """Probabilities and what they are predicted to cost.

    Fields:
        probabilities: q, by client.
        round_s: m, an upper bound of the expected seconds of a round.
        rounds: h, proportional to the rounds until convergence; infinite where the bound promises none.
        seconds: m h, what P1 minimizes.
    """

    probabilities: Floats
    round_s: float
    rounds: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Constants:
    """alpha and beta of the bound, and how many loss levels they rest on."""

    alpha: float
    beta: float
    levels: int


def _checked(owner: str, weights: ArrayLike, alpha: float, beta: float) -> Floats:
    a = np.asarray(weights, dtype=np.float64)
    if a.ndim != 1 or not len(a) or not (a > 0).all() or abs(a.sum() - 1.0) > 1e-9:
        raise ScenarioError(f"{owner}(weights={weights!r}): must be positive shares of the data that add up to 1; leave out clients without data")
    for name, value in (("alpha", alpha), ("beta", beta)):
        if not 0 < value < np.inf:
            raise ScenarioError(f"{owner}({name}={value!r}): must be finite and > 0; estimate it with pilots")
    return a


def _feasible(owner: str, weights: ArrayLike, times_s: ArrayLike, alpha: float, beta: float) -> tuple[Floats, Floats, Floats]:
    """a, t and the least probabilities f, all below 1."""
    a, t = _checked(owner, weights, alpha, beta), np.asarray(times_s, dtype=np.float64)
    if t.shape != a.shape or not (np.isfinite(t).all() and (t > 0).all()):
        raise ScenarioError(f"{owner}(times_s={times_s!r}): must be {len(a)} finite numbers > 0, one per client")
    f = len(a) * a**2 / beta
    if f.max() >= 1:
        n = int(f.argmax())
        raise ScenarioError(
            f"{owner}: client {n} has the share {a[n]:.4g} of the data; must be below sqrt(beta / N) = {np.sqrt(beta / len(a)):.4g}, or no "
            "probability keeps the bound finite; cap the sizes of the partition, or estimate beta for this task"
        )
    return a, t, f


def cost(probabilities: ArrayLike, weights: ArrayLike, times_s: ArrayLike, *, alpha: float, beta: float) -> SamplingPlan:
    """What given probabilities cost; `rounds` is infinite where one is not above its least value f_n.

    Raises:
        ScenarioError: a probability outside (0, 1], or another value out of range.

    >>> cost([1.0, 1.0], [0.5, 0.5], [1.0, 3.0], alpha=1.0, beta=1.5).seconds     # m = 4; h = (1/2) 2 / (1.5 - 0.5) = 1
    4.0
    """
    a, t, q = _checked("cost", weights, alpha, beta), np.asarray(times_s, dtype=np.float64), np.asarray(probabilities, dtype=np.float64)
    if q.shape != a.shape or not ((q > 0) & (q <= 1)).all():
        raise ScenarioError(f"cost(probabilities={probabilities!r}): must be {len(a)} numbers in (0, 1], one per client")
    if t.shape != a.shape or not (np.isfinite(t).all() and (t > 0).all()):
        raise ScenarioError(f"cost(times_s={times_s!r}): must be {len(a)} finite numbers > 0, one per client")
    slack = beta - len(a) * a**2 / q
    rounds = float(np.mean(alpha / slack)) if (slack > 0).all() else float("inf")
    round_s = float(q @ t)
    return SamplingPlan(probabilities=q, round_s=round_s, rounds=rounds, seconds=round_s * rounds)


def independent(
    weights: ArrayLike, times_s: ArrayLike, *, alpha: float, beta: float, floor: float = 0.0, mode: Mode = "exact", grid: int = 200
) -> SamplingPlan:
    """The probabilities that solve P1.

    Arguments:
        weights: a, shares of the data, > 0, that add up to 1.
        times_s: t, seconds of compute and whole-band upload, > 0.
        alpha, beta: constants of the bound, > 0.
        floor: least probability, in [0, 1]; it bounds the factor a_n / q_n of an update.
        mode: "exact", or "paper": least surrogate of the authors' code on a grid of m (without a floor).
        grid: values of m that "paper" tries, evenly from its least to its greatest feasible value.

    Raises:
        ScenarioError: a value out of range, or a client that is too large for any probability.

    >>> plan = independent([0.5, 0.5], [1.0, 4.0], alpha=1.0, beta=2.0)     # m h ~ (5/4 + 3/4 s)(2 + 3/s) is least at s = sqrt(5/2)
    >>> plan.probabilities.round(6).tolist()                                # 1/4 + s (1/4, 1/8)
    [0.645285, 0.447642]
    """
    a, t, f = _feasible("independent", weights, times_s, alpha, beta)
    if not 0 <= floor <= 1:
        raise ScenarioError(f"independent(floor={floor!r}): must be a probability in [0, 1]")
    if mode == "paper":
        q = np.array(_surrogate(tuple(a.tolist()), tuple(t.tolist()), alpha, beta, grid))
    else:
        A, B, C, D, start, end = _pieces(a, t, f, beta, floor)
        with np.errstate(divide="ignore", invalid="ignore"):
            s = np.clip(np.nan_to_num(np.sqrt(A * D / (B * C)), nan=0.0, posinf=np.inf), start, end)
            product = (A + B * s) * (C + np.where(D > 0, D / s, 0.0))
        q = _at(a, t, f, beta, floor, float(s[np.argmin(product)]))
    return cost(q, a, t, alpha=alpha, beta=beta)


def _at(a: Floats, t: Floats, f: Floats, beta: float, floor: float, s: float) -> Floats:
    """The probabilities that belong to s."""
    return np.clip(f + s * (a / beta) / np.sqrt(t), max(floor, np.finfo(float).tiny), 1.0)


def _pieces(a: Floats, t: Floats, f: Floats, beta: float, floor: float) -> tuple[Floats, ...]:
    """Coefficients of m = A + B s and N beta h / alpha = C + D / s between the values of s at which a client leaves the floor or reaches 1."""
    g = (a / beta) / np.sqrt(t)
    low = np.maximum((floor - f) / g, 0.0)
    is_low = low > 0
    held = np.where(is_low, floor / np.where(is_low, floor - f, 1.0), 0.0)
    at = np.concatenate([low, (1.0 - f) / g])
    changes = np.stack(
        [
            np.concatenate([np.where(is_low, (f - floor) * t, f * t), (1.0 - f) * t]),
            np.concatenate([g * t, -g * t]),
            np.concatenate([1.0 - held, 1.0 / (1.0 - f) - 1.0]),
            np.concatenate([f / g, -f / g]),
        ]
    )
    order = np.argsort(at, kind="stable")
    first = np.array([floor * t[is_low].sum(), 0.0, held.sum(), 0.0])
    sums = np.maximum(first[:, None] + np.cumsum(changes[:, order], axis=1), 0.0)
    start = at[order]
    end = np.append(start[1:], start[-1])
    return (*sums, start, end)


def for_round(weights: ArrayLike, times_s: ArrayLike, *, round_s: float, alpha: float, beta: float) -> SamplingPlan:
    """The probabilities with the fewest rounds among those with `sum q_n t_n = round_s`.

    Arguments:
        round_s: m, in seconds, above `sum f_n t_n` and at most `sum t_n`; the others as for `independent`.

    Raises:
        ScenarioError: a budget that no probabilities meet, or a value out of range.

    >>> for_round([0.5, 0.5], [1.0, 4.0], round_s=2.0, alpha=1.0, beta=2.0).probabilities.round(9).tolist()     # s = 1
    [0.5, 0.375]
    """
    a, t, f = _feasible("for_round", weights, times_s, alpha, beta)
    low, high = float(f @ t), float(t.sum())
    if not low < round_s <= high * (1 + 1e-12):
        raise ScenarioError(
            f"for_round(round_s={round_s!r}): must be above {low:.6g} s, where the bound on the rounds is infinite, and at most {high:.6g} s, "
            "where all join"
        )
    s = rising_root(lambda s: float(_at(a, t, f, beta, 0.0, s) @ t) - round_s, 0.0, float(((1.0 - f) * beta * np.sqrt(t) / a).max()))
    return cost(_at(a, t, f, beta, 0.0, s), a, t, alpha=alpha, beta=beta)


def constant(weights: ArrayLike, times_s: ArrayLike, *, alpha: float, beta: float) -> SamplingPlan:
    """The best probability that is the same for all: the least of the convex `q sum t h(q)`.

    >>> constant([0.5, 0.5], [1.0, 4.0], alpha=1.0, beta=4.0).probabilities.round(9).tolist()     # least of q^2 / (4 q - 1/2) at q = 2 (1/2) / 4
    [0.25, 0.25]
    """
    a, t, f = _feasible("constant", weights, times_s, alpha, beta)
    c = len(a) * a**2

    def slope(q: float) -> float:
        return float(((beta * q * q - 2 * c * q) / (beta * q - c) ** 2).sum())

    q = rising_root(slope, float(np.nextafter(f.max(), 2.0)), 1.0)
    return cost(np.full(len(a), q), a, t, alpha=alpha, beta=beta)


def scheme(
    name: Scheme, weights: ArrayLike, times_s: ArrayLike, *, alpha: float, beta: float, q: float, floor: float = 0.0, mode: Mode = "exact"
) -> SamplingPlan:
    """Probabilities by name: `proposed` (P1), `constant` (the best single one), `full` (1), `uniform` (1/N), `weight` (a_n), `fix` (q).

    >>> scheme("weight", [0.25, 0.75], [1.0, 1.0], alpha=1.0, beta=2.2, q=0.2).probabilities.tolist()
    [0.25, 0.75]
    """
    if name == "proposed":
        return independent(weights, times_s, alpha=alpha, beta=beta, floor=floor, mode=mode)
    if name == "constant":
        return constant(weights, times_s, alpha=alpha, beta=beta)
    a = _checked("scheme", weights, alpha, beta)
    known = {"full": np.ones(len(a)), "uniform": np.full(len(a), 1 / len(a)), "weight": a, "fix": np.full(len(a), q)}
    if name not in known:
        raise ScenarioError(f"scheme(name={name!r}): must be one of proposed, constant, {', '.join(known)}")
    return cost(known[name], a, times_s, alpha=alpha, beta=beta)


def estimate(weights: ArrayLike, *, low: float, high: float, rounds_low: float, rounds_high: float) -> Constants:
    """alpha and beta from two pilots that reached the same loss with every client at probability `low` and at `high`.

    `h(low) / h(high) = rounds_low / rounds_high` falls in beta, so it has at most one root; alpha follows from `rounds_low`.

    Arguments:
        weights: a, shares of the data.
        low, high: the probabilities of the pilots, 0 < low < high <= 1.
        rounds_low, rounds_high: rounds until the loss, rounds_low > rounds_high > 0.

    Raises:
        ScenarioError: pilots that took equally long or the wrong way round (no beta explains them), or a value out of range.

    >>> found = estimate([0.5, 0.5], low=0.5, high=1.0, rounds_low=2.0, rounds_high=1.0)      # (beta - 1/2) / (beta - 1) = 2: beta = 3/2
    >>> round(found.beta, 9), round(found.alpha, 9)                                         # alpha = 2 (3/2 - 1)
    (1.5, 1.0)
    """
    a = _checked("estimate", weights, 1.0, 1.0)
    if not 0 < low < high <= 1:
        raise ScenarioError(f"estimate(low={low!r}, high={high!r}): must be probabilities with 0 < low < high <= 1")
    if not 0 < rounds_high < rounds_low < np.inf:
        raise ScenarioError(
            f"estimate(rounds_low={rounds_low!r}, rounds_high={rounds_high!r}): the pilot with fewer clients must take more rounds, or no beta "
            "explains both; average over more pilots, or take a smaller `low`"
        )
    c = len(a) * a**2

    def rounds(q: float, beta: float) -> float:
        return float(np.mean(1.0 / (beta - c / q)))

    least = float(c.max()) / low
    ratio = rounds_low / rounds_high
    gap = 1.0  # beta = least (1 + gap); work with the gap, on a logarithmic scale
    while rounds(low, least * (1 + gap)) / rounds(high, least * (1 + gap)) > ratio:
        gap *= 2.0
    log_gap = rising_root(
        lambda u: ratio - rounds(low, least * (1 + np.exp(u))) / rounds(high, least * (1 + np.exp(u))), float(np.log(1e-12)), float(np.log(gap))
    )
    beta = least * (1 + float(np.exp(log_gap)))
    return Constants(alpha=rounds_low / rounds(low, beta), beta=beta, levels=1)


def fit(
    weights: ArrayLike, *, low: float, high: float, losses_low: Sequence[float], losses_high: Sequence[float], levels: int = 5
) -> Constants | None:
    """alpha and beta from the training losses of two pilots, at the start and after each round; None where no level tells them apart.

    The levels lie evenly between the losses that both start from and both reach; rounds to a level are interpolated on the running minimum; the
    logarithms of `rounds_low` and of the ratio are averaged over the levels at which the pilot with fewer clients takes longer.
    """
    curves = [np.minimum.accumulate(np.asarray(losses, dtype=np.float64)) for losses in (losses_low, losses_high)]
    if min(len(curve) for curve in curves) < 2:
        return None
    top, bottom = min(curve[0] for curve in curves), max(curve[-1] for curve in curves)
    pairs: list[tuple[float, float]] = []
    for k in range(1, levels + 1):
        level = top + (bottom - top) * k / levels
        slow, fast = (_crossing(curve, level) for curve in curves)
        if slow > fast > 0:
            pairs.append((slow, slow / fast))
    if not pairs:
        return None
    slow, ratio = np.exp(np.log(np.array(pairs)).mean(axis=0)).tolist()
    found = estimate(weights, low=low, high=high, rounds_low=slow, rounds_high=slow / ratio)
    return Constants(alpha=found.alpha, beta=found.beta, levels=len(pairs))


def _crossing(curve: Floats, level: float) -> float:
    """Rounds until a falling curve reaches a level, on straight lines between its points."""
    i = int(np.argmax(curve <= level))
    return float(i - 1 + (curve[i - 1] - level) / (curve[i - 1] - curve[i])) if i else 0.0


@lru_cache(maxsize=16)  # a method asks anew in every round, mostly for the same
def _surrogate(weights: tuple[float, ...], times_s: tuple[float, ...], alpha: float, beta: float, grid: int) -> tuple[float, ...]:
    """Least sum of z log z - log(N beta (q - f)), z = alpha q m, over a grid of m, where sum q t = m; by bisection of its multiplier."""
    if grid < 2:
        raise ScenarioError(f"independent(grid={grid!r}): must be at least 2")
    a, t = np.array(weights), np.array(times_s)
    f = len(a) * a**2 / beta
    low, high = float(f @ t), float(t.sum())
    m = low + (high - low) * np.arange(1, grid + 1)[:, None] / grid
    width = 1.0 - f

    def best(price: Floats) -> Floats:
        """q of every client at a price per second, where the slope m alpha (1 + log z) - 1 / (q - f) + price t vanishes, or the nearer end."""
        left, right = np.zeros((grid, len(a))), np.ones((grid, len(a)))
        for _ in range(50):
            middle = (left + right) / 2
            q = f + width * middle
            is_rising = m * alpha * (1.0 + np.log(alpha * q * m)) - 1.0 / (width * middle) + price * t >= 0
            left, right = np.where(is_rising, left, middle), np.where(is_rising, middle, right)
        return f + width * right

    def span(edge: float) -> Floats:
        slope = np.abs(m * alpha * (1.0 + np.log(alpha * m))) + m * alpha * np.abs(np.log(f)).max() + 1.0 / width.min()
        return edge * slope * 1e3 / t.min()

    cheap, dear = span(-1.0), span(1.0)
    for _ in range(80):
        price = (cheap + dear) / 2
        is_much = best(price) @ t[:, None] > m
        cheap, dear = np.where(is_much, price, cheap), np.where(is_much, dear, price)
    q = best(dear)
    z = alpha * q * m
    value = (z * np.log(z) - np.log(len(a) * beta * (q - f))).sum(axis=1)
    return tuple(np.clip(q[int(np.argmin(value))], np.nextafter(f, 2.0), 1.0).tolist())
