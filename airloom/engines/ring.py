"""The ring for real: processes that hold layer windows of one mapped model and pass activations to each other over sockets, token by token.

A worker receives, computes its window, sends to the next, and tells the system which pages its next window will need. The driver watches its workers:
when one dies it is reported, the layers are planned again for those that are left, and decoding goes on after the last token that came. Workers watch
their driver too: a pipe from it closes when it ends, however it ends, and then they end.

Sockets are those of `torch.distributed` (gloo), on the loopback interface. Workers are started with this module as their program.
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from airloom.errors import RunFailed, ScenarioError
from airloom.models.decoder import Decoder
from airloom.plans.placement import Placement

_PATIENCE_S = 120.0  # without a word from the head: far more than a token takes, so that only a hang reaches it

# The watch begins before the imports, which take seconds: the pipe from the driver is closed by the system when the driver is gone. It reads the
# descriptor and not `sys.stdin`, whose lock would turn a worker that ends with an error into one that aborts.
_WORKER = """
import os, threading
threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
from airloom.engines.ring import work
work()
"""

Planner = Callable[[list[str]], Placement]


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
    on_token: Callable[[int, list[int]], None] | None = None,
) -> Decoded:
    """Decode greedily in a ring of processes of this machine.

    Arguments:
        names: one per process; the first is the head.
        plan: the placement for those that are left, in this order.
        prompt: token ids, at least one. tokens: how many to decode.
        hop_delay_s, layer_delay_s: seconds added to each hop, and by process to each layer: slower links and machines than these.
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
            "windows": placement.windows, "hop_delay_s": hop_delay_s,
        }  # fmt: skip
        dead = _attempt(config, placement, [delays[name] for name in left], done, on_token)
        done.died.extend((left[rank], len(done.tokens)) for rank in dead)
        left = [name for rank, name in enumerate(left) if rank not in dead]
    return done


def _attempt(
    config: dict[str, Any], placement: Placement, delays: list[float], done: Decoded, on_token: Callable[[int, list[int]], None] | None
) -> list[int]:
    """Decode until the end or a death; return who died. Device m of the plan is worker m; who holds nothing gets no process."""
    ranks = [m for m, w in enumerate(placement.windows) if w or m == 0]
    told: queue.Queue[str] = queue.Queue()
    with tempfile.TemporaryDirectory() as folder:
        workers: dict[int, subprocess.Popen[str]] = {}
        listener: threading.Thread | None = None
        try:
            for rank, m in enumerate(ranks):
                own = {
                    **config,
                    "rank": rank,
                    "windows": [placement.windows[i] for i in ranks],
                    "store": f"{folder}/store",
                    "layer_delay_s": delays[m],
                }
                workers[m] = _start(own, Path(folder) / f"{m}.txt")
            listener = threading.Thread(target=_listen, args=(workers[0], told), daemon=True)
            listener.start()
            heard_s = time.monotonic()
            while True:
                try:
                    line = told.get(timeout=0.05)
                except queue.Empty:
                    line = ""
                if line and line.startswith("{"):
                    said, heard_s = json.loads(line), time.monotonic()
                    done.tokens.append(said["token"])
                    done.seconds.append(said["seconds"])
                    if on_token is not None:
                        on_token(len(done.tokens), [worker.pid for worker in workers.values()])
                    if said["is_last"]:
                        return []
                killed = [m for m, worker in workers.items() if (code := worker.poll()) is not None and code < 0]
                failed = [m for m, worker in workers.items() if (code := worker.poll()) is not None and code > 0]
                if killed or failed:  # a neighbor of one that was killed fails too: only the killed one is out
                    time.sleep(0.2)
                    killed = [m for m, worker in workers.items() if (worker.poll() or 0) < 0]
                    if not killed and len(failed) == len(workers):
                        raise RunFailed(f"ring: its workers failed: {_last_words(Path(folder) / f'{failed[0]}.txt')}")
                    return killed or failed
                if time.monotonic() - heard_s > _PATIENCE_S:
                    raise RunFailed(f"ring: no token for {_PATIENCE_S:.0f} s")
        finally:
            for worker in workers.values():
                worker.kill()  # what it knows is in the file of weights and in the tokens so far
            for worker in workers.values():
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


# --- a worker -------------------------------------------------------------------------------------------------------------------------


def work() -> None:
    """Be one process of a ring; what to do is the one argument of the command line."""
    config: dict[str, Any] = json.loads(sys.argv[-1])
    torch.set_num_threads(1)
    windows: list[int] = config["windows"]
    rank: int = config["rank"]
    turns: int = config["turns"]
    count = len(windows)
    if count > 1:
        dist.init_process_group("gloo", init_method=f"file://{config['store']}", rank=rank, world_size=count, timeout=timedelta(seconds=_PATIENCE_S))
    decoder = Decoder(Path(config["model"]))
    order = [*[m for m in range(1, count)], 0] if windows[0] else list(range(1, count))
    starts = {m: sum(windows[i] for i in order[: order.index(m)]) for m in order}
    own: list[list[int]] = [[starts[rank] + t * sum(windows) + i for i in range(windows[rank])] for t in range(turns)] if rank in starts else [[]]
    step = _Step(decoder, config, own)
    prompt, out = config["prompt"], list[int]()
    with torch.inference_mode():
        began_s = time.perf_counter()
        for position in range(len(prompt) + config["tokens"] - 1):
            h = torch.empty(1, decoder.shape.width)
            if rank == 0:
                h = decoder.embed(prompt[position] if position < len(prompt) else out[-1])
                step.send(h, order[0])
            for turn in range(turns):
                if windows[rank]:
                    at = order.index(rank)
                    h = step.receive(h, order[at - 1] if turn or at else 0)
                    h = step.compute(h, turn, position)
                    is_end = turn == turns - 1 and at == len(order) - 1
                    step.send(h, 0 if is_end else order[(at + 1) % len(order)])
                    decoder.advise(own[(turn + 1) % turns], True)
            if rank == 0:
                h = h if windows[0] else step.receive(h, order[-1])
                if position >= len(prompt) - 1:
                    out.append(decoder.output(h))
                    now_s = time.perf_counter()
                    said = {"token": out[-1], "seconds": now_s - began_s, "is_last": len(out) == config["tokens"]}
                    began_s = now_s
                    print(json.dumps(said), flush=True)
                else:
                    began_s = time.perf_counter()  # the prompt is not a token
    if count > 1:
        dist.destroy_process_group()


class _Step:
    """What a worker does with an activation; to and from itself it costs nothing."""

    def __init__(self, decoder: Decoder, config: dict[str, Any], layers: list[list[int]]) -> None:
        self.decoder, self.layers, self.rank = decoder, layers, config["rank"]
        self.hop_delay_s, self.layer_delay_s = config["hop_delay_s"], config["layer_delay_s"]

    def send(self, h: torch.Tensor, to: int) -> None:
        if to != self.rank:
            time.sleep(self.hop_delay_s)
            dist.send(h, to)

    def receive(self, h: torch.Tensor, source: int) -> torch.Tensor:
        if source != self.rank:
            h = torch.empty(1, self.decoder.shape.width)
            dist.recv(h, source)
        return h

    def compute(self, h: torch.Tensor, turn: int, position: int) -> torch.Tensor:
        for number in self.layers[turn]:
            if self.layer_delay_s:
                time.sleep(self.layer_delay_s)
            h = self.decoder.layer(number, h, position)
        return h
