"""Commands that look at what runs left: what they write, what they print, and what they refuse."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import airloom
from airloom.cli import main
from airloom.records.record import RecordWriter, load
from tests.tiny_world import tiny

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three rounds."""
    out = tmp_path_factory.mktemp("look") / "run"
    airloom.run("fedavg", scenario=tiny, budget={"rounds": 3}, executor="loop", out=out)
    return out


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: Any) -> tuple[int, str, str]:
        status = main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


def test_trace_writes_a_file(call: Call, folder: Path, tmp_path: Path) -> None:
    status, out, err = call("trace", folder)
    assert (status, out) == (0, "")
    assert "3 rounds in trace.json" in err
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    answer = json.loads(call("trace", folder, "--out", "other.json", "--json")[1])
    assert answer == {"out": "other.json", "rounds": 3, "spans": answer["spans"], "is_cut": False}


def test_explain_says_it_in_words_and_in_numbers(call: Call, folder: Path) -> None:
    status, out, _ = call("explain", folder)
    assert status == 0
    assert out.startswith("fedavg in tiny, seed 0: all 3 rounds took")
    answer = json.loads(call("explain", folder, "--json")[1])
    assert sum(answer["shares"].values()) == pytest.approx(1.0)
    assert answer["sentences"] == out.strip().split("\n")


def test_report_writes_one_page(call: Call, folder: Path, tmp_path: Path) -> None:
    status, out, err = call("report", folder)
    assert (status, out) == (0, "")
    assert "1 run in report.html" in err
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    assert json.loads(call("report", folder, "--out", "other.html", "--json")[1]) == {"out": "other.html", "methods": ["fedavg"], "runs": 1}
    status, _, err = call("report", tmp_path / "nothing")
    assert status == 2 and "found no record" in err


def test_export_writes_what_the_name_says(call: Call, folder: Path, tmp_path: Path) -> None:
    assert call("export", folder, "--out", "table.csv")[0] == 0
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    assert [row["method"] for row in rows] == ["fedavg"]
    assert call("export", folder, "--out", "points.csv", "--curves")[0] == 0
    rows = list(csv.DictReader((tmp_path / "points.csv").read_text().splitlines()))
    assert [float(row["seconds"]) for row in rows] == [point["seconds"] for point in load(folder).points]
    assert call("export", folder, "--out", "table.tex")[0] == 0
    assert (tmp_path / "table.tex").read_text().startswith("\\begin{tabular}")
    status, out, _ = call("export", folder, "--out", "figure.pdf", "--json")
    assert (status, json.loads(out)) == (0, {"out": "figure.pdf", "to": "pdf"})
    assert (tmp_path / "figure.pdf").read_bytes().startswith(b"%PDF")


def test_export_refuses_what_it_does_not_know(call: Call, folder: Path) -> None:
    status, _, err = call("export", folder, "--out", "table.docx")
    assert status == 2 and ".csv" in err
    status, _, err = call("export", folder, "--out", "x", "--to", "clearml")
    assert status == 2 and "tensorboard" in err


def test_watch_looks_once_where_there_is_no_terminal(call: Call, folder: Path, tmp_path: Path) -> None:
    status, out, _ = call("watch", folder)
    assert status == 0
    line = next(line for line in out.splitlines() if line.startswith("fedavg, seed 0"))
    assert "budget" in line and "accuracy" in line and "board" in line  # how it ended, the metric, and who was waited for
    status, _, err = call("watch", tmp_path / "nothing")
    assert status == 2 and "found no record" in err


def test_watch_shows_how_far_a_run_is(call: Call, tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "run", {"method": "m", "seed": 1, "budget": {"rounds": 8.0}}) as writer:
        for i in range(2):
            writer.point({"seconds": 60.0, "round": i, "bytes_up": 0.0, "bytes_down": 0.0, "joules": 5.0, "accuracy": 0.1 + i / 2})
        line = call("watch", tmp_path / "run", "--once")[1]
    assert "25 %" in line and "60 %" in line and "▁█" in line and "5 J" in line  # two of eight rounds


@pytest.mark.parametrize("command", ["trace", "explain"])
def test_a_folder_without_a_timeline_is_an_error_that_says_what_to_do(call: Call, tmp_path: Path, command: str) -> None:
    airloom.run("fedavg", scenario=tiny, budget={"rounds": 1}, executor="loop", out=tmp_path / "run", timeline=0)
    status, _, err = call(command, tmp_path / "run")
    assert status == 2
    assert "--timeline 10" in err
    status, _, err = call(command, tmp_path / "nothing")
    assert status == 2 and "nothing" in err


def test_a_file_in_a_folder_that_is_not_there_is_an_error(call: Call, folder: Path) -> None:
    status, _, err = call("trace", folder, "--out", "no/such/trace.json")
    assert status == 2 and "folder that exists" in err
