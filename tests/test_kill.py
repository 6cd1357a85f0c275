"""A run that is killed at any moment goes on from its folder and ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from airloom.records.record import load

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="signals as on POSIX")]

WORDS = ["run", "fedbuff", "--scenario", "phones", "--set", "scenario.devices=8", "--set", "scenario.base_stations=2", "--budget", "rounds=60"]


def airloom(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "airloom", *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


def rounds_written(folder: Path) -> int:
    record = folder / "run" / "record.jsonl"
    return record.read_bytes().count(b'"kind":"point"') + record.read_bytes().count(b'"kind": "point"') if record.is_file() else 0


@pytest.mark.parametrize("executor", ["loop", "pool"])
def test_kill_and_resume_end_with_the_same_digest(executor: str, tmp_path: Path) -> None:
    common = [*WORDS, "--checkpoint-every", "0", "--executor", executor, "--json"]
    whole = airloom(tmp_path, *common, "--out", "whole")
    output, errors = whole.communicate(timeout=300)
    assert whole.returncode == 0, errors.decode()
    expected = json.loads(output)["digest"]

    words = [*common, "--out", "run"]
    for least in (0, 7, 25, 45):
        process = airloom(tmp_path, *words)
        until = time.monotonic() + 120
        while rounds_written(tmp_path) < least and process.poll() is None and time.monotonic() < until:
            time.sleep(0.005)
        if least == 0:
            time.sleep(2.5)  # somewhere in start-up or the first rounds
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if (tmp_path / "run" / "record.jsonl").is_file():
            words = ["resume", "run", "--json"]
    last = airloom(tmp_path, *words)
    output, errors = last.communicate(timeout=300)
    assert last.returncode == 0, errors.decode()
    assert json.loads(output)["digest"] == expected


def test_a_comparison_whose_parent_is_killed_goes_on_where_its_workers_were(tmp_path: Path) -> None:
    words = ["compare", "fedavg", "fedbuff", "--scenario", "phones", "--seeds", "1", "--workers", "2", "--json", "--target", "none"]
    words += [
        "--set",
        "scenario.devices=8",
        "--set",
        "scenario.base_stations=2",
        "--set",
        "local_steps=5",
        "--budget",
        "rounds=60",
        "--checkpoint-every",
        "0",
    ]
    whole = airloom(tmp_path, *words, "--out", "whole")
    _, errors = whole.communicate(timeout=300)
    assert whole.returncode == 0, errors.decode()

    parent = airloom(tmp_path, *words, "--out", "run")
    until = time.monotonic() + 120
    records = [tmp_path / "run" / name / "record.jsonl" for name in ("fedavg-0", "fedbuff-0")]
    while not all(record.is_file() and record.read_bytes().count(b"point") > 5 for record in records) and time.monotonic() < until:
        time.sleep(0.005)
    workers = psutil.Process(parent.pid).children(recursive=True)
    parent.kill()
    parent.communicate()
    assert psutil.wait_procs(workers, timeout=60)[1] == []  # they notice, and close their records
    assert {load(record.parent).status for record in records} == {"interrupted"}

    again = airloom(tmp_path, "resume", "run", "--json")
    _, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors.decode()
    for name in ("fedavg-0", "fedbuff-0"):
        digests = {(load(tmp_path / folder / name).summary or {})["digest"] for folder in ("whole", "run")}
        assert len(digests) == 1
