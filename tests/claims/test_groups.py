"""Claims of the methods that choose, group and chain clients; small in the slow lane, in full with `make claims`."""

from __future__ import annotations

import pytest

from benchmarks.claims import fedgs
from benchmarks.claims.harness import RECORDS


@pytest.mark.claims
def test_fedgs() -> None:
    outcome = fedgs.run(folder=RECORDS)
    assert outcome.mean("alpha = 0.1", "fedgs", "accuracy") > outcome.mean("alpha = 0.1", "fedavg", "accuracy") + 0.05
    # sets that look like the whole need no more rounds than random ones; in accuracy no difference shows (see the page)
    assert outcome.mean("alpha = 0.1", "fedgs", "rounds_to_target") <= outcome.mean("alpha = 0.1", "fedgs, random sets", "rounds_to_target")


@pytest.mark.slow
def test_small_averaging_at_every_step_beats_local_steps() -> None:
    outcome = fedgs.run(fedgs.SMALL)
    assert outcome.mean("alpha = 0.1", "fedgs", "accuracy") > outcome.mean("alpha = 0.1", "fedavg", "accuracy") + 0.1
