"""Vocabulary and windows, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from airloom.errors import ScenarioError
from airloom.tasks.text import Vocabulary, windows


def test_vocabulary_is_in_code_point_order_and_inverts() -> None:
    words = Vocabulary.of(["to be", "or not"])
    assert words.characters == " benort"
    assert len(words) == 7
    assert words.decode(words.encode("to be or not")) == "to be or not"
    with pytest.raises(ScenarioError, match=r"\['x'\] not among the 7 characters"):
        words.encode("x")


def test_windows_pair_each_token_with_the_next() -> None:
    ids = np.arange(8)
    x, y = windows(ids, 3)
    # Starts 0 and 3; start 6 would need ids[9].
    assert x.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert y.tolist() == [[1, 2, 3], [4, 5, 6]]
    x, _ = windows(ids, 3, stride=2)
    assert x[:, 0].tolist() == [0, 2, 4]
    assert windows(ids[:3], 3)[0].shape == (0, 3)
    assert windows(ids[:4], 3)[1].tolist() == [[1, 2, 3]]
    with pytest.raises(ScenarioError, match="length=0"):
        windows(ids, 0)
