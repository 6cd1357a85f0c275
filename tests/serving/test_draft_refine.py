"""Draft and refine: the draft goes up and is read; it answers where the cloud does not."""

from __future__ import annotations

import pytest

from airloom.serving.draft_refine import DraftRefine
from tests.serving.worlds import NEVER, asked, column, served, skilled, star


def test_by_hand() -> None:
    network = star("phone0")
    points, played = served(DraftRefine(timeout_s=99.0), network, asked(network, {"phone0": skilled(0.0), "cloud": skilled(1.0)}, 10.0))
    # draft 3 s; question and draft are two messages, one after the other: 44 + 48 bytes up take 23 s, 0.5 s; the cloud reads 11 + 4 tokens: 15/11 s
    assert column(points, "latency_s") == pytest.approx([3.0 + 23.0 + 0.5 + 15 / 11 + 2.0 + 12.0 + 0.5], abs=1e-6)
    assert played.sim.stamp()["bytes_up"] == 44 + 48 and column(points, "correct") == [1]


def test_the_draft_stands_without_a_link() -> None:
    network = star("phone0", up=NEVER)
    points, _ = served(DraftRefine(timeout_s=5.0), network, asked(network, {"phone0": skilled(1.0), "cloud": skilled(1.0)}, 10.0))
    assert column(points, "latency_s") == pytest.approx([8.0]) and column(points, "is_fallback") == [1]
