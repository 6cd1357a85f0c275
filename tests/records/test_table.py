from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from airloom.records.compare import Comparison, build
from airloom.records.table import cells, human, metric_text, number
from tests.records.conftest import Factory


@pytest.mark.parametrize(
    ("cost", "value", "text"),
    [
        ("seconds", 0.0, "0 s"),
        ("seconds", 2e-5, "0.02 ms"),
        ("seconds", 0.25, "250 ms"),
        ("seconds", 42.0, "42 s"),
        ("seconds", 119.4, "119 s"),
        ("seconds", 119.9, "2 min"),
        ("seconds", 7199.0, "2 h"),
        ("seconds", 86400.0, "24 h"),
        ("seconds", 3 * 86400.0, "3 d"),
        ("bytes_up", 999.0, "999 B"),
        ("bytes_down", 1500.0, "1.5 kB"),
        ("bytes", 999_499.0, "999 kB"),
        ("bytes", 999_500.0, "1 MB"),
        ("bytes", 1.234e9, "1.23 GB"),
        ("joules", 0.0, "0 J"),
        ("joules", 999.9, "1 kJ"),
        ("joules", 3.6e6, "3.6 MJ"),
        ("rounds", 41.5, "41.5"),
        ("rounds", None, "-"),
    ],
)
def test_units_for_people(cost: str, value: float | None, text: str) -> None:
    assert human(cost, value) == text


def test_numbers_have_three_digits() -> None:
    assert [number(value) for value in (0.0, 9.999, 99.95, 0.001234, -2.5, 123456.0, float("nan"))] == [
        "0",
        "10",
        "100",
        "0.00123",
        "-2.5",
        "123000",
        "nan",
    ]


def test_metrics_for_people() -> None:
    assert [metric_text(name, 0.912) for name in ("accuracy", "accuracy_p10", "success_rate", "loss", "rated")] == [
        "91.2 %",
        "91.2 %",
        "91.2 %",
        "0.912",
        "0.912",
    ]
    assert metric_text("accuracy", None) == "-"


def comparison(factory: Factory, seeds: int) -> Comparison:
    runs = [("fedavg", 10.0, 0.95), ("mtgc", 5.0, 0.95), ("sequential_fl", 30.0, 0.7)]
    return build(
        [factory.run(method, s, round_s=round_s, best=best) for s in range(seeds) for method, round_s, best in runs], target=("accuracy", 0.9)
    )


def shown(what: Comparison, width: int) -> str:
    text = io.StringIO()
    Console(file=text, width=width).print(what.table())
    return text.getvalue()


def test_the_table_fits_a_terminal(factory: Factory) -> None:
    text = shown(comparison(factory, 3), 80)
    lines = text.splitlines()
    assert "phones, target accuracy ≥ 90 %, 3 seeds" in lines[0]
    assert sum(line.startswith(("fedavg", "mtgc", "sequential_fl")) for line in lines) == 3
    assert "0/3" in text and "≥" in text
    assert "3 seeds or fewer give no intervals" in text
    assert max(map(len, lines)) <= 80


def test_intervals_stand_below_the_means(factory: Factory) -> None:
    text = shown(comparison(factory, 4), 120)
    assert "±" in text and "p < 0.001" in text


def test_the_best_of_a_column_is_marked_and_censored_rows_never_are(factory: Factory) -> None:
    titles, rows = cells(comparison(factory, 3))
    time = next(i for i, title in enumerate(titles) if title.startswith("time\n("))
    assert [row[time].is_best for row in rows] == [False, True, False]
    up = next(i for i, title in enumerate(titles) if title.startswith("up"))
    assert not rows[2][up].is_best and rows[2][up].text.startswith("≥ ")
    _, alone = cells(comparison(Factory(factory.folder / "alone"), 1))
    assert all(not cell.below for row in alone for cell in row)


def test_names_are_not_taken_for_markup(factory: Factory) -> None:
    one = build([factory.run("fedavg", header={"label": "fedavg[bold]:lr=[0.1]"})], target=("accuracy", 0.9))
    assert "fedavg[bold]:lr=[0.1]" in shown(one, 160)


def test_latex(factory: Factory) -> None:
    lines = comparison(factory, 4).to_latex().splitlines()
    assert lines[0] == r"\begin{tabular}{lrrrrrrrr}" and lines[-1] == r"\end{tabular}"
    assert all(line.count("&") == 8 for line in lines if "&" in line)
    assert any(line.startswith(r"sequential\_fl & 0/4 & $\ge$ ") for line in lines)
    assert any(r"\textbf{" in line for line in lines)
    assert "%" not in "".join(lines).replace(r"\%", "")


def test_values_that_are_missing_are_dashes(factory: Factory) -> None:
    record = factory.run("fedavg", rounds=10)
    points = [{name: value for name, value in point.items() if name != "joules"} for point in record.points]
    titles, rows = cells(build([replace(record, points=points, summary={"status": "done"})]))
    assert rows[0][titles.index("energy")].text == "-"
    assert rows[0][titles.index("reached")].text == "-"
