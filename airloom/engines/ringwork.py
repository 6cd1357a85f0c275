"""A worker of the ring: a process that takes its windows of every token, or measures what a plan needs to know."""

from __future__ import annotations

import json
import sys
import time
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist

from airloom.models.decoder import Decoder

PATIENCE_S = 120.0  # without a word from a neighbor: far more than a token takes, so that only a hang reaches it
_LAYERS = 16  # of them are profiled: a model may be larger than the memory (ours)
_REPEATS = 25  # of a profile, of which the median counts, as it does for tokens (ours)


def work() -> None:
    """Be one process of a ring; what to do is the one argument of the command line."""
    config: dict[str, Any] = json.loads(sys.argv[-1])
    torch.set_num_threads(1)
    count, rank = len(config["windows"]), config["rank"]
    if count > 1:
        dist.init_process_group("gloo", init_method=f"file://{config['store']}", rank=rank, world_size=count, timeout=timedelta(seconds=PATIENCE_S))
    decoder = Decoder(Path(config["model"]))
    with torch.inference_mode():
        if "profile" in config:
            _measure(decoder, count, rank, **config["profile"])
        else:
            _decode(decoder, config)
    if count > 1:
        dist.destroy_process_group()


def _decode(decoder: Decoder, config: dict[str, Any]) -> None:
    """Take the own windows of every token."""
    windows: list[int] = config["windows"]
    rank: int = config["rank"]
    turns: int = config["turns"]
    count = len(windows)
    order = [*range(1, count), 0] if windows[0] else list(range(1, count))
    starts = {m: sum(windows[i] for i in order[: order.index(m)]) for m in order}
    own: list[list[int]] = [[starts[rank] + t * sum(windows) + i for i in range(windows[rank])] for t in range(turns)] if rank in starts else [[]]
    step = _Step(decoder, config, own)
    prompt, out = config["prompt"], list[int]()
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
                if config["is_prefetched"] and count > 1:  # alone, nobody computes meanwhile
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


def _measure(decoder: Decoder, count: int, rank: int, position: int) -> None:
    """Measure a profile; the head says it."""
    layers = min(decoder.shape.layers, _LAYERS)
    share = max(1, layers // count)
    h, passed_s, headed_s, round_s = decoder.embed(0), list[float](), list[float](), list[float]()
    for number in range(layers):
        decoder.layer(number, h, 0)  # position 0 makes the cache
    for _ in range(_REPEATS + 1):
        if rank == 0:
            began_s = time.perf_counter()
            h = decoder.embed(0)
            embedded_s = time.perf_counter()
            for number in range(layers):  # in turn, so that each comes from memory and not from the processor's cache
                h = decoder.layer(number, h, position)
            computed_s = time.perf_counter()
            print(f"one more {decoder.output(h)}", flush=True)  # a token is said, too, and wakes whoever listens
            said_s = time.perf_counter()
            passed_s.append(computed_s - embedded_s)
            headed_s.append(embedded_s - began_s + said_s - computed_s)
        if count > 1:
            began_s = time.perf_counter()
            if rank == 0:
                dist.send(h, 1)
            dist.recv(h, (rank - 1) % count)
            for number in range(rank * share, (rank + 1) * share):  # neighbors sleep as long as in decoding: a longer sleep takes longer to wake from
                decoder.layer(number % layers, h, position)
            if rank:
                dist.send(h, (rank + 1) % count)
            round_s.append(time.perf_counter() - began_s)
    if rank == 0:
        layer_s = median(passed_s[1:]) / layers  # the first warms up
        hop_s = max(0.0, median(round_s[1:]) / count - share * layer_s) if round_s else 0.0
        print(json.dumps({"layer_s": layer_s, "head_s": median(headed_s[1:]), "hop_s": hop_s}), flush=True)


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
