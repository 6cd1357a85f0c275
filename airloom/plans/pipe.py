"""The clock of a pipeline: jobs pass through stages in one order, each stage does one job at a time (permutation flow shop).

    C[j, k] = max(C[j, k-1], C[j-1, k]) + p[j, k],        C = 0 outside the table

Micro-batches through the stages of a split model are such a pipeline; maps that are issued without fetching between them take exactly this time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from airloom.errors import ScenarioError


def pipe_ends_s(durations_s: ArrayLike) -> NDArray[np.float64]:
    """End of every job at every stage, in seconds.

    Arguments:
        durations_s: [jobs, stages], seconds of a job at a stage, >= 0.

    Returns:
        [jobs, stages], seconds after the start; the last entry is the makespan.

    Raises:
        ScenarioError: not a table, or a duration that is negative or not finite.

    >>> pipe_ends_s([[1, 2], [1, 2], [1, 2]]).tolist()
    [[1.0, 3.0], [2.0, 5.0], [3.0, 7.0]]
    """
    durations = np.asarray(durations_s, dtype=np.float64)
    if durations.ndim != 2 or not (np.isfinite(durations).all() and (durations >= 0).all()):
        raise ScenarioError(f"pipe_ends_s(durations_s={durations_s!r}): must be a table [jobs, stages] of finite seconds >= 0")
    ends = np.zeros_like(durations)
    free_s = [0.0] * durations.shape[1]  # end of the last job at each stage
    for j, row in enumerate(durations.tolist()):
        end = 0.0
        for k, seconds in enumerate(row):
            end = free_s[k] = max(end, free_s[k]) + seconds
        ends[j] = free_s
    return ends


def makespan_s(durations_s: ArrayLike) -> float:
    """Seconds until the last job has left the last stage; 0 for an empty table.

    >>> makespan_s([[3, 3, 3]] * 4)                          # (jobs + stages - 1) * 3
    18.0
    """
    ends = pipe_ends_s(durations_s)
    return float(ends[-1, -1]) if ends.size else 0.0
