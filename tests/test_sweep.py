"""Sweeps: axes, winners, and a map over two rates whose winners follow by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from airloom import sweep as sweeping
from airloom.cli import main
from airloom.errors import ScenarioError
from airloom.records.compare import Comparison
from airloom.records.crossover import Crossover, Spot
from airloom.sweep import Axis, best, sweep

TINY = str(Path(__file__).parent / "tiny_world.py")


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Comparison, "plot", lambda self, path: Path(path).touch())  # figures of comparisons have tests of their own


def mean(value: float | None, bound: str = "exact") -> dict[str, Any]:
    return {"mean": value, "low": None, "high": None, "bound": bound}


# --- axes -----------------------------------------------------------------------------------------------------------------------------


def test_values_of_an_axis() -> None:
    # seven steps over two decades: factors of 10^(2/6)
    assert Axis.of("link.rate_bps=1e6:1e8:7").values == pytest.approx([1e6 * 10 ** (i / 3) for i in range(7)])
    assert Axis.of("link.gain_db=-3:3:3:linear").values == (-3.0, 0.0, 3.0)
    assert Axis.of("scenario.devices=4,8").values == (4, 8)
    assert all(isinstance(value, int) for value in Axis.of("scenario.devices=4,8").values)


@pytest.mark.parametrize("text", ["lr", "lr=", "=1", "lr=a,b", "lr=1:2", "lr=1:2:1", "lr=1:2:3:log", "lr=0:1:3", "lr=nan,1"])
def test_axes_that_are_refused(text: str) -> None:
    with pytest.raises(ScenarioError, match="--over"):
        Axis.of(text)


# --- winners --------------------------------------------------------------------------------------------------------------------------


def test_who_wins() -> None:
    # c is cheapest, but one seed of it never got there; b misses the target as well and has spent at least 3
    means = {"a": mean(2.0), "b": mean(3.0, "at least"), "c": mean(1.0, "at least")}
    assert best(means, {"a": "2/2", "b": "1/2", "c": "1/2"}) == ("a", 1.5)
    assert best(means, {"a": "1/2", "b": "1/2", "c": "0/2"}) == (None, None)
    assert best({"a": mean(2.0), "b": mean(1.0)}, {"a": None, "b": None}) == ("b", 2.0)  # no target: whole runs


def test_changes_on_top_of_swept_fields_add_or_multiply() -> None:
    assert sweeping._both({}, {"link.gain_db": 5.0}, {"link.gain_db": -3.0}) == {"link.gain_db": 2.0}
    assert sweeping._both({"device.speed_factor": "3"}, {}, {"device.speed_factor": 2.0}) == {"device.speed_factor": 6.0}


# --- a map ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_sweep_compares_at_every_point_and_goes_on_where_it_was(tmp_path: Path) -> None:
    said: list[str] = []

    def made() -> Crossover:
        return sweep(
            ["fedavg:local_steps=100", "sequential_fl:local_steps=1"],
            [Axis.of("link.rate_bps=1e4,1e9")],
            scenario=TINY, seeds=1, set={"device.speed_factor": 2.5e-4}, target=None,
            budget={"rounds": 1}, workers=1, out=tmp_path / "sweep", tell=said.append,
        )  # fmt: skip

    # 610 numbers take 2 s at 10 kbit/s and nothing at 1 Gbit/s; a step of 16 samples some 40 ms at 1.5 MFLOP/s. fedavg sends down and up in
    # parallel and computes 100 steps: about 4 + 4 s and 4 s; sequential_fl goes to four boards in turn, one step each: about 16 s and 0.4 s
    found = made()
    assert [spot.winner for spot in found.spots] == ["fedavg", "sequential_fl"]
    assert all(spot.ratio is not None and spot.ratio > 1 for spot in found.spots)
    assert [list(spot.variants) for spot in found.spots] == [["+3 dB", "-3 dB", "2x compute"]] * 2
    assert all(spot.kept == 3 for spot in found.spots)
    written = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert written["over"] == [{"field": "link.rate_bps", "values": [1e4, 1e9]}]
    assert (tmp_path / "sweep" / "sweep.png").stat().st_size > 10_000
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("record.jsonl")}
    assert len(times) == 2 * 2 * 4  # points, methods, as it is and three variants
    again = made()
    assert again == found and {path: path.stat().st_mtime_ns for path in tmp_path.rglob("record.jsonl")} == times
    assert len(said) == 4


def test_maps_over_two_fields_are_drawn(tmp_path: Path) -> None:
    spots = tuple(
        Spot(
            at={"link.rate_bps": x, "scenario.devices": y},
            winner=None if x == 1 and y == 2 else "a" if x > y else "b",
            ratio=2.0,
            means={"a": mean(1.0), "b": mean(2.0)},
            variants={"+3 dB": "a"},
        )
        for x in (1, 10)
        for y in (2, 4)
    )
    axes = (("link.rate_bps", (1, 10)), ("scenario.devices", (2, 4)))
    found = Crossover(methods=("a", "b"), axes=axes, cost="seconds", scenario="s", target=("accuracy", 0.9), seeds=3, spots=spots)
    figure = found.plot(tmp_path / "map.png")
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["nobody\n0/1", "2x\n0/1", "2x\n1/1", "2x\n1/1"]
    assert "no method reached" in found.lines()[0] and "(+3 dB: a)" in found.lines()[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fedavg", "--over", "lr=0.1,0.2"], "two methods"),
        (["fedavg", "mtgc", "--over", "lr=1,2", "--over", "lr=3,4"], "different fields"),
        (["fedavg", "mtgc", "--over", "lr=1,2", "--cost", "fun"], "allowed are seconds"),
        (["fedavg", "mtgc", "--over", "link.color=1,2"], "no such field"),
    ],
)
def test_bad_input_on_the_command_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", *arguments, "--scenario", TINY]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
