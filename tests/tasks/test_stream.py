"""Streams: functions of (seed, device, window), with forgetting, moving classes and drifting mixtures."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airloom.errors import ScenarioError
from airloom.tasks.stream import Stream, _counts

SHARD = np.arange(100, 200)
LABELS = np.repeat(np.arange(10), 10)


def at(stream: Stream, at_s: float, device: str = "phone1", seed: int = 0) -> np.ndarray:
    return stream.rows(SHARD, LABELS, device, at_s, seed)


def test_a_window_is_a_function_of_seed_device_and_window_number() -> None:
    stream = Stream(window_s=60.0, samples=20)
    assert np.array_equal(at(stream, 0.0), at(stream, 59.9))
    assert not np.array_equal(at(stream, 0.0), at(stream, 60.0))
    assert not np.array_equal(at(stream, 0.0), at(stream, 0.0, device="phone2"))
    assert not np.array_equal(at(stream, 0.0), at(stream, 0.0, seed=1))


def test_old_rows_are_forgotten_and_come_round_again() -> None:
    stream = Stream(window_s=1.0, samples=20)
    windows = [set(at(stream, float(k))) for k in range(6)]
    # 100 rows in windows of 20: five disjoint windows, the sixth is the first again.
    assert sum(map(len, windows[:5])) == len(set.union(*windows[:5])) == 100
    assert windows[5] == windows[0]


@pytest.mark.parametrize("fresh", [1, 5, 20])
def test_only_fresh_rows_are_new(fresh: int) -> None:
    stream = Stream(window_s=1.0, samples=20, fresh=fresh)
    before, after = set(at(stream, 3.0)), set(at(stream, 4.0))
    assert len(before) == len(after) == 20
    assert len(after - before) == fresh


def test_a_small_device_holds_all_it_has() -> None:
    stream = Stream(window_s=1.0, samples=20)
    assert stream.rows(SHARD[:7], LABELS[:7], "phone1", 5.0, 0).tolist() == SHARD[:7].tolist()


@pytest.mark.parametrize("fresh", [None, 20, 5])
def test_each_row_arrives_once_and_then_the_stream_is_dry(fresh: int | None) -> None:
    stream = Stream(window_s=2.0, samples=30, fresh=fresh, is_once=True)
    step = fresh or 30
    windows = [set(at(stream, 2.0 * k)) for k in range(math.ceil(100 / step))]
    assert set.union(*windows) == set(SHARD)
    news = [after - before for before, after in pairwise([set(), *windows])]
    assert sum(map(len, news)) == 100  # nothing comes twice
    # window k holds what is left from row k * step on, at most 30
    assert [len(w) for w in windows] == [min(30, 100 - step * k) for k in range(len(windows))]
    assert [stream.held(100, "phone1", 2.0 * k) for k in range(len(windows))] == [len(w) for w in windows]
    assert stream.lasts_s(100) == 2.0 * len(windows)
    for ask in (at, lambda stream, at_s: stream.held(100, "phone1", at_s)):
        with pytest.raises(ScenarioError, match=r"stream of 'phone1' ran dry: got a request at \d+ s, its 100 rows last \d+ s; end the run"):
            ask(stream, stream.lasts_s(100))


def test_a_stream_that_comes_round_never_ends() -> None:
    assert Stream(window_s=2.0, samples=30).lasts_s(100) == math.inf
    assert Stream(window_s=2.0, samples=30).held(100, "phone1", 1e9) == 30


def test_classes_move_on_by_one_per_window() -> None:
    stream = Stream(window_s=1.0, samples=12, classes=3)
    present = [set(LABELS[at(stream, float(k)) - 100]) for k in range(11)]
    assert {len(p) for p in present} == {3}
    assert all(len(a & b) == 2 for a, b in pairwise(present))
    assert set.union(*present) == set(range(10))
    assert present[10] == present[0]
    other = Stream(window_s=1.0, samples=12, classes=3, is_common=True)
    assert set(LABELS[at(other, 2.0) - 100]) == set(LABELS[at(other, 2.0, device="phone9") - 100])


def test_a_drifting_mixture_goes_from_one_draw_to_the_next() -> None:
    stream = Stream(window_s=10.0, samples=40, drift_s=100.0, alpha=0.2)
    counts = np.array([np.bincount(LABELS[at(stream, t) - 100], minlength=10) for t in range(0, 300, 10)])
    assert (counts.sum(1) == 40).all()
    near = np.abs(np.diff(counts, axis=0)).sum(1).mean()
    far = np.abs(counts[10:] - counts[:-10]).sum(1).mean()
    assert near < far / 2


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=8).filter(any),
    st.integers(1, 60),
    st.integers(0, 1000),
)
def test_counts_are_whole_within_reach_and_as_many_as_there_can_be(available: list[int], total: int, seed: int) -> None:
    limit = np.array(available)
    mix = np.random.default_rng(seed).dirichlet(np.full(len(limit), 0.5)) * (limit > 0)
    mix = mix / mix.sum() if mix.sum() > 0 else (limit > 0) / (limit > 0).sum()
    count = _counts(mix, limit, total)
    assert (count >= 0).all() and (count <= limit).all()
    assert count.sum() == min(total, limit[mix > 0].sum())


@given(st.integers(1, 40), st.integers(1, 60), st.sampled_from(["plain", "classes", "drift"]), st.integers(0, 30), st.integers(0, 50))
def test_windows_hold_distinct_own_rows(n: int, samples: int, kind: str, k: int, seed: int) -> None:
    stream = Stream(window_s=2.0, samples=samples, classes=2 if kind == "classes" else None, drift_s=9.0 if kind == "drift" else None)
    labels = np.random.default_rng(seed).integers(0, 4, n)
    rows = stream.rows(SHARD[:n], labels, "phone1", 2.0 * k, seed)
    assert 1 <= len(rows) <= min(samples, n)
    assert (np.diff(rows) > 0).all() and np.isin(rows, SHARD[:n]).all()
    if kind != "classes":
        assert len(rows) == min(samples, n)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"window_s": 0.0}, "window_s=0.0"),
        ({"samples": 0}, "samples=0"),
        ({"fresh": 30}, r"must be 1\.\.samples=20"),
        ({"classes": 0}, "classes=0"),
        ({"drift_s": -1.0}, r"drift_s=-1\.0"),
        ({"classes": 2, "drift_s": 5.0}, "give one of them"),
        ({"alpha": 0.0}, r"alpha=0\.0"),
        ({"is_once": True, "classes": 2}, "give neither of them"),
        ({"is_once": True, "drift_s": 2.0}, "give neither of them"),
    ],
)
def test_bad_fields(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        Stream(**({"window_s": 60.0, "samples": 20} | fields))  # type: ignore[arg-type]
