"""Claims of the methods that choose, group and chain clients; small in the slow lane, in full with `make claims`."""

from __future__ import annotations

import pytest

from benchmarks.claims import fedgs, fedgsp
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


@pytest.mark.slow
def test_small_chains_in_groups_beat_the_mean_in_rounds() -> None:
    outcome, case = fedgsp.run(fedgsp.SMALL), "15 rounds"
    for label in ("fedgsp", "fedgsp, random groups"):
        assert outcome.mean(case, label, "accuracy") > outcome.mean(case, "fedavg", "accuracy") + 0.1
        assert outcome.mean(case, label, "seconds") > 2 * outcome.mean(case, "fedavg", "seconds")  # and a round of theirs lasts longer


@pytest.mark.claims
def test_fedgsp() -> None:
    # in rounds, not in seconds: see the page
    outcome = fedgsp.run(folder=RECORDS)
    for label in ("fedgsp", "fedgsp, random groups"):
        assert outcome.mean("25 rounds", label, "accuracy") > outcome.mean("25 rounds", "fedavg", "accuracy") + 0.1
