"""The ring for real: processes that hold layer windows of one mapped model and pass activations to each other over sockets, token by token.

A worker receives, computes its window, sends to the next, and tells the system which pages its next window will need. The driver watches its workers:
when one dies it is reported, the layers are planned again for those that are left, and decoding goes on after the last token that came. Workers watch
their driver too: a pipe from it closes when it ends, however it ends, and then they end.

Before that, the same processes measure what a plan needs: layers, what the head does beside them, and a hop from one process to the next.

Sockets are those of `torch.distributed` (gloo), on the loopback interface. What a worker does: `airloom.engines.ringwork`.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airloom.engines.ringwork import PATIENCE_S
from airloom.errors import RunFailed, ScenarioError
from airloom.plans.placement import Placement

# The watch begins before the imports, which take seconds: the pipe from the driver is closed by the system when the driver is gone. It reads the
# descriptor and not `sys.stdin`, whose lock would turn a worker that ends with an error into one that aborts.
_WORKER = """
import os, threading
threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
from airloom.engines.ringwork import work
work()
"""

# Reading ends when the program that holds the other end does, however it ends.
_SWEEPER = "import shutil, sys; sys.stdin.read(); shutil.rmtree(sys.argv[1], ignore_errors=True)"

Planner = Callable[[list[str]], Placement]


@contextmanager
def scratch() -> Generator[Path]:
    """A temporary folder that goes with this program, also when it is killed: a small process waits for its end and removes it."""
    folder = tempfile.mkdtemp(prefix="airloom-ring-")
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", _SWEEPER, folder], stdin=subprocess.PIPE, start_new_session=True):
        yield Path(folder)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What the processes of a ring measured, each a median: seconds of a layer, of the head beside its layers, and of a hop to the next process."""

    layer_s: float
    head_s: float
    hop_s: float


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """What a ring left: tokens, seconds of each since the one before, who died before which token, and the placements in order."""

    tokens: list[int]
    seconds: list[float]
    died: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    placements: list[Placement] = field(default_factory=list[Placement])


def decode(
    model: Path,
    names: Sequence[str],
    plan: Planner,
    prompt: Sequence[int],
    tokens: int,
    *,
    hop_delay_s: float = 0.0,
    layer_delay_s: Sequence[float] | None = None,
    is_prefetched: bool = True,
    on_token: Callable[[int, list[int]], None] | None = None,
) -> Decoded:
    """Decode greedily in a ring of processes of this machine.

    Arguments:
        names: one per process; the first is the head.
        plan: the placement for those that are left, in this order.
        prompt: token ids, at least one. tokens: how many to decode.
        hop_delay_s, layer_delay_s: seconds added to each hop, and by process to each layer: slower links and machines than these.
        is_prefetched: ask for the pages of the next window while others compute.
        on_token: told the number of each token and the process ids of the ring.

    Raises:
        RunFailed: the head cannot be started, or all processes died.
    """
    if not prompt or tokens < 1 or not names:
        raise ScenarioError(f"ring.decode(names={list(names)}, prompt of {len(prompt)}, tokens={tokens}): allowed are at least one of each")
    left, delays = list(names), dict(zip(names, layer_delay_s or [0.0] * len(names), strict=True))
    done = Decoded(tokens=[], seconds=[])
    while len(done.tokens) < tokens:
        if not left:
            raise RunFailed(f"ring: all of {', '.join(names)} died; {len(done.tokens)} of {tokens} tokens were decoded")
        placement = plan(left)
        done.placements.append(placement)
        config = {
            "model": str(model), "prompt": [*prompt, *done.tokens], "tokens": tokens - len(done.tokens), "turns": placement.turns,
            "windows": placement.windows, "hop_delay_s": hop_delay_s, "is_prefetched": is_prefetched,
        }  # fmt: skip
        dead = _attempt(config, placement, [delays[name] for name in left], done, on_token)
        done.died.extend((left[rank], len(done.tokens)) for rank in dead)
        left = [name for rank, name in enumerate(left) if rank not in dead]
    return done


def profile(model: Path, workers: int, position: int = 1) -> Profile:
    """Measure what a token costs in processes that are started and connected as those that will decode.

    Each repeat computes layers and output in the head, while the others sleep as they do between windows, and then sends an activation once around;
    every process computes its share of the layers before it hands it on, as in decoding, so that waking up is measured with what it costs the layers.

    Arguments:
        workers: processes in the ring; one has no hops.
        position: of the token, at least 1: attention takes longer the more came before.
    """
    told: dict[str, Any] = {}
    config: dict[str, Any] = {"model": str(model), "windows": [1] * workers, "profile": {"position": position}}

    def heard(said: dict[str, Any], _: list[int]) -> bool:
        told.update(said)
        return True

    if _run([{**config, "rank": rank} for rank in range(workers)], heard):
        raise RunFailed("ring: a process died while it was profiled; run again")
    return Profile(**told)


def _attempt(
    config: dict[str, Any], placement: Placement, delays: list[float], done: Decoded, on_token: Callable[[int, list[int]], None] | None
) -> list[int]:
    """Decode until the end or a death; return who died. Device m of the plan is worker m; who holds nothing gets no process."""
    held = [m for m, w in enumerate(placement.windows) if w or m == 0]
    configs = [{**config, "rank": rank, "windows": [placement.windows[i] for i in held], "layer_delay_s": delays[m]} for rank, m in enumerate(held)]

    def heard(said: dict[str, Any], processes: list[int]) -> bool:
        done.tokens.append(said["token"])
        done.seconds.append(said["seconds"])
        if on_token is not None:
            on_token(len(done.tokens), processes)
        return said["is_last"]

    return [held[rank] for rank in _run(configs, heard)]


def _run(configs: Sequence[dict[str, Any]], heard: Callable[[dict[str, Any], list[int]], bool]) -> list[int]:
    """Start a worker per configuration and hand on what the head says until `heard` answers that it was the last; return the ranks that died."""
    told: queue.Queue[str] = queue.Queue()
    with scratch() as folder:
        workers: list[subprocess.Popen[str]] = []
        listener: threading.Thread | None = None
        try:
            for rank, config in enumerate(configs):
                workers.append(_start({**config, "store": str(folder / "store")}, folder / f"{rank}.txt"))
            listener = threading.Thread(target=_listen, args=(workers[0], told), daemon=True)
            listener.start()
            heard_s = time.monotonic()
            while True:
                try:
                    line = told.get(timeout=0.05)
                except queue.Empty:
                    line = ""
                if line.startswith("{"):
                    heard_s = time.monotonic()
                    if heard(json.loads(line), [worker.pid for worker in workers]):
                        return []
                killed = [rank for rank, worker in enumerate(workers) if (worker.poll() or 0) < 0]
                failed = [rank for rank, worker in enumerate(workers) if (worker.poll() or 0) > 0]
                if killed or failed:  # a neighbor of one that was killed fails too: only the killed one is out
                    time.sleep(0.2)
                    killed = [rank for rank, worker in enumerate(workers) if (worker.poll() or 0) < 0]
                    if not killed and len(failed) == len(workers):
                        raise RunFailed(f"ring: its workers failed: {_last_words(folder / f'{failed[0]}.txt')}")
                    return killed or failed
                if time.monotonic() - heard_s > PATIENCE_S:
                    raise RunFailed(f"ring: no token for {PATIENCE_S:.0f} s")
        finally:
            for worker in workers:
                worker.kill()  # what it knows is in the file of weights and in the tokens so far
            for worker in workers:
                worker.wait()
                assert worker.stdin is not None
                worker.stdin.close()
            if listener is not None:
                listener.join()  # it closes the pipe


def _start(config: dict[str, Any], errors: Path) -> subprocess.Popen[str]:
    """Start a worker; only the head speaks, and what goes wrong goes into a file, so that no pipe fills up."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0"}
    command = [sys.executable, "-c", _WORKER, json.dumps(config)]
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).resolve().parents[2]), environment.get("PYTHONPATH", "")])
    with open(errors, "w", encoding="utf-8") as file:
        speech = subprocess.PIPE if config["rank"] == 0 else subprocess.DEVNULL
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=speech, stderr=file, text=True, env=environment)


def _listen(worker: subprocess.Popen[str], told: queue.Queue[str]) -> None:
    """Hand on what the head says until it ends."""
    assert worker.stdout is not None
    with worker.stdout as lines:
        for line in lines:
            told.put(line)


def _last_words(errors: Path) -> str:
    lines = errors.read_text(encoding="utf-8").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
