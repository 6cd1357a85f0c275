"""Integer linear programs of planners, solved by HiGHS (`scipy.optimize.milp`)."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportArgumentType=false
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

Row = tuple[dict[int, float], float, float]  # factor by variable; least and most of their sum


def least(
    cost: Sequence[float], rows: Sequence[Row], low: Sequence[float], high: Sequence[float], whole: Sequence[int]
) -> NDArray[np.float64] | None:
    """The x with the least `cost . x` such that rows and bounds hold and x is an integer where `whole` is 1; None if there is none.

    >>> least([-1.0, 0.0], [({0: 2.0, 1: 1.0}, -float("inf"), 5.0)], [0, 0], [9, 9], [1, 0]).tolist()        # 2 x <= 5
    [2.0, 0.0]
    """
    A = np.zeros((len(rows), len(cost)))
    for i, (row, _, _) in enumerate(rows):
        for j, factor in row.items():
            A[i, j] = factor
    if any(a > b for a, b in zip(low, high, strict=True)):
        return None
    limits = LinearConstraint(A, np.array([row[1] for row in rows]), np.array([row[2] for row in rows]))
    found = milp(np.array(cost), constraints=limits, bounds=Bounds(low, high), integrality=np.array(whole), options={"mip_rel_gap": 0.0})
    return np.asarray(found.x, dtype=np.float64) if found.success else None
