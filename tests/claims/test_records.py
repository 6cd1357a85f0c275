"""The kept records belong to the present methods, plans and worlds, and the pages show them."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

from benchmarks.claims.harness import RECORDS, Plan, Side, best_lr, load


@dataclass(frozen=True)
class Kept:
    """What a record must belong to: a claim's module, or one of its claims on real data."""

    sides: Sequence[Side]
    plan: Plan
    about: Mapping[str, Any]
    show: Callable[[Any], str]
    page: str
    judged: str = "accuracy"


CLAIMS: dict[str, Kept] = {}
for path in sorted((Path(__file__).resolve().parents[2] / "benchmarks" / "claims").glob("[a-z]*.py")):
    if path.stem != "harness":
        module: Any = importlib.import_module(f"benchmarks.claims.{path.stem}")
        CLAIMS[path.stem] = Kept(module.SIDES, module.FULL, module.ABOUT, module.show, path.stem)
        CLAIMS |= {
            claim.name: Kept(claim.sides, claim.plan, claim.about, claim.show, path.stem, claim.judged) for claim in getattr(module, "REAL", ())
        }
DOCS = Path(__file__).resolve().parents[2] / "docs"


def plain(thing: Any) -> Any:
    """As it comes back from JSON."""
    return json.loads(json.dumps(thing))


def belongs(side: Any, known: dict[str, Any]) -> Any:
    """What a record of this side holds; fields that came later and are neutral by default need not be in it."""
    described = plain(side.describe())
    for field in fields(side.method):
        if field.metadata.get("is_neutral") and field.name not in known["fields"] and getattr(side.with_lr(0.1), field.name) == field.default:
            described["fields"].pop(field.name, None)
    return described


@pytest.mark.parametrize("name", CLAIMS)
def test_record_belongs_to_the_present_fields(name: str) -> None:
    header, _ = load(name)
    claim = CLAIMS[name]
    assert header["sides"] == [belongs(side, known) for side, known in zip(claim.sides, header["sides"], strict=True)], (
        "a field or a default has changed: run `make claims` again"
    )
    assert header["plan"] == plain(vars(claim.plan))
    assert header["world"] == plain(claim.about)


@pytest.mark.parametrize("name", CLAIMS)
def test_record_is_complete_and_every_side_had_the_same_trials(name: str) -> None:
    _, outcome = load(name)
    plan, labels = CLAIMS[name].plan, [side.label for side in CLAIMS[name].sides]
    sides = [(case, label) for case in plan.cases for label in labels]
    assert [(row["case"], row["side"], row["seed"]) for row in outcome.rows] == [(*side, seed) for side in sides for seed in plan.seeds]
    tried_lrs = plan.lrs if len(plan.lrs) > 1 else ()  # one is taken untried, for every side
    assert [(row["case"], row["side"], row["lr"]) for row in outcome.trials] == [(*side, lr) for side in sides for lr in tried_lrs]
    assert not set(plan.seeds) & set(plan.tuning_seeds)
    for case, label in sides if tried_lrs else []:
        tried = [row for row in outcome.trials if (row["case"], row["side"]) == (case, label)]
        assert set(outcome.each(case, label, "lr")) == {best_lr(tried, CLAIMS[name].judged)}


@pytest.mark.parametrize("name", CLAIMS)
def test_page_shows_the_record(name: str) -> None:
    shown = CLAIMS[name].show(load(name)[1])
    (page,) = DOCS.rglob(f"{CLAIMS[name].page}.md")
    assert shown in page.read_text(encoding="utf-8"), f"put this table on the page, and check its text:\n{shown}"


def test_the_readme_says_what_the_record_of_its_second_figure_says() -> None:
    kept = json.loads((RECORDS / "wireless" / "result.json").read_text(encoding="utf-8"))
    told = next(line for line in (DOCS.parent / "README.md").read_text(encoding="utf-8").splitlines() if kept["command"] in line)
    rows = {row["method"]: row for row in kept["rows"]}
    assert {row["reached"] for row in rows.values()} == {"3/3"}
    minutes = {name: f"{row['seconds'] / 60:.1f}" for name, row in rows.items()}
    assert f"`oort` and `whale_fl` in {minutes['oort']} minutes" in told and minutes["whale_fl"] == minutes["oort"]
    assert f"`fedex` and `fedavg` in {minutes['fedex']} and {minutes['fedavg']}, `ics` in {minutes['ics']}" in told
    assert rows["ics"]["bytes_up"] / rows["fedavg"]["bytes_up"] == pytest.approx(0.75, abs=0.03)


def test_records_are_small() -> None:
    sizes = {name: sum(path.stat().st_size for path in (RECORDS / name).iterdir()) for name in CLAIMS}
    assert max(sizes.values()) < 40_000, sizes
