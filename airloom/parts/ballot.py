"""Ballots: class decisions and lists of rows, packed to the bit.

n rows of a pool, k classes of a voter. A vote is a class number 0..k-1, or -1 for none. Either every row has b(k+1) bits, or every vote has those of
its row and of its class, b(n) + b(k); whichever is shorter is sent, and its length tells which it is. b(m) = ceil(log2 m).

>>> votes = np.array([-1, 2, -1, 0])
>>> packed_votes(votes, 3).nbytes, unpacked_votes(packed_votes(votes, 3), 4, 3).tolist()
(1, [-1, 2, -1, 0])
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Numbers = NDArray[np.int64]
Packed = Tensor  # uint8; not an array, so that a dry run has no contents to read


def bits(count: int) -> int:
    """Bits that tell `count` things apart.

    >>> [bits(m) for m in (1, 2, 3, 4, 5, 700)]
    [0, 1, 2, 2, 3, 10]
    """
    return (count - 1).bit_length()


def packed(numbers: Numbers, width: int) -> Packed:
    """Numbers of `width` bits each, one after the other; zeros fill the last byte."""
    return torch.from_numpy(np.packbits((numbers[:, None] >> np.arange(width - 1, -1, -1)) & 1))


def unpacked(data: Packed, width: int) -> Numbers:
    """As many numbers of `width` bits as the bytes can hold; the last ones may be filling."""
    each = np.unpackbits(data.numpy())[: 8 * len(data) // width * width].reshape(-1, width).astype(np.int64)
    return each @ (1 << np.arange(width - 1, -1, -1))


def packed_ids(ids: Numbers, n: int) -> Packed:
    """Ascending rows of a pool of n."""
    return packed(ids, max(1, bits(n)))


def unpacked_ids(data: Packed, n: int) -> Numbers:
    """The rows: they ascend, and the filling, zeros, does not."""
    found = unpacked(data, max(1, bits(n)))
    return found[: _ascending(found)]


def packed_votes(votes: Numbers, k: int) -> Packed:
    """The shorter form of the votes of a voter with k classes."""
    n, at = len(votes), np.flatnonzero(votes >= 0)
    if _sparse_bytes(len(at), n, k) >= _dense_bytes(n, k):
        return packed(votes + 1, bits(k + 1))
    return packed((at << bits(k)) + votes[at], max(1, bits(n)) + bits(k))


def unpacked_votes(data: Packed, n: int, k: int) -> Numbers:
    """Votes on n rows of a voter with k classes."""
    if len(data) == _dense_bytes(n, k):
        return unpacked(data, bits(k + 1))[:n] - 1
    pairs = unpacked(data, max(1, bits(n)) + bits(k))
    pairs = pairs[: _ascending(pairs >> bits(k))]
    votes = np.full(n, -1, np.int64)
    votes[pairs >> bits(k)] = pairs & ((1 << bits(k)) - 1)
    return votes


def once(lists: Mapping[int, Numbers]) -> tuple[Numbers, Numbers]:
    """Rows that are on one list alone, ascending, and the class of that list.

    >>> once({2: np.array([5, 6]), 7: np.array([0, 5])})
    (array([0, 6]), array([7, 2]))
    """
    rows, labels = np.concatenate(list(lists.values())), np.repeat(list(lists), [len(ids) for ids in lists.values()])
    lists_of = np.bincount(rows)
    order = np.argsort(rows, kind="stable")
    order = order[lists_of[rows[order]] == 1]
    return rows[order], labels[order]


def packed_classes(counts: NDArray[Any]) -> Packed:
    """One bit per class: whether there are rows of it."""
    return torch.from_numpy(np.packbits(counts > 0))


def unpacked_classes(data: Packed) -> Numbers:
    """The classes of which there are rows."""
    return np.flatnonzero(np.unpackbits(data.numpy()))


def most_probable(means: Mapping[int, Tensor]) -> tuple[Numbers, Numbers]:
    """All rows, each with the class whose mean probability is largest."""
    labels = np.array(list(means))[torch.stack(list(means.values()), 1).argmax(1).numpy()]
    return np.arange(len(labels)), labels


def _dense_bytes(n: int, k: int) -> int:
    return -(-n * bits(k + 1) // 8)


def _sparse_bytes(count: int, n: int, k: int) -> int:
    return -(-count * (max(1, bits(n)) + bits(k)) // 8)


def _ascending(numbers: Numbers) -> int:
    """How many numbers from the first on ascend."""
    falls = np.flatnonzero(np.diff(numbers) <= 0)
    return int(falls[0]) + 1 if len(falls) else len(numbers)
