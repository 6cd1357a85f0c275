"""Upper bounds on the error of sequential and of parallel federated learning, term by term.

    error(R) <= c0 A / (s R) + c1 b s + c2 (noise drift + heterogeneity drift) s^2        for steps s <= 1 / (c3 L)

Paper: Yipeng Li, Xinchen Lyu, "Convergence Analysis of Sequential Federated Learning on Heterogeneous Data" (NeurIPS 2023) and "Sharp Bounds for
Sequential Federated Learning on Heterogeneous Data". The form of the terms is derived, the constants are not the papers': with the defaults of 1
these are orders of magnitude, never "the paper's bound".

Symbols: M `clients`, S `participants`, K `local_steps`, L `smoothness`, sigma `noise`, zeta `heterogeneity`, mu `strong_convexity`,
R `rounds`, s (eta-tilde) `step`: the effective step S*K*lr of a sequential round, K*lr of a parallel one; A = D^2 (convex) or F(x0) - F* (else).

Left out: the lower bounds of the second paper, and the papers' constants.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, inf, isfinite, sqrt

from airloom.errors import ScenarioError
from airloom.plans.root import rising_root

MOST_ROUNDS = 10**15  # a search beyond this many rounds answers nothing


def _check(owner: str, allowed: str, is_ok: bool, **fields: float) -> None:
    if not is_ok:
        got = ", ".join(f"{name}={value!r}" for name, value in fields.items())
        raise ScenarioError(f"{owner}({got}): must be {allowed}")


@dataclass(frozen=True, kw_only=True)
class Convex:
    """A convex objective whose start is `distance` = ||x0 - x*|| away from an optimum."""

    distance: float

    def __post_init__(self) -> None:
        _check("Convex", "> 0 and finite", 0 < self.distance < inf, distance=self.distance)


@dataclass(frozen=True, kw_only=True)
class StronglyConvex:
    """A strongly convex objective: the start is `distance` = ||x0 - x*|| away, and mu is `strong_convexity`."""

    distance: float
    strong_convexity: float

    def __post_init__(self) -> None:
        _check("StronglyConvex", "> 0 and finite", 0 < self.distance < inf, distance=self.distance)
        _check("StronglyConvex", "> 0 and finite", 0 < self.strong_convexity < inf, strong_convexity=self.strong_convexity)


@dataclass(frozen=True, kw_only=True)
class NonConvex:
    """A non-convex objective whose start lies `gap` = F(x0) - F* above the infimum; the error is then a squared gradient norm."""

    gap: float

    def __post_init__(self) -> None:
        _check("NonConvex", "> 0 and finite", 0 < self.gap < inf, gap=self.gap)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What the bounds need to know of objective, clients and rounds.

    Arguments:
        start: `Convex`, `StronglyConvex` or `NonConvex`, with the distance to the goal.
        clients: number of clients, M >= 1.
        participants: clients in a round, drawn without replacement, 1 <= S <= M.
        local_steps: SGD steps of a client in a round, K >= 1.
        smoothness: L > 0, Lipschitz constant of the gradients.
        noise: sigma >= 0, standard deviation of a stochastic gradient.
        heterogeneity: zeta >= 0, root mean square of grad F_m - grad F over clients (at the optimum if strongly convex).
    """

    start: Convex | StronglyConvex | NonConvex
    clients: int
    participants: int
    local_steps: int
    smoothness: float
    noise: float
    heterogeneity: float

    def __post_init__(self) -> None:
        _check("Problem", ">= 1", self.clients >= 1, clients=self.clients)
        is_ok = 1 <= self.participants <= self.clients
        _check("Problem", "between 1 and clients", is_ok, participants=self.participants, clients=self.clients)
        _check("Problem", ">= 1", self.local_steps >= 1, local_steps=self.local_steps)
        _check("Problem", "> 0 and finite", 0 < self.smoothness < inf, smoothness=self.smoothness)
        _check("Problem", ">= 0 and finite", 0 <= self.noise < inf, noise=self.noise)
        _check("Problem", ">= 0 and finite", 0 <= self.heterogeneity < inf, heterogeneity=self.heterogeneity)


@dataclass(frozen=True, kw_only=True)
class Constants:
    """Factors of the terms (c0 start, c1 noise and sampling, c2 drift) and of the largest step 1/(c3 L); 1 gives the order form."""

    c0: float = 1.0
    c1: float = 1.0
    c2: float = 1.0
    c3: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("c0", self.c0), ("c1", self.c1), ("c2", self.c2), ("c3", self.c3)):
            _check("Constants", "> 0 and finite", 0 < value < inf, **{name: value})


ORDER = Constants()


@dataclass(frozen=True, kw_only=True)
class Bound:
    """The terms of a bound; they add up to `total`.

    Fields:
        start: what is left of the distance at the start.
        noise: variance of the stochastic gradients.
        sampling: variance of drawing S of M clients; 0 with all of them.
        noise_drift, heterogeneity_drift: movement of the model within a round.
        lr: step size of one local step that belongs to the effective step.
    """

    start: float
    noise: float
    sampling: float
    noise_drift: float
    heterogeneity_drift: float
    lr: float

    @property
    def total(self) -> float:
        """Sum of the terms."""
        return self.start + self.noise + self.sampling + self.noise_drift + self.heterogeneity_drift


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """The best effective step for a number of rounds, the bound there, and `guarantee`, a closed form above it (strongly convex: the bound)."""

    step: float
    bound: Bound
    guarantee: float


def _bound(p: Problem, step: float, rounds: int, k: Constants, chain: int) -> Bound:
    """Terms at an effective step; `chain` is how many clients pass on one model in a round: S or 1."""
    _check("bound", ">= 1", rounds >= 1, rounds=rounds)
    most = 1 / (k.c3 * p.smoothness)
    _check("bound", f"in (0, 1/(c3 L)] = (0, {most:.6g}]", 0 < step <= most * (1 + 1e-12), step=step)
    return _terms(p, step, rounds, k, chain)


def _terms(p: Problem, step: float, rounds: int, k: Constants, chain: int) -> Bound:
    scale = p.smoothness if isinstance(p.start, NonConvex) else 1.0
    if isinstance(p.start, StronglyConvex):
        mu = p.start.strong_convexity
        start = k.c0 * mu * p.start.distance**2 * exp(-mu * step * rounds / 2)
    else:
        start = k.c0 * (p.start.gap if isinstance(p.start, NonConvex) else p.start.distance**2) / (step * rounds)
    sampled = (p.clients - p.participants) / (p.participants * (p.clients - 1)) if p.participants < p.clients else 0.0
    drift = k.c2 * scale * p.smoothness * step**2
    return Bound(
        start=start,
        noise=k.c1 * scale * p.noise**2 / (p.participants * p.local_steps) * step,
        sampling=k.c1 * scale * p.heterogeneity**2 * sampled * step,
        noise_drift=drift * p.noise**2 / (chain * p.local_steps),
        heterogeneity_drift=drift * p.heterogeneity**2 / chain,
        lr=step / (chain * p.local_steps),
    )


def sfl_bound(problem: Problem, *, step: float, rounds: int, constants: Constants = ORDER) -> Bound:
    """Bound of sequential federated learning: the model passes through S clients in a round, so that drift shrinks by S.

    Arguments:
        problem: objective and clients.
        step: effective step S*K*lr, in (0, 1/(c3 L)].
        rounds: R >= 1.
        constants: factors of the terms.

    Raises:
        ScenarioError: a step or a number of rounds out of range.

    >>> p = Problem(start=Convex(distance=1), clients=8, participants=8, local_steps=5, smoothness=1, noise=0, heterogeneity=1)
    >>> sfl_bound(p, step=0.5, rounds=100).heterogeneity_drift, pfl_bound(p, step=0.5, rounds=100).heterogeneity_drift
    (0.03125, 0.25)
    """
    return _bound(problem, step, rounds, constants, problem.participants)


def pfl_bound(problem: Problem, *, step: float, rounds: int, constants: Constants = ORDER) -> Bound:
    """Bound of parallel federated learning (FedAvg): S clients start from one model, their results are averaged.

    Arguments as for `sfl_bound`, but the effective step is K*lr.
    """
    return _bound(problem, step, rounds, constants, 1)


def tuned(problem: Problem, *, rounds: int, is_sequential: bool, constants: Constants = ORDER) -> Tuned:
    """Bound at the step that suits a number of rounds.

    With a = c0 A, beta and c the factors of step and step^2, and d = c3 L, the step is min(1/d, sqrt(a/(beta R)), (a/(c R))^(1/3)), and

        bound <= guarantee = d a/R + 2 sqrt(a beta/R) + 2 c^(1/3) (a/R)^(2/3)

    In the strongly convex case the bound is convex in the step; its exact minimum is taken instead.

    >>> p = Problem(start=Convex(distance=1), clients=8, participants=8, local_steps=1, smoothness=1, noise=0, heterogeneity=1)
    >>> parallel, sequential = (tuned(p, rounds=10**9, is_sequential=s).guarantee - 1e-9 for s in (False, True))
    >>> round(sequential / parallel, 6)                      # drift after tuning: S^(-1/3)
    0.5
    """
    _check("tuned", ">= 1", rounds >= 1, rounds=rounds)
    chain = problem.participants if is_sequential else 1
    most = 1 / (constants.c3 * problem.smoothness)
    unit = _terms(problem, 1.0, 1, constants, chain)
    beta, c = unit.noise + unit.sampling, unit.noise_drift + unit.heterogeneity_drift
    if isinstance(problem.start, StronglyConvex):
        step = _best_step(problem.start, rounds, most, beta, c, constants)
        bound = _terms(problem, step, rounds, constants, chain)
        return Tuned(step=step, bound=bound, guarantee=bound.total)
    a = unit.start
    step = min(most, sqrt(a / (beta * rounds)) if beta else inf, (a / (c * rounds)) ** (1 / 3) if c else inf)
    guarantee = a / (most * rounds) + 2 * sqrt(a * beta / rounds) + 2 * c ** (1 / 3) * (a / rounds) ** (2 / 3)
    return Tuned(step=step, bound=_terms(problem, step, rounds, constants, chain), guarantee=guarantee)


def _best_step(start: StronglyConvex, rounds: int, most: float, beta: float, c: float, k: Constants) -> float:
    """Minimum over [0, most] of c0 mu D^2 exp(-mu s R/2) + beta s + c s^2, by the sign of its rising slope."""
    mu, rate = start.strong_convexity, start.strong_convexity * rounds / 2

    def slope(step: float) -> float:
        return beta + 2 * c * step - k.c0 * mu * start.distance**2 * rate * exp(-rate * step)

    return rising_root(slope, 0.0, most) if beta or c else most


def rounds_to(eps: float, problem: Problem, *, is_sequential: bool, constants: Constants = ORDER) -> int:
    """Fewest rounds after which the tuned guarantee is at most `eps`.

    Multiply with the seconds of a round to compare methods in seconds: a sequential round lasts about S times as long as a parallel one.

    Raises:
        ScenarioError: `eps` is not a positive number, or more than 10^15 rounds would be needed.

    >>> p = Problem(start=Convex(distance=1), clients=8, participants=8, local_steps=1, smoothness=1, noise=0, heterogeneity=1)
    >>> rounds_to(0.0110001, p, is_sequential=True)          # 1/R + 2 (1/8)^(1/3) R^(-2/3) = 0.001 + 0.01 at R = 1000
    1000
    """
    _check("rounds_to", "> 0 and finite", eps > 0 and isfinite(eps), eps=eps)

    def is_enough(rounds: int) -> bool:
        return tuned(problem, rounds=rounds, is_sequential=is_sequential, constants=constants).guarantee <= eps

    high = 1
    while not is_enough(high):
        high *= 2
        _check("rounds_to", f"reachable within {MOST_ROUNDS:.0e} rounds; ask for a larger one", high <= MOST_ROUNDS, eps=eps)
    low = high // 2  # not enough, or 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high
