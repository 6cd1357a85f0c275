"""Ballots: what comes back is what was sent, in as few bytes as the formulas say."""

from __future__ import annotations

from math import ceil, log2

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from airloom.parts.ballot import (
    most_probable,
    once,
    packed_classes,
    packed_ids,
    packed_votes,
    unpacked_classes,
    unpacked_ids,
    unpacked_votes,
)  # fmt: skip


@given(st.integers(1, 300), st.integers(1, 20), st.floats(0, 1), st.integers(0, 10**6))
def test_votes_come_back_in_the_shorter_form(n: int, k: int, share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    votes = np.where(rng.random(n) < share, rng.integers(0, k, n), -1)
    sent = packed_votes(votes, k)
    assert sent.dtype == torch.uint8
    np.testing.assert_array_equal(unpacked_votes(sent, n, k), votes)
    count, row_bits = int((votes >= 0).sum()), max(1, ceil(log2(n)))
    assert len(sent) == min(ceil(n * ceil(log2(k + 1)) / 8), ceil(count * (row_bits + ceil(log2(k))) / 8))


@given(st.integers(1, 300), st.integers(0, 10**6))
def test_lists_of_rows_come_back(n: int, seed: int) -> None:
    ids = np.flatnonzero(np.random.default_rng(seed).random(n) < 0.3)
    sent = packed_ids(ids, n)
    np.testing.assert_array_equal(unpacked_ids(sent, n), ids)
    assert len(sent) == ceil(len(ids) * max(1, ceil(log2(n))) / 8)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30))
def test_classes_come_back(counts: list[int]) -> None:
    assert unpacked_classes(packed_classes(np.array(counts))).tolist() == [c for c, count in enumerate(counts) if count]


def test_bytes_by_hand() -> None:
    # 700 rows, 4 classes: 3 bits per row are 263 bytes; 10 votes of 10 + 2 bits are 15
    votes = np.full(700, -1)
    votes[:10] = 3
    assert len(packed_votes(votes, 4)) == 15
    assert len(packed_votes(np.zeros(700, np.int64), 4)) == 263


def test_rows_on_two_lists_are_dropped_and_soft_labels_have_the_largest_mean() -> None:
    rows, labels = once({1: np.array([0, 3, 4]), 6: np.array([3]), 8: np.array([], np.int64)})
    assert (rows.tolist(), labels.tolist()) == ([0, 4], [1, 1])
    rows, labels = most_probable({1: torch.tensor([0.2, 0.9]), 6: torch.tensor([0.8, 0.1])})
    assert (rows.tolist(), labels.tolist()) == ([0, 1], [6, 1])
