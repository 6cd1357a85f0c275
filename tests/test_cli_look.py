"""Commands that look at what runs left: what they write, what they print, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import airloom
from airloom.cli import main
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
