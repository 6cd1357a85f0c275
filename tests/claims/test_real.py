"""Claims on real data: small in the slow lane, in full with `make claims`, where the folder AIRLOOM_DATA is; skipped elsewhere."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from airloom.errors import MissingExtra
from benchmarks.claims.harness import RECORDS, Claim

CLAIMS: dict[str, Claim] = {
    claim.name: claim
    for path in sorted((Path(__file__).resolve().parents[2] / "benchmarks" / "claims").glob("[a-z]*.py"))
    for claim in getattr(importlib.import_module(f"benchmarks.claims.{path.stem}"), "REAL", ())
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CLAIMS)
def test_small_claim_on_real_data_learns(name: str, data_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AIRLOOM_DATA", str(data_folder))
    claim = CLAIMS[name]
    try:
        outcome = claim.run(claim.small, parts=tmp_path)
    except MissingExtra as missing:
        pytest.skip(str(missing))
    assert [row["side"] for row in outcome.rows] == [side.label for side in claim.sides] * len(claim.small.cases)  # one seed
    assert max(row["accuracy"] for row in outcome.rows) > claim.chance
    assert vars(claim.run(claim.small, parts=tmp_path)) == vars(outcome)  # what is there is read, not run again


@pytest.mark.claims
@pytest.mark.parametrize("name", CLAIMS)
def test_claim_on_real_data(name: str, data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLOOM_DATA", str(data_folder))
    claim = CLAIMS[name]
    try:
        outcome = claim.run(folder=RECORDS)
    except MissingExtra as missing:
        pytest.skip(str(missing))
    assert max(row["accuracy"] for row in outcome.rows) > claim.chance
