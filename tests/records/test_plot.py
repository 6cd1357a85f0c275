from __future__ import annotations

import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from airloom.errors import RecordError
from airloom.records.compare import build
from tests.records.conftest import Factory

TARGET = ("accuracy", 0.9)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def bold(axis: Any) -> list[Any]:
    return [line for line in axis.lines if line.get_linewidth() == 2.0]


def crosses(axis: Any) -> list[Any]:
    return [line for line in axis.lines if line.get_marker() == "x" and line.get_color() != "white"]


def test_three_panels_all_methods_and_the_target(factory: Factory, tmp_path: Path) -> None:
    comparison = build([factory.run(method, seed) for method in ("fedavg", "mtgc") for seed in range(3)], target=TARGET)
    figure = comparison.plot(tmp_path / "figure.png")
    assert struct.unpack(">I", (tmp_path / "figure.png").read_bytes()[16:20])[0] == 1500  # width in pixels
    labels = [axis.get_xlabel() for axis in figure.axes]
    assert labels == ["simulated time (min)", "traffic, up + down (MB)", "energy of the devices (kJ)"]
    assert texts(figure) == ["phones, target accuracy ≥ 90 %, 3 seeds", "bold: mean, thin: single seeds    × target reached (mean)", "fedavg", "mtgc"]
    assert [text.get_text() for text in figure.axes[-1].texts] == ["target\n90 %"]
    for axis in figure.axes:
        assert len(bold(axis)) == 2
        assert len([line for line in axis.lines if line.get_linewidth() == 0.7]) == 6
        assert len(crosses(axis)) == 2
        assert axis.get_xscale() == "linear"
    cross = crosses(figure.axes[0])[0]
    assert float(cross.get_xdata()[0]) == pytest.approx(comparison.rows[0]["seconds"]["mean"] / 60.0)
    assert float(cross.get_ydata()[0]) == 0.9


@pytest.mark.parametrize("name", ["figure.pdf", "figure.svg"])
def test_other_files(factory: Factory, tmp_path: Path, name: str) -> None:
    build([factory.run()], target=TARGET).plot(tmp_path / name)
    assert (tmp_path / name).stat().st_size > 1000


def test_a_file_that_cannot_be_written(factory: Factory, tmp_path: Path) -> None:
    comparison = build([factory.run()])
    with pytest.raises(RecordError, match=r"cannot write .*figure\.xyz"):
        comparison.plot(tmp_path / "figure.xyz")
    with pytest.raises(RecordError, match="cannot write"):
        comparison.plot(tmp_path / "none" / "figure.png")


def test_a_mean_keeps_the_last_value_of_a_seed_that_ended(factory: Factory) -> None:
    records = [factory.run("a", seed, noise=0.0) for seed in range(2)]
    for record, seconds, best in zip(records, (50.0, 100.0), (0.4, 0.8), strict=True):
        record.points[:] = [{"seconds": 0.0, "round": 0, "accuracy": 0.0}, {"seconds": seconds, "round": 1, "accuracy": best}]
    (line,) = bold(build(records).plot().axes[0])
    x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    assert (x[0], x[-1]) == (0.0, 100.0)
    assert np.interp(50.0, x, y) == pytest.approx(0.4, abs=1e-3)  # (0.4 + 0.4)/2
    assert y[-1] == pytest.approx(0.6)  # (0.4 + 0.8)/2, and not the survivor's 0.8


def test_the_axis_is_logarithmic_where_methods_are_far_apart(factory: Factory) -> None:
    near = build([factory.run("a", round_s=10.0), factory.run("b", round_s=50.0)], target=TARGET)
    far = build([factory.run("c", round_s=10.0), factory.run("d", round_s=1000.0)], target=TARGET)
    assert [axis.get_xscale() for axis in near.plot().axes] == ["linear"] * 3
    assert [axis.get_xscale() for axis in far.plot().axes] == ["log", "linear", "linear"]


def test_censored_methods_are_named_and_their_seeds_crossed_singly(factory: Factory) -> None:
    records = [factory.run("a", seed, best=0.95 if seed else 0.7) for seed in range(3)] + [factory.run("b", seed, best=0.6) for seed in range(3)]
    figure = build(records, target=TARGET).plot()
    assert texts(figure)[1:] == [
        "bold: mean, thin: single seeds    × target reached (mean; small: single seeds)",
        "a (2 of 3 reached)",
        "b (0 of 3 reached)",
    ]
    (cross,) = crosses(figure.axes[0])
    assert len(cross.get_xdata()) == 2


def test_one_seed_has_no_thin_lines(factory: Factory) -> None:
    figure = build([factory.run()]).plot()
    assert texts(figure) == ["phones, 1 seed", "", "fedavg"]
    assert all(len(axis.lines) == 1 for axis in figure.axes)


def test_a_cost_without_data_has_no_panel(factory: Factory) -> None:
    record = factory.run()
    points = [{name: value for name, value in point.items() if name != "joules"} for point in record.points]
    assert len(build([replace(record, points=points)]).plot().axes) == 2
    with pytest.raises(RecordError, match="no record has evaluations"):
        build([replace(record, points=[])]).plot()


def test_many_methods_get_more_rows_of_legend_and_other_dashes(factory: Factory) -> None:
    names = [f"method_number_{i}" for i in range(9)]
    comparison = build([factory.run(name, rounds=10) for name in names])
    figure = comparison.plot()
    handles = [text for text in figure.texts if text.get_text() in names]
    right = max(text.get_window_extent().x1 for text in handles)
    assert right < 1500 and len({text.get_position()[1] for text in handles}) > 1
    top = figure.axes[0].get_window_extent().y1
    assert min(text.get_window_extent().y0 for text in handles) > top
    styles = {(line.get_color(), line.get_linestyle()) for line in bold(figure.axes[0])}
    assert len(styles) == 9


def test_a_mean_stops_where_a_seed_diverges(factory: Factory) -> None:
    records = [factory.run(seed=seed, rounds=20, round_s=10.0) for seed in range(2)]
    for point in records[0].points[10:]:
        point["loss"] = float("nan") if point["round"] % 2 else float("inf")
    figure = build(records, metric="loss").plot()
    (line,) = bold(figure.axes[0])
    x, y = np.asarray(line.get_xdata()) * 60.0, np.asarray(line.get_ydata())
    assert np.isnan(y[x > records[0].points[10]["seconds"]]).all()
    assert np.isfinite(y[x < records[0].points[9]["seconds"]]).all()


def test_a_seed_without_evaluations_leaves_no_mean(factory: Factory) -> None:
    records = [factory.run(seed=seed) for seed in range(3)]
    figure = build([*records[:2], replace(records[2], points=[])]).plot()
    assert all(bold(axis) == [] for axis in figure.axes)


def test_a_cost_that_is_always_zero_has_no_panel(factory: Factory) -> None:
    assert [axis.get_xlabel() for axis in build([factory.run(round_bytes=0.0, round_j=0.0)]).plot().axes] == ["simulated time (min)"]


def test_a_loss_over_decades_is_drawn_on_a_logarithmic_axis(factory: Factory) -> None:
    record = factory.run()
    for r, point in enumerate(record.points):
        point["loss"] = 10.0 / (1 + r) ** 2
    figure = build([record], target=("loss", 0.1)).plot()
    assert figure.axes[0].get_yscale() == "log"


def test_pyplot_is_never_touched(factory: Factory) -> None:
    factory.run()
    text = f"""
import sys
from airloom.records.compare import build
from airloom.records.record import load_many
build(load_many({str(factory.folder)!r})).plot()
print("matplotlib.pyplot" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", text], check=True, capture_output=True, text=True).stdout.strip() == "False"
