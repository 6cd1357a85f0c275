from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from airloom.errors import RecordError
from airloom.records.compare import build
from airloom.records.record import Record
from tests.records.conftest import Factory

TARGET = ("accuracy", 0.9)


def run(method: str, seed: int, seconds: float, *, is_reached: bool = True, status: str = "done", **header: Any) -> Record:
    """A run of six evaluations, good ones from `seconds` on, or none until it ends at `seconds`."""
    good = 0.95 if is_reached else 0.5
    points = [{"seconds": 0.0, "bytes_up": 0, "bytes_down": 0, "joules": 0.0, "round": 0, "accuracy": 0.1}]
    for r in range(1, 6):
        cost = seconds + 1e-6 * r if is_reached else seconds * r / 5
        points.append({"seconds": cost, "bytes_up": 10 * r, "bytes_down": 30 * r, "joules": 2.0 * cost, "round": r, "accuracy": good})
    if is_reached:
        points[1]["seconds"] = seconds
    return Record(folder=Path(f"{method}-{seed}"), header={"method": method, "seed": seed, **header}, points=points, summary={"status": status})


def test_rows_by_hand() -> None:
    records = [run("a", 0, 10.0), run("b", 0, 20.0), run("a", 1, 100.0), run("b", 1, 800.0)]
    comparison = build(records, target=TARGET)
    a, b = comparison.rows
    assert (a["method"], a["reached"], b["reached"]) == ("a", "2/2", "2/2")
    assert a["seconds"] == {"mean": 55.0, "low": None, "high": None, "bound": "exact"}
    assert b["ratio"]["seconds"]["mean"] == pytest.approx(4.0)  # sqrt(2 * 8), and not 820/110
    assert b["ratio"]["bytes"]["mean"] == pytest.approx(1.0)
    assert (b["bytes_up"]["mean"], b["bytes_down"]["mean"], b["rounds"]["mean"]) == (10.0, 30.0, 2.0)  # of the five, at the first
    assert b["metrics"]["accuracy"]["mean"] == pytest.approx(0.95)
    assert b["first_crossing"]["reached"] == "2/2"
    assert (comparison.methods, comparison.seeds, comparison.direction) == (("a", "b"), (0, 1), "higher")


def test_the_shape_of_the_json(factory: Factory) -> None:
    records = [factory.run(method, seed) for method in ("fedavg", "mtgc") for seed in range(4)]
    written = json.loads(build(records, target=TARGET).to_json(out=Path("runs/x")), parse_constant=pytest.fail)
    assert set(written) == {"rows", "target", "seeds", "notes", "out"}
    assert (written["seeds"], written["out"], written["target"]) == (4, "runs/x", {"metric": "accuracy", "value": 0.9, "direction": "higher"})
    for row in written["rows"]:
        assert set(row) == {"method", "reached", "seconds", "bytes_up", "bytes_down", "joules", "rounds", "metrics", "ratio", "first_crossing"}
        for cost in ("seconds", "bytes_up", "bytes_down", "joules", "rounds"):
            assert row[cost]["low"] <= row[cost]["mean"] <= row[cost]["high"]
        assert set(row["metrics"]) == {"accuracy", "loss"}
        assert set(row["ratio"]) == {"seconds", "bytes", "joules"}
    assert written["rows"][0]["ratio"]["seconds"] == {"mean": 1.0, "low": 1.0, "high": 1.0, "bound": "exact", "p": None}
    assert 0.0 <= written["rows"][1]["ratio"]["seconds"]["p"] <= 1.0


def test_metrics_that_diverged_are_null_in_json() -> None:
    record = run("a", 0, 10.0)
    record.points[-1]["loss"] = float("nan")
    assert json.loads(build([record]).to_json(), parse_constant=pytest.fail)["rows"][0]["metrics"]["loss"]["mean"] is None


def test_censored_seeds_are_counted_and_said() -> None:
    records = [run("a", 0, 10.0), run("a", 1, 10.0), run("b", 0, 20.0), run("b", 1, 80.0, is_reached=False)]
    comparison = build(records, target=TARGET)
    b = comparison.rows[1]
    assert b["reached"] == "1/2"
    assert b["seconds"] == {"mean": 50.0, "low": None, "high": None, "bound": "at least"}  # (20 + 80)/2, and not 20
    assert b["ratio"]["seconds"]["mean"] == pytest.approx(4.0)  # sqrt(2 * 8)
    assert b["ratio"]["seconds"]["bound"] == "at least"
    assert any(note.startswith("≥") for note in comparison.notes)
    assert not any(note.startswith("≤") for note in comparison.notes)
    turned = build(records, target=TARGET, methods=["b", "a"])
    assert turned.rows[1]["ratio"]["seconds"] == {"mean": pytest.approx(0.25), "low": None, "high": None, "bound": "at most", "p": None}
    assert any(note.startswith("≤") for note in turned.notes)


def test_a_run_that_ended_by_itself_counts_its_budget() -> None:
    budget = {"seconds": 600.0}
    ends = [("done", 600.0), ("failed", 600.0), ("interrupted", 80.0), ("budget", 80.0)]
    for status, seconds in ends:
        row = build([run("a", 0, 80.0, is_reached=False, status=status, budget=budget)], target=TARGET).rows[0]
        assert row["seconds"]["mean"] == seconds, status
        assert row["joules"]["mean"] == 160.0
    assert build([run("a", 0, 80.0, budget=budget)], target=TARGET).rows[0]["seconds"]["mean"] == 80.0


def test_without_a_target_whole_runs_are_compared() -> None:
    records = [run("a", 0, 10.0, is_reached=False), run("b", 0, 30.0, is_reached=False), run("c", 0, 30.0, status="failed")]
    records[1] = replace(records[1], summary={"status": "done", "totals": {"seconds": 40.0}})  # finish() took ten seconds more
    a, b, c = build(records).rows
    assert (a["reached"], a["first_crossing"], a["seconds"]["mean"], b["seconds"]["mean"]) == (None, None, 10.0, 40.0)
    assert b["ratio"]["seconds"]["mean"] == pytest.approx(4.0)
    assert (b["seconds"]["bound"], c["seconds"]["bound"]) == ("exact", "at least")
    assert "c, seed 0: failed at 30 s" in build(records).notes


def test_ratios_are_over_shared_seeds_only() -> None:
    records = [run("a", 0, 10.0), run("a", 1, 20.0), run("b", 1, 40.0), run("b", 2, 5.0), run("c", 7, 1.0)]
    comparison = build(records, target=TARGET)
    assert comparison.rows[1]["ratio"]["seconds"]["mean"] == pytest.approx(2.0)
    assert comparison.rows[2]["ratio"]["seconds"]["mean"] is None
    assert "b and a have different seeds; their ratio is over 1" in comparison.notes
    assert "c and a have different seeds; their ratio is over none" in comparison.notes


def test_a_cost_that_one_seed_lacks_has_no_mean() -> None:
    records = [run("a", 0, 10.0), run("a", 1, 10.0), run("b", 0, 10.0), run("b", 1, 10.0)]
    for point in records[1].points:
        del point["joules"]
    comparison = build(records, target=TARGET)
    assert comparison.rows[0]["joules"]["mean"] is None
    assert comparison.rows[1]["ratio"]["joules"]["mean"] is None
    assert comparison.rows[1]["ratio"]["seconds"]["mean"] == 1.0


def test_p_values_are_adjusted_over_methods(factory: Factory) -> None:
    records = [factory.run(method, seed, round_s=s) for method, s in (("a", 10.0), ("b", 11.0), ("c", 12.0)) for seed in range(5)]
    three, two = build(records, target=TARGET), build([r for r in records if r.header["method"] != "c"], target=TARGET)
    p = {row["method"]: row["ratio"]["seconds"]["p"] for row in three.rows}
    alone = two.rows[1]["ratio"]["seconds"]["p"]
    assert p["a"] is None
    assert p["b"] in (pytest.approx(alone), pytest.approx(2 * alone))
    assert p["b"] >= alone


def test_one_seed_and_one_method() -> None:
    comparison = build([run("a", 0, 10.0)], target=TARGET)
    assert comparison.rows[0]["seconds"]["mean"] == 10.0
    assert comparison.title == "target accuracy ≥ 90 %, 1 seed"
    assert comparison.notes == ()


def test_a_target_to_go_below() -> None:
    record = run("a", 0, 10.0)
    for point in record.points:
        point["loss"] = 1.0 - point["accuracy"]
    comparison = build([record], target=("loss", 0.1))
    assert (comparison.direction, comparison.rows[0]["reached"]) == ("lower", "1/1")
    assert comparison.rows[0]["seconds"]["mean"] == 10.0
    assert build([record], target=("loss", 0.1), direction="higher").rows[0]["seconds"]["mean"] == 0.0


@pytest.mark.parametrize(
    ("records", "options", "words"),
    [
        ([], {}, "got no records"),
        ([run("a", 0, 1.0), run("a", 0, 1.0)], {}, "both a with seed 0"),
        ([run("a", 0, 1.0)], {"target": ("accurcy", 0.9)}, "no record has the metric 'accurcy'; there are accuracy"),
        ([run("a", 0, 1.0)], {"methods": ["b"]}, "no record of method 'b'; there are a"),
        ([replace(run("a", 0, 1.0), header={"method": "a"})], {}, "lacks method or seed"),
    ],
)
def test_what_cannot_be_compared(records: list[Record], options: dict[str, Any], words: str) -> None:
    with pytest.raises(RecordError, match=words):
        build(records, **options)


def test_labels_tell_variants_and_clocks_apart() -> None:
    variants = [run("fedavg", 0, 1.0, label="fedavg:lr=0.1"), run("fedavg", 0, 2.0, label="fedavg:lr=0.2")]
    assert build(variants).methods == ("fedavg:lr=0.1", "fedavg:lr=0.2")
    worlds = build([run("fedavg", 0, 1.0, clock="simulated"), run("fedavg", 0, 2.0, clock="measured")])
    assert worlds.methods == ("fedavg (simulated)", "fedavg (measured)")
    assert worlds.clock == "simulated and measured"
    assert "the records have more than one clock: simulated and measured" in worlds.notes
    assert (
        "the records have more than one scenario: x and y" in build([run("a", 0, 1.0, scenario="x"), run("b", 0, 1.0, scenario={"name": "y"})]).notes
    )


def test_who_was_tuned_is_said() -> None:
    assert "trials of tuning: a 8, b 0" in build([run("a", 0, 1.0, tuned=8), run("b", 0, 1.0)]).notes


def test_frames(factory: Factory, tmp_path: Path) -> None:
    comparison = build([factory.run(method, seed, rounds=40) for method in ("fedavg", "mtgc") for seed in range(2)], target=TARGET)
    assert list(comparison.frame["method"]) == ["fedavg", "mtgc"]
    assert comparison.frame["seconds"][0] == comparison.rows[0]["seconds"]["mean"]
    assert comparison.frame["ratio_seconds"][1] == comparison.rows[1]["ratio"]["seconds"]["mean"]
    assert {"final_accuracy", "seconds_low", "ratio_seconds_p", "first_crossing_seconds"} <= set(comparison.frame.columns)
    assert len(comparison.curves) == 2 * 2 * 41
    assert list(comparison.curves.columns[:3]) == ["method", "seed", "seconds"]
    comparison.to_csv(tmp_path / "rows.csv")
    assert list(pd.read_csv(tmp_path / "rows.csv")["method"]) == ["fedavg", "mtgc"]


def test_importing_the_room_is_cheap() -> None:
    text = """
import sys
import airloom.records.checkpoint, airloom.records.compare, airloom.records.plot, airloom.records.table
print([name for name in ("torch", "pandas", "matplotlib", "scipy", "rich", "safetensors") if name in sys.modules])
"""
    assert subprocess.run([sys.executable, "-c", text], check=True, capture_output=True, text=True).stdout.strip() == "[]"
