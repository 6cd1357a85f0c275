"""Claims of the services; small in the slow lane, in full with `make claims`."""

from __future__ import annotations

from math import sqrt

import pytest

from airloom.serving.gapg import GAPG
from benchmarks.claims import critique_routing, da_grpo, gapg, paac, prima, serving
from benchmarks.claims.harness import RECORDS


@pytest.mark.claims
def test_paac() -> None:
    outcome, case = paac.run(folder=RECORDS), paac.CASE
    for level in (1, 2, 3):
        assert set(outcome.each(case, f"level {level}", "leaked")) == {0}
        assert outcome.each(case, f"level {level}", "accuracy") == outcome.each(case, "level 0", "accuracy") == [1.0] * 3
    for miss in paac.MISSES:
        private, leaked = (sum(outcome.each(case, f"level 3, miss {miss}", name)) for name in ("private", "leaked"))
        assert leaked / private == pytest.approx(miss, abs=3 * sqrt(miss * (1 - miss) / private))  # three standard errors of a share
    assert set(outcome.each(case, "rewrite, no registry", "accuracy")) == {0.0}


@pytest.mark.claims
def test_prima() -> None:
    outcome, case = prima.run(folder=RECORDS), prima.CASE
    assert set(outcome.each(case, "exact", "optimal")) == {1.0}
    assert outcome.each(case, "exact", "answered") == outcome.each(case, "exact", "possible")
    for name in prima.PLANNERS:  # nobody beats brute force, or places what cannot be placed
        assert min(outcome.each(case, name, "least")) >= 1 - 1e-9 and set(outcome.each(case, name, "claims_possible")) == {0}
    assert outcome.mean(case, "halda", "optimal") < 0.9


@pytest.mark.claims
def test_gapg() -> None:
    outcome, case = gapg.run(folder=RECORDS), gapg.CASE
    accuracy = {side.label: outcome.mean(case, side.label, "accuracy") for side in gapg.SIDES}
    assert accuracy["gapg"] > accuracy["edge only"] + 0.2
    assert accuracy["gapg"] > max(gapg.at_equal_share(outcome, router) for router in ("random router", "length router"))
    use = {side.label: outcome.mean(case, side.label, "trained_use") for side in gapg.SIDES if side.method is GAPG}
    assert use["gapg, 40 updates"] < min(use["the same, divided by the deviation"], use["the same, asking worth 0.8"])


@pytest.mark.claims
def test_da_grpo() -> None:
    outcome, case = da_grpo.run(folder=RECORDS), da_grpo.CASE
    for task in ("use_1", "use_2"):
        assert all(abs(use - da_grpo.BUDGET) <= 0.05 for use in outcome.each(case, "da_grpo", task))
        assert outcome.mean(case, "da_grpo", task) < outcome.mean(case, "grpo, fixed penalty 0.2", task) - 0.05
    assert outcome.mean(case, "grpo, fixed penalty 0.2", "use_2") > 0.5
    assert outcome.mean(case, "da_grpo", "first_after") > outcome.mean(case, "edge only", "first_after") + 0.15
    assert outcome.mean(case, "da_grpo", "forgetting") <= outcome.mean(case, "edge only", "forgetting")


@pytest.mark.claims
def test_critique_routing() -> None:
    outcome, side = critique_routing.run(folder=RECORDS), ("assistant", "critique and route")
    assert outcome.mean(*side, "trained_calls") < 1.5  # it stops; three calls without a cost of turns
    assert all(share <= 0.25 for share in outcome.each(*side, "trained_share")) and outcome.mean(*side, "share") <= 0.25 + 0.03
    assert outcome.mean(*side, "accuracy") >= 0.9 * outcome.mean("assistant", "strongest", "accuracy")
    assert outcome.mean(*side, "stop_precision") >= 0.9


@pytest.mark.claims
def test_serving() -> None:
    outcome = serving.run(folder=RECORDS)
    for case in ("outages", "5G walk"):
        for side in serving.SIDES:  # nobody hangs, and without the cloud everybody is at least as right as the device
            assert set(outcome.each(case, side.label, "answered")) == {180}
            found, alone = (outcome.each(case, label, "accuracy") for label in (side.label, "device_only"))
            assert all(a >= b for a, b in zip(found, alone, strict=True))
    assert outcome.mean("steady", "cascade", "accuracy") > outcome.mean("steady", "random_router", "accuracy")
    assert outcome.mean("5G walk", "cloud_only", "p95_s") > 2 * outcome.mean("steady", "cloud_only", "p95_s")
