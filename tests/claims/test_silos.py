"""Claims of methods that send no models: decisions, and codes; in full with `make claims`."""

from __future__ import annotations

import pytest

from benchmarks.claims import cofed, ega
from benchmarks.claims.harness import RECORDS


@pytest.mark.claims
def test_cofed() -> None:
    outcome = cofed.run(folder=RECORDS)
    accuracy = {side.label: outcome.mean("digits", side.label, "accuracy") for side in cofed.SIDES}
    assert accuracy["cofed, alpha 0.5"] >= accuracy["local only"] + 0.02
    assert outcome.mean("digits", "cofed, alpha 0.5", "improved") >= 0.7
    right = [outcome.mean("digits", f"cofed, alpha {alpha:g}", "precision") for alpha in (0.1, 0.3, 0.5, 0.7)]
    assert right == sorted(right)


@pytest.mark.claims
def test_ega() -> None:
    outcome = ega.run(folder=RECORDS)
    accuracy = {side.label: outcome.mean("digits", side.label, "accuracy") for side in ega.SIDES}
    shown = {side.label: outcome.mean("digits", side.label, "shown") for side in ega.SIDES}
    for label in ("rotation", "rotation, noise 0.1 in pairs", "rounding alone", "trained codec"):
        assert abs(accuracy[label] - accuracy["fedavg"]) < 0.03
    for label in ("rotation", "rotation, noise 0.1", "trained codec"):
        assert shown["fedavg"] > 5 * shown[label]
    assert shown["rotation, the server decodes"] > 0.9 * shown["fedavg"]
