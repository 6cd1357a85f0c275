"""How large a share of a partitioned model each cell trains: the slowest cell's round as short as it can be.

    T_j(p) = max_i (A_i p + B_i) over the clients i of cell j          seconds of a round when cell j holds the share p
    min over p of max_j T_j(p_j),   sum_j p_j = 1,   p_j >= least

Each T_j rises, so the largest share that cell j finishes within T is min_i (T - B_i) / A_i, and the least T at which these add up to 1 is the
answer. Where one client is the slowest of its cell for all p and no share is at its bound, T = (1 + sum B_j / A_j) / sum 1 / A_j.

Paper: reconstructed for Fang, Han, Brinton, "Federated Learning over Hierarchical Wireless Networks: Training Latency Minimization via Submodel
Partitioning", 2023, arXiv 2310.17890, whose text was not available; the least share stands for its convergence target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from airloom.errors import ScenarioError
from airloom.plans.root import rising_root

Lines = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class SharePlan:
    """Fields: `shares` of the model by cell, which add up to 1; `cell_s`, seconds of a round by cell; `finish_s`, the longest of them."""

    shares: list[float]
    cell_s: list[float]
    finish_s: float


def seconds(lines: Lines, share: float) -> float:
    """T_j of a cell at a share."""
    return max(a * share + b for a, b in lines)


def fixed(cells: Sequence[Lines], shares: Sequence[float]) -> SharePlan:
    """What given shares lead to.

    >>> fixed([[(4.0, 0.0)], [(1.0, 1.0)]], [0.5, 0.5]).cell_s
    [2.0, 1.5]
    """
    taken = [seconds(lines, p) for lines, p in zip(cells, shares, strict=True)]
    return SharePlan(shares=list(shares), cell_s=taken, finish_s=max(taken, default=0.0))


def shortest(cells: Sequence[Lines], least: float) -> SharePlan:
    """The shares with the shortest longest round.

    Arguments:
        cells: (A_i, B_i) of each client of each cell, seconds per whole model and seconds besides, A_i > 0 and B_i >= 0.
        least: smallest share of a cell, 0 <= least <= 1 / cells.

    Raises:
        ScenarioError: a cell without clients, a line that does not rise, or a least share that does not leave room for all.

    >>> plan = shortest([[(4.0, 0.0)], [(1.0, 1.0)]], 0.0)        # T = (1 + 0 + 1) / (1/4 + 1)
    >>> round(plan.finish_s, 9), [round(p, 9) for p in plan.shares]
    (1.6, [0.4, 0.6])
    """
    if not 0 <= least * len(cells) <= 1 + 1e-12:
        raise ScenarioError(f"shortest(least={least!r}) of {len(cells)} cells: allowed are least shares from 0 to 1 / cells")
    for lines in cells:
        if not lines or not all(a > 0 and b >= 0 and isfinite(a + b) for a, b in lines):
            raise ScenarioError(f"shortest(cells={list(lines)!r}): each needs a client, with A > 0 and B >= 0, both finite")

    def share(lines: Lines, T: float) -> float:
        return min(1.0, max(least, min((T - b) / a for a, b in lines)))

    high = max([seconds(lines, 1 / len(cells)) for lines in cells], default=0.0)  # the equal split is done by then
    T = rising_root(lambda T: sum(share(lines, T) for lines in cells) - 1.0, 0.0, high)
    shares = [share(lines, T) for lines in cells]
    over = sum(shares) - 1.0
    if over > 0 and len(cells):  # of cells that are at their least share already, or of the last bit
        widest = max(range(len(cells)), key=lambda j: shares[j])
        shares[widest] -= over
    return fixed(cells, shares)


def whole(shares: Sequence[float], neurons: int) -> list[int]:
    """Whole numbers of neurons in these shares, by largest remainder, at least one each.

    >>> whole([0.55, 0.25, 0.2], 10), whole([0.98, 0.01, 0.01], 10)
    ([6, 2, 2], [8, 1, 1])
    """
    if neurons < len(shares):
        raise ScenarioError(f"whole(shares of {len(shares)} cells, neurons={neurons}): a layer needs a neuron for every cell; use fewer cells")
    spare = neurons - len(shares)
    exact = [max(p * neurons - 1, 0.0) for p in shares]  # beyond the one that each has
    scale = spare / sum(exact) if sum(exact) > 0 else 0.0
    counts = [int(v * scale) for v in exact]
    order = sorted(range(len(shares)), key=lambda j: counts[j] - exact[j] * scale)
    for j in order[: spare - sum(counts)]:
        counts[j] += 1
    return [1 + c for c in counts]
