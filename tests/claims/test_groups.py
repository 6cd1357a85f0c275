"""Claims of the methods that choose, group and chain clients or tasks; small in the slow lane, in full with `make claims`."""

from __future__ import annotations

import pytest

from benchmarks.claims import contextlora, fedgs, fedgsp, hfedms
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


@pytest.mark.claims
def test_hfedms() -> None:
    outcome = hfedms.run(folder=RECORDS)
    late = {side.label: outcome.mean("class window", side.label, "late_accuracy") for side in hfedms.SIDES}
    assert late["hfedms"] > max(late["hfedms, no memory"], late["fedgsp"], late["fedavg"]) + 0.03
    per_round = {side.label: outcome.mean("class window", side.label, "mb_per_100_s") / outcome.mean("class window", side.label, "rounds")
                 for side in hfedms.SIDES}  # fmt: skip
    assert per_round["hfedms"] < 0.75 * per_round["fedgsp"]


@pytest.mark.slow
def test_small_blocks_forget_nothing_and_a_plan_saves_time() -> None:
    outcome = contextlora.run(contextlora.SMALL)
    accuracy = {side.label: outcome.mean(contextlora.CASE, side.label, "accuracy") for side in contextlora.SIDES}
    seconds = {side.label: outcome.mean(contextlora.CASE, side.label, "seconds") for side in contextlora.SIDES}
    assert accuracy["gear, examples stay"] > accuracy["no mask, no freeze"] + 0.2
    assert seconds["gear, examples move"] < 0.9 * seconds["one place"]


@pytest.mark.claims
def test_contextlora() -> None:
    # that tasks learn faster on top of those that they build on does not show (see the page)
    outcome = contextlora.run(folder=RECORDS)
    mean = {
        (side.label, c): outcome.mean(contextlora.CASE, side.label, c) for side in contextlora.SIDES for c in ("accuracy", "parents", "seconds", "kb")
    }
    for label in ("gear, examples move", "gear, examples stay"):
        assert mean[label, "accuracy"] > mean["no mask, no freeze", "accuracy"] + 0.2
        assert mean[label, "parents"] > mean["no mask, no freeze", "parents"] + 0.2
        assert mean[label, "kb"] < 0.5 * mean["gated adapters", "kb"]
    for label in ("one place", "random places", "gear, examples stay"):
        assert mean["gear, examples move", "seconds"] < 0.9 * mean[label, "seconds"]
    for side in contextlora.SIDES[:5]:  # what was planned is what was taken
        rows = [row for row in outcome.rows if row["side"] == side.label]
        assert all(row["seconds"] == pytest.approx(row["planned_s"], rel=1e-9) for row in rows)
