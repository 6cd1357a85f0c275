from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airloom.errors import ScenarioError
from airloom.plans.pipe import makespan_s, pipe_ends_s


def longest_path_s(durations: np.ndarray) -> float:
    """Brute force: the makespan of a flow shop is the longest monotone path through the table."""
    jobs, stages = durations.shape
    best = 0.0
    for downs in combinations(range(jobs + stages - 2), jobs - 1):  # at which steps the path moves on to the next job
        j = k = 0
        total = durations[0, 0]
        for step in range(jobs + stages - 2):
            j, k = (j + 1, k) if step in downs else (j, k + 1)
            total += durations[j, k]
        best = max(best, float(total))
    return best


def test_by_hand() -> None:
    # job 0: 2, then 1 -> ends 2, 3; job 1: stage 0 ends 2+1 = 3, stage 1 max(3, 3)+4 = 7; job 2: 3+3 = 6, max(6, 7)+1 = 8
    assert pipe_ends_s([[2, 1], [1, 4], [3, 1]]).tolist() == [[2, 3], [3, 7], [6, 8]]


tables = st.integers(1, 4).flatmap(lambda stages: st.lists(st.lists(st.floats(0, 100), min_size=stages, max_size=stages), min_size=1, max_size=5))


@given(tables)
def test_makespan_is_the_longest_path(table: list[list[float]]) -> None:
    durations = np.array(table)
    assert makespan_s(durations) == pytest.approx(longest_path_s(durations))
    ends = pipe_ends_s(durations)
    assert (np.diff(ends, axis=0) >= durations[1:] - 1e-9).all()  # a stage does one job at a time
    assert (np.diff(ends, axis=1) >= durations[:, 1:] - 1e-9).all()  # a job is at one stage at a time
    assert makespan_s(durations[::-1, ::-1]) == pytest.approx(makespan_s(durations))  # reversibility of the flow shop


@given(st.integers(1, 6), st.integers(1, 6), st.floats(0.01, 10))
def test_equal_tasks(jobs: int, stages: int, seconds: float) -> None:
    assert makespan_s(np.full((jobs, stages), seconds)) == pytest.approx((jobs + stages - 1) * seconds)


def test_one_stage_adds_up_and_one_job_too() -> None:
    assert makespan_s([[1], [2], [3]]) == makespan_s([[1, 2, 3]]) == 6


def test_bad_input_is_named() -> None:
    assert makespan_s(np.zeros((0, 3))) == 0
    for bad in ([1.0, 2.0], [[1.0, -1.0]], [[float("inf")]]):
        with pytest.raises(ScenarioError, match="jobs, stages"):
            pipe_ends_s(bad)
