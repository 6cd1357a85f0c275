"""The ledger by hand, and the table and the figure of services."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airloom.records.compare import build
from airloom.records.ledger import Ledger, quantile
from airloom.records.record import Record
from airloom.records.table import cells


def answer(latency_s: float, correct: int, **more: Any) -> dict[str, Any]:
    return {"correct": correct, "latency_s": latency_s, "first_s": latency_s / 2, "is_remote": 0, "is_fallback": 0, **more}


def test_by_hand() -> None:
    ledger = Ledger()
    assert ledger.add({"answered": 0, "price": 7.0, "joules": 1.0}) == {} == ledger.add({"loss": 3.0})
    ledger.add(answer(4.0, 1, price=8.0, joules=3.0))
    ledger.add(answer(1.0, 0, price=8.0, joules=3.0, is_remote=1))
    told = ledger.add(answer(2.0, 1, price=10.0, joules=7.0, is_remote=1, is_fallback=1))
    assert told == {
        "answered": 3, "accuracy": 2 / 3, "p50_s": 2.0, "p95_s": 4.0, "first_p50_s": 1.0, "first_p95_s": 2.0, "remote_rate": 2 / 3,
        "fallback_rate": 1 / 3, "joules_each": 2.0, "price_each": 1.0,
    }  # fmt: skip


def test_the_95_percent_wait_of_a_hundred_is_the_95th() -> None:
    assert quantile([float(i) for i in range(1, 101)], 0.95) == 95.0
    assert quantile([3.0], 0.95) == quantile([3.0], 0.0) == 3.0


def record(name: str, seed: int, p95_s: float, accuracy: float) -> Record:
    points = [{"seconds": 9.0, "round": 0, "accuracy": accuracy, "p50_s": 1.0, "p95_s": p95_s, "joules_each": 2.0, "price_each": 0.003}]
    return Record(folder=Path(name), header={"method": name, "seed": seed}, points=points, summary={"status": "done"})


def test_table_and_figure(tmp_path: Path) -> None:
    comparison = build([record(name, seed, p95, 0.5 + seed / 4) for name, p95 in (("slow", 130.0), ("fast", 2.0)) for seed in (0, 1)])
    titles, rows = cells(comparison)
    assert titles == ["service", "accuracy\n(%)", "p50\n(s)", "p95\n(min)", "energy /\nanswer\n(J)", "price /\n1000"]
    by_title = dict(zip(titles, rows[1]))
    assert by_title["accuracy\n(%)"].text == "62.5" and by_title["price /\n1000"].text == "3" and by_title["p50\n(s)"].text == "1"
    assert by_title["p95\n(min)"].is_best and not dict(zip(titles, rows[0]))["p95\n(min)"].is_best
    figure = comparison.plot(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000 and [axis.get_xlabel() for axis in figure.axes] == [
        "wait of 95 % of the users", "energy of the devices per answer", "price of 1000 answers",
    ]  # fmt: skip


def test_a_training_method_beside_a_service_is_compared_as_training() -> None:
    other = Record(
        folder=Path("m"), header={"method": "m", "seed": 0}, points=[{"seconds": 1.0, "round": 0, "accuracy": 0.5}], summary={"status": "done"}
    )
    titles, _ = cells(build([record("s", 0, 1.0, 0.5), other]))
    assert titles[0] == "method"


def test_bad_path_is_named(tmp_path: Path) -> None:
    from airloom.errors import RecordError

    with pytest.raises(RecordError, match="cannot write"):
        build([record("a", 0, 1.0, 0.5)]).plot(tmp_path / "nowhere" / "figure.png")
