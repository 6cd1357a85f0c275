"""A run that is killed at any moment goes on from its folder and ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

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
