"""The real ring: processes, sockets, mapped weights; tokens bit for bit those of one process; a death is survived."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from airloom.cli import main
from airloom.commands.ring import _ended_in_order
from airloom.engines.ring import decode, profile
from airloom.errors import RunFailed, ScenarioError
from airloom.models.decoder import Decoder, Shape, _drawn, greedy, write_decoder
from airloom.plans.placement import Placement
from airloom.scenarios.home import HOSTS, ring_of, sizes
from tests.models.test_decoder import small

PROMPT, TOKENS = [1, 4, 2], 6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small(tmp_path_factory.mktemp("ring") / "model.safetensors")


def placed(turns: int, *windows: int) -> Placement:
    return Placement(turns=turns, windows=windows, gpu_windows=(0,) * len(windows), token_s=0.0, planner="given")


def even(names: list[str]) -> Placement:
    shares = [6 // len(names) + (m < 6 % len(names)) for m in range(len(names))]
    return placed(1, *shares)


def test_three_processes_and_two_turns_give_the_tokens_of_one_process(model: Path) -> None:
    done = decode(model, ["a", "b", "c"], lambda _: placed(2, 1, 1, 1), PROMPT, TOKENS)
    assert done.tokens == greedy(Decoder(model), PROMPT, TOKENS)
    assert len(done.seconds) == TOKENS and min(done.seconds) > 0 and done.died == []


@pytest.mark.slow
@pytest.mark.parametrize("given", [placed(1, 2, 2, 2), placed(3, 1, 1), placed(1, 0, 4, 2), placed(3, 1, 0, 1), placed(6, 1), placed(1, 1, 5)])
def test_every_split_gives_the_tokens_of_one_process(model: Path, given: Placement) -> None:
    done = decode(model, ["a", "b", "c"][: len(given.windows)], lambda _: given, PROMPT, TOKENS)
    assert done.tokens == greedy(Decoder(model), PROMPT, TOKENS)


@pytest.mark.slow
def test_a_worker_that_dies_is_reported_and_planned_around(model: Path) -> None:
    killed: list[int] = []

    def kill(count: int, processes: list[int]) -> None:
        if count == 2 and not killed:
            killed.append(processes[1])
            os.kill(processes[1], signal.SIGKILL)

    # 0.02 s per layer: the ring is in the middle of a token when the news comes
    done = decode(model, ["a", "b"], even, PROMPT, TOKENS, layer_delay_s=[0.02, 0.02], on_token=kill)
    assert done.tokens == greedy(Decoder(model), PROMPT, TOKENS)
    assert [name for name, _ in done.died] == ["b"] and 2 <= done.died[0][1] < TOKENS
    assert [p.windows for p in done.placements] == [(3, 3), (6,)]


_DRIVER = """
import sys
from pathlib import Path
from airloom.engines.ring import decode
from tests.engines.test_ring import even
decode(Path(sys.argv[1]), ["a", "b"], even, [1], 20, layer_delay_s=[0.5, 0.5], on_token=lambda _, pids: print(*pids, flush=True))
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_and_folders_go_with_their_driver(model: Path, number: signal.Signals, tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    driver = subprocess.Popen([sys.executable, "-c", _DRIVER, str(model)], stdout=subprocess.PIPE, text=True, env=environment)
    assert driver.stdout is not None
    with driver, driver.stdout as lines:
        workers = [psutil.Process(int(pid)) for pid in lines.readline().split()]  # both are in the middle of a token: 3 s of delays each
        assert len(workers) == 2 and [path.name for path in tmp_path.glob("*/*.txt")]
        driver.send_signal(number)
        driver.wait()
    _, alive = psutil.wait_procs(workers, timeout=30)  # without the watch they wait for a neighbor, up to 120 s
    assert not alive
    waited_s = 0.0
    while (left := list(tmp_path.iterdir())) and waited_s < 30:
        time.sleep(0.05)
        waited_s += 0.05
    assert not left


@pytest.mark.slow
def test_a_profile_has_hops_where_there_are_neighbors(model: Path) -> None:
    alone, three = profile(model, 1, position=4), profile(model, 3)
    assert alone.hop_s == 0.0 < min(alone.layer_s, alone.head_s, three.layer_s, three.head_s)
    with pytest.raises(RunFailed, match="No such file"):
        profile(model.with_name("nothing"), 1)


@pytest.mark.slow
def test_when_all_die_the_run_fails(model: Path) -> None:
    with pytest.raises(RunFailed, match="all of a died; 1 of 6 tokens"):
        decode(model, ["a"], even, PROMPT, TOKENS, layer_delay_s=[0.05], on_token=lambda _, processes: os.kill(processes[0], signal.SIGKILL))


@pytest.mark.slow
def test_a_worker_that_cannot_begin_says_why(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="No such file"):
        decode(tmp_path / "nothing", ["a"], even, PROMPT, TOKENS)
    with pytest.raises(ScenarioError, match="at least one of each"):
        decode(tmp_path / "nothing", ["a"], even, [], TOKENS)


def test_sigterm_ends_the_command_in_order() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as end, _ended_in_order():
        os.kill(os.getpid(), signal.SIGTERM)
    assert end.value.code == 143 and signal.getsignal(signal.SIGTERM) == before


def test_the_command_leaves_a_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run"
    options = ["--set", "tokens=3", "--set", "ring.layers=13", "--set", "ring.prompt=1 2", "--out", str(file), "--json"]
    assert main(["run", "prima", "--engine", "ring", "--workers", "1", *options]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["clock"] == "measured" and len(said["tokens"]) == 3 and said["windows"] == [13] and said["token_s"] > 0
    lines = [json.loads(line) for line in (file / "record.jsonl").read_text().splitlines()]
    assert [line["token"] for line in lines if line["kind"] == "point"] == said["tokens"]
    assert lines[-1]["predicted_s"] == said["predicted_s"]
    measured = said["profile"]  # 13 layers in turn, then what the head does beside them; no hops
    assert said["predicted_s"] == pytest.approx(13 * measured["layer_s"] + measured["head_s"]) and measured["hop_s"] == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "ring.hops=3"], "ring.hops: allowed are ring.model"),
        (["--set", "ring.layer_delay_s=1,2"], "got 2 numbers; allowed are one, or 3"),
        (["--set", "ring.prompt=99999"], "allowed are ids below 512"),
        (["--set", "ring.layers=5"], "the model has 12"),
    ],
)
def test_bad_input_is_one_line(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "prima", "--engine", "ring", *options]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_only_prima_goes_round_a_ring(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "cascade", "--engine", "ring"]) == 2
    assert "allowed is prima" in capsys.readouterr().err


def test_a_profile_is_a_computer_of_the_home(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "me.json"
    assert main(["doctor", "--profile", str(file), "--link", "300e6:0.005", "--watts", "20"]) == 0
    assert main(["plan", "prima", "--set", f"scenario.profile={file}", "--set", "scenario.model=8b", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["count"] == 32
    capsys.readouterr()
    assert main(["doctor", "--profile", str(file), "--link", "fast", "--watts", "20"]) == 2
    assert "RATE:LATENCY" in capsys.readouterr().err
    assert main(["doctor", "--profile", str(file), "--link", "300e6:0.005"]) == 2
    assert "--watts: got none" in capsys.readouterr().err


def test_what_software_takes_is_part_of_a_hop() -> None:
    model, flops, output_flops = sizes("8b", 1024)
    plain, slow = (ring_of([replace(host, software_s=s) for host in HOSTS[:2]], model, flops, output_flops) for s in (0.0, 0.25))
    assert [b.hop_s - a.hop_s for a, b in zip(plain, slow, strict=True)] == pytest.approx([0.25, 0.25])


def test_the_drawn_model_has_nine_million_weights() -> None:
    drawn = _drawn(Shape(256, 688, 12, 8, 8, 512, 256), 0)
    assert 9.4e6 < sum(value.numel() for value in drawn.values()) < 10e6


def test_writing_fewer_layers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="the model has 12"):
        write_decoder(tmp_path / "m", None, layers=3)
