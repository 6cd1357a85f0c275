"""Who takes part in a round: a socket for methods, with four selectors.

A method keeps the history that selectors look at in its State; it is plain data (numbers, names, lists), so that it is checkpointed with the rest:

    history = self.select.start(node.network.samples)                                  # in init
    chosen = self.select.choose(node.clients, self.participants, history, node.rng("select", t))
    history = self.select.update(history, losses={name: loss, ...}, durations_s={name: seconds, ...})
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum, inf, isfinite, log, sqrt
from types import MappingProxyType
from typing import Any

import numpy as np

from airloom.errors import RunFailed, ScenarioError
from airloom.parts import named
from airloom.program.method import check_fields, ranged

History = dict[str, Any]
Losses = float | Sequence[float] | np.ndarray


def statistical_utility(samples: int, losses: Losses) -> float:
    """Oort's U = |B| sqrt(mean of squared losses).

    Arguments:
        samples: |B|, the client's number of samples.
        losses: one per sample or batch of the last training; a single mean loss gives a lower bound.

    >>> statistical_utility(10, [3.0, 4.0]) == 10 * 12.5**0.5
    True
    """
    return samples * float(np.sqrt(np.mean(np.square(np.asarray(losses, dtype=np.float64)))))


def _draw(names: Sequence[str], weights: Sequence[float], k: int, rng: np.random.Generator) -> list[str]:
    """Draw k names one after another without replacement, with chances in proportion to the weights; those of weight 0 come last."""
    w = np.asarray(weights, dtype=np.float64)
    # k smallest of Exp(1)/w is the same law as k weighted draws (exponential clocks); the second key orders the clocks that never ring
    clocks = np.divide(rng.exponential(size=len(w)), w, out=np.full(len(w), inf), where=w > 0)
    first: list[int] = np.lexsort((rng.random(len(w)), clocks))[:k].tolist()
    return [names[i] for i in first]


@dataclass(frozen=True, kw_only=True)
class Selector(ABC):
    """Chooses the participants of a round."""

    def __post_init__(self) -> None:
        check_fields(self)

    def start(self, samples: Mapping[str, int], expected_s: Mapping[str, float] | None = None) -> History:
        """Return the history before the first round.

        Arguments:
            samples: number of samples of every client that may ever take part.
            expected_s: seconds that a round is expected to take a client, for those of which it is known.
        """
        return {
            "round": 0,
            "samples": dict(samples),
            "expected_s": dict(expected_s or {}),
            "loss": {},  # last mean loss
            "utility": {},  # last statistical utility
            "duration_s": {},  # last duration
            "last_round": {},  # last round with a result, from 1
            "picks": {},  # rounds with a result
            "round_utility": [],  # statistical utility collected in each round
        }

    def choose(self, names: Sequence[str], k: int, history: History, rng: np.random.Generator) -> list[str]:
        """Choose participants.

        Arguments:
            names: clients that are present.
            k: how many to choose, >= 1; all if fewer are present.
            history: from `start` and `update`.
            rng: a stream of its own for this round, such as `node.rng("select", t)`.

        Returns:
            min(k, len(names)) names, in the order of `names`.
        """
        if k < 1:
            raise ScenarioError(f"{type(self).__name__}.choose(k={k}): must be >= 1; a round needs a participant")
        unknown = [name for name in names if name not in history["samples"]]
        if unknown:
            raise ScenarioError(f"{type(self).__name__}.choose: no sample count for {unknown[:3]}; give `start` the counts of all clients")
        if k >= len(names):
            return list(names)
        chosen = set(self._chosen(names, k, history, rng))
        return [name for name in names if name in chosen]

    @abstractmethod
    def _chosen(self, names: Sequence[str], k: int, history: History, rng: np.random.Generator) -> list[str]:
        """Choose k of more than k names, in any order."""

    def update(self, history: History, *, losses: Mapping[str, Losses], durations_s: Mapping[str, float]) -> History:
        """Return the history after a round.

        Arguments:
            history: before the round; left as it is.
            losses: training losses of each participant whose result arrived: one number, or one per sample or batch.
            durations_s: seconds from the start of the round to the arrival of each of these results.

        Raises:
            RunFailed: a loss that is not finite.
            ScenarioError: different participants in the two, no loss for one of them, or a negative duration.
        """
        if losses.keys() != durations_s.keys():
            odd = sorted(losses.keys() ^ durations_s.keys())
            raise ScenarioError(f"{type(self).__name__}.update: losses and durations_s must name the same participants; only one of them has {odd}")
        for name, values in losses.items():
            if not np.size(values):
                raise ScenarioError(f"{type(self).__name__}.update(losses={{{name!r}: {values!r}}}): must be one number or several")
            if not np.isfinite(values).all():
                raise RunFailed(f"training diverged: client '{name}' reports loss {values!r}; try a smaller lr, or clip gradients")
            if not (isfinite(durations_s[name]) and durations_s[name] >= 0):
                raise ScenarioError(f"{type(self).__name__}.update(durations_s={{{name!r}: {durations_s[name]!r}}}): must be finite and >= 0")
        this = history["round"] + 1
        utility = {name: statistical_utility(history["samples"][name], values) for name, values in losses.items()}
        return history | {
            "round": this,
            "loss": history["loss"] | {name: float(np.mean(values)) for name, values in losses.items()},
            "utility": history["utility"] | utility,
            "duration_s": history["duration_s"] | dict(durations_s),
            "last_round": history["last_round"] | dict.fromkeys(losses, this),
            "picks": history["picks"] | {name: history["picks"].get(name, 0) + 1 for name in losses},
            "round_utility": [*history["round_utility"], sum(utility.values())],
        }


@dataclass(frozen=True, kw_only=True)
class Uniform(Selector):
    """Every client with the same chance, without replacement.

    >>> from airloom.clock.rng import generator
    >>> select = Uniform()
    >>> len(select.choose(["a", "b", "c"], 2, select.start({"a": 1, "b": 1, "c": 1}), generator(0)))
    2
    """

    def _chosen(self, names: Sequence[str], k: int, history: History, rng: np.random.Generator) -> list[str]:
        return _draw(names, [1.0] * len(names), k, rng)


@dataclass(frozen=True, kw_only=True)
class Weighted(Selector):
    """Chances in proportion to the number of samples, without replacement (one draw after another)."""

    def _chosen(self, names: Sequence[str], k: int, history: History, rng: np.random.Generator) -> list[str]:
        return _draw(names, [history["samples"][name] for name in names], k, rng)


@dataclass(frozen=True, kw_only=True)
class PowerOfChoice(Selector):
    """Of some candidates, drawn by number of samples, those with the largest loss.

    Paper: Y. J. Cho, J. Wang, G. Joshi, "Client Selection in Federated Learning: Convergence Analysis and Power-of-Choice Selection Strategies",
    2020, arXiv 2010.01243; the variant with the loss of the last participation (rpow-d). Clients without one count as infinitely lossy.

    Symbols: d `candidates`, m `k`.

    Left out: asking the candidates for their loss under the present model (pow-d, cpow-d). A method that does so gives the losses to `update`.

    Arguments:
        candidates: how many to draw first; k where that is more. No default: the paper tunes it.
    """

    candidates: int = ranged(1, inf)

    def _chosen(self, names: Sequence[str], k: int, history: History, rng: np.random.Generator) -> list[str]:
        drawn = _draw(names, [history["samples"][name] for name in names], max(self.candidates, k), rng)
        return sorted(drawn, key=lambda name: -history["loss"].get(name, inf))[:k]  # stable: ties stay in the order drawn


@dataclass(frozen=True, kw_only=True)
class Oort(Selector):
    """Clients whose data help most, held against how long they take; new ones are tried as well.

        utility(i) = (|B_i| sqrt(mean loss^2) + sqrt(0.1 log R / last round of i)) * (T/t_i)^alpha [if t_i > T]

    In round R, a share eps of the places goes to clients that were never seen, by expected speed; the others to clients drawn by utility from
    those above `cutoff` times the utility of the last place. The pacer raises T when recent rounds brought less utility than those before.

    Paper: F. Lai, X. Zhu, H. Madhyastha, M. Chowdhury, "Oort: Efficient Federated Learning via Guided Participant Selection", OSDI 2021,
    arXiv 2010.06081, Algorithm 1. Its text was not at hand: what is marked "paper" agrees over several re-implementations that cite it, what is
    marked "authors' code" was read there (FedScale).

    Symbols: alpha `alpha`, eps `exploration...`, T `preferred_s()`, Delta `pacer_step_s`, W `window`, c `cutoff`, U `statistical_utility`.

    Left out: the share of clients that the ban on overused clients may reach at most (the authors' code), noise on utilities, testing selection.

    Arguments:
        alpha: power of the penalty for slow clients (2, paper).
        exploration: eps in round 1 (0.9, paper).
        exploration_decay: factor on eps after each round (0.98, paper).
        exploration_min: eps never falls below (0.2, paper).
        cutoff: c (0.95, paper).
        clip: utilities are cut at this quantile of them (0.95, paper; the code has 0.9).
        window: W rounds (20, paper).
        pacer_step_s: Delta, in seconds: T starts at it and rises by it in every round whose last W rounds together brought less utility than
            the W before (paper). None for a pacer that needs no knowledge of the fleet (authors' code): T is a percentile of the known durations,
            at first the 30th; every W rounds it rises by 5 if utility changed by at most a tenth, and falls by 5 if it grew sixfold or more.
        most_picks: clients that took part more often are left out while others are there (paper: outliers; off in the code). None: no limit.
        is_normalized: utilities are moved to [0, 1] before the bonus is added (authors' code). Algorithm 1 adds the bonus to the bare utility,
            which with some hundred samples makes it negligible.

    >>> from airloom.clock.rng import generator
    >>> select = Oort(exploration=0.0, exploration_min=0.0)
    >>> history = select.start({"a": 100, "b": 100, "c": 100})
    >>> history = select.update(history, losses={"a": 2.0, "b": 2.0, "c": 0.1}, durations_s={"a": 1.0, "b": 1.0, "c": 1.0})
    >>> select.choose(["a", "b", "c"], 2, history, generator(0))
    ['a', 'b']
    """

    alpha: float = ranged(0, inf, default=2.0)
    exploration: float = ranged(0, 1, default=0.9)
    exploration_decay: float = ranged(0, 1, default=0.98)
    exploration_min: float = ranged(0, 1, default=0.2)
    cutoff: float = ranged(0, 1, default=0.95)
    clip: float = ranged(0, 1, default=0.95)
    window: int = ranged(1, inf, default=20)
    pacer_step_s: float | None = None
    most_picks: int | None = None
    is_normalized: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        for name, value in (("pacer_step_s", self.pacer_step_s), ("most_picks", self.most_picks)):
            if value is not None and not 0 < value < inf:
                raise ScenarioError(f"Oort.{name}: got {value!r}; must be > 0, or None")

    def exploration_share(self, history: History) -> float:
        """Return eps of the coming round."""
        return max(self.exploration * self.exploration_decay ** history["round"], self.exploration_min)

    def preferred_s(self, history: History) -> float:
        """Return T of the coming round, in seconds; infinite while no duration is known."""
        w, brought = self.window, history["round_utility"]
        ends = range(2 * w, len(brought) + 1, w if self.pacer_step_s is None else 1)
        windows = [(fsum(brought[end - 2 * w : end - w]), fsum(brought[end - w : end])) for end in ends]
        if self.pacer_step_s is not None:
            return self.pacer_step_s * (1 + sum(before > recent for before, recent in windows))
        percent = 30
        for before, recent in windows:
            if abs(recent - before) <= 0.1 * before:
                percent = min(percent + 5, 100)
            elif abs(recent - before) >= 5 * before:
                percent = max(percent - 5, 5)
        durations = sorted(history["duration_s"].values())
        return durations[min(len(durations) * percent // 100, len(durations) - 1)] if durations and percent < 100 else inf

    def utilities(self, names: Sequence[str], history: History) -> dict[str, float]:
        """Return the utility of clients that took part before, in the coming round."""
        now, preferred_s = history["round"] + 1, self.preferred_s(history)
        bare = {name: history["utility"][name] for name in names}
        ordered = sorted(bare.values())
        if not ordered:
            return {}
        cap = ordered[min(int(len(ordered) * self.clip), len(ordered) - 1)]
        low = 0.999 * ordered[0] if self.is_normalized else 0.0  # 0.999 keeps the smallest above 0 (authors' code)
        span = max(ordered[-1] - low, 1e-4) if self.is_normalized else 1.0
        found: dict[str, float] = {}
        for name, value in bare.items():
            utility = (min(value, cap) - low) / span + sqrt(0.1 * log(now) / history["last_round"][name])
            seconds = history["duration_s"][name]
            found[name] = utility * (preferred_s / seconds) ** self.alpha if seconds > preferred_s else utility
        return found

    def _chosen(self, names: Sequence[str], k: int, history: History, rng: np.random.Generator) -> list[str]:
        limit = inf if self.most_picks is None else self.most_picks
        tired = [name for name in names if history["picks"].get(name, 0) > limit]
        rested = [name for name in names if history["picks"].get(name, 0) <= limit]
        seen = [name for name in rested if name in history["last_round"]]
        new = [name for name in rested if name not in history["last_round"]]
        n_seen = min(k - int(self.exploration_share(history) * k), len(seen))
        n_new = min(k - n_seen, len(new))
        n_seen = min(k - n_new, len(seen))  # too few new ones: their places go to the others

        chosen: list[str] = []
        if n_seen:
            utility = self.utilities(seen, history)
            least = self.cutoff * sorted(utility.values(), reverse=True)[n_seen - 1]
            admitted = [name for name in seen if utility[name] >= least]
            chosen += _draw(admitted, [utility[name] for name in admitted], n_seen, rng)
        if n_new:
            # a client without an estimate counts as average, one that takes no time as very fast
            known = [history["expected_s"][name] for name in new if name in history["expected_s"]]
            average_s = float(np.mean(known)) if known else 1.0
            chosen += _draw(new, [1 / max(history["expected_s"].get(name, average_s), 1e-9) for name in new], n_new, rng)
        return chosen + _draw(tired, [1.0] * len(tired), k - len(chosen), rng)


SELECTORS: Mapping[str, type[Selector]] = MappingProxyType(
    {"uniform": Uniform, "weighted": Weighted, "power_of_choice": PowerOfChoice, "oort": Oort},
)


def selector(text: str) -> Selector:
    """Make a selector by name: `uniform`, `weighted`, `power_of_choice(candidates=20)`, `oort`.

    >>> selector("oort(alpha=1.0)").alpha
    1.0
    """
    return named.make("select", SELECTORS, text)
