"""Text as token ids: a character vocabulary and next-token windows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from airloom.errors import ScenarioError

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Characters in order of their token id.

    >>> words = Vocabulary.of(["abba", "c"])
    >>> words.encode("cab").tolist(), words.decode([1, 0])
    ([2, 0, 1], 'ba')
    """

    characters: str

    @classmethod
    def of(cls, texts: Iterable[str]) -> Vocabulary:
        """Collect the characters of all texts in code-point order."""
        return cls("".join(sorted(set().union(*texts))))

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> Ids:
        """Return the (n,) token ids of a text; a character that is not in the vocabulary is an error."""
        index = {character: i for i, character in enumerate(self.characters)}
        unknown = sorted(set(text) - index.keys())
        if unknown:
            raise ScenarioError(f"Vocabulary.encode: {unknown[:5]} not among the {len(self)} characters of the vocabulary; build it from all texts")
        return np.array([index[character] for character in text], np.int64)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids."""
        return "".join(self.characters[int(i)] for i in ids)


def windows(ids: Ids, length: int, *, stride: int | None = None) -> tuple[Ids, Ids]:
    """Cut a token sequence into next-token pairs: x = ids[i : i + length], y = ids[i + 1 : i + 1 + length], i = 0, stride, 2 stride, ...

    Parameters
    ----------
    ids : (n,) tokens.
    length : tokens per window, >= 1.
    stride : distance of windows; None means `length` (every target once). What does not fill a window is dropped.

    Returns
    -------
    (x, y) : two (windows, length) arrays, empty if the sequence is shorter than length + 1.

    >>> x, y = windows(np.arange(6), 2)
    >>> x.tolist(), y.tolist()
    ([[0, 1], [2, 3]], [[1, 2], [3, 4]])
    """
    if length < 1 or (stride is not None and stride < 1):
        raise ScenarioError(f"windows(length={length}, stride={stride}): both must be >= 1")
    starts = np.arange(0, len(ids) - length, stride or length)
    at = starts[:, None] + np.arange(length)
    return ids[at], ids[at + 1]
