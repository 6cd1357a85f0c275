"""Applications on five boards of unequal speed that share one pretrained model; each holds the examples of one task, and some tasks build on others.

The base stays at the boards; rank rows of adapters travel (and examples, where a method lets them). The model is a small transformer that practices
digits for two seconds when the scenario is first built, or a language model of a local folder. What needs what is the server's fact "needs".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from airloom.errors import ScenarioError
from airloom.models.hf import hf_lora, outputs
from airloom.models.lora import lora
from airloom.network.device import Device
from airloom.network.profiles import CLOUD
from airloom.network.topology import star
from airloom.scenarios.scenario import Scenario
from airloom.tasks import strings
from airloom.tasks.datasets import at_hand
from airloom.tasks.task import Task
from airloom.tasks.tokenizer import beside

SUITED: Mapping[str, Mapping[str, Any]] = {}
EMBEDDED = "transformer of two blocks, practiced on strings"
TARGETS = ("query", "value", "up", "down")
SPEEDS = {"reverse": 1.0, "add": 0.5, "compare": 2.0, "both": 0.25, "max": 1.0}  # of a board, over `speed_flops_per_s` (ours)


def applications(
    *,
    seed: int,
    rows: int = 300,
    rank: int = 10,
    model: str | None = None,
    speed_flops_per_s: float = 1e9,
    rate_bps: float = 1e6,
    latency_s: float = 0.02,
) -> Scenario:
    """Five boards around a server, one task each.

    Arguments:
        seed: of the world: the questions of training. Those of validation and tests are always the same.
        rows: questions of each task.
        rank: of the adapters, for all tasks together; at least 5 for one rank row each.
        model: folder of a causal model of transformers, or file of llama2.c, with its tokenizer, maybe within the data folder; None: the small one.
        speed_flops_per_s: of the boards of "reverse" and "max"; the others have half, double and a quarter of it.
        rate_bps, latency_s: of each board's link, both ways.

    Watts, memory and links are ours: no source has such a fleet.
    """
    if rows < 10:
        raise ScenarioError(f"applications(rows={rows}): allowed: at least 10 questions per task")
    names = list(strings.TASKS)
    boards = {
        name: Device(
            profile=f"board of {name}", speed_flops_per_s=speed_flops_per_s * SPEEDS[name], efficiency=1.0, memory_bytes=1e9, baseline_bytes=0.3e9,
            power_w=4.0, idle_power_w=1.0,
        )
        for name in names
    }  # fmt: skip
    network = star(boards, root=CLOUD, up_bps=rate_bps, down_bps=rate_bps, latency_s=latency_s, framing_bytes=64, detect_s=1.0)
    root = replace(network.places[network.root], facts={"needs": {v: list(u) for v, u in strings.NEEDS.items()}})
    network = replace(network, places={**network.places, network.root: root})
    data, own = strings.strings(count=rows, seed=seed), {name: name for name in names}
    if model is None:
        values = strings.pretrained()
        spec = lora(values.spec, rank=rank, alpha=2.0 * rank, targets=TARGETS, values=values)
    else:
        where = at_hand(model)
        spec = hf_lora(where, rank=rank, alpha=2.0 * rank)
        data = strings.spelled(data, beside(where), outputs(spec))
    shards = {name: np.arange(i * rows, (i + 1) * rows) for i, name in enumerate(names)}
    task = Task(name="applications", dataset=data, model=spec, shards=shards, natural=own, seed=seed)
    return Scenario(
        name="applications", network=network, task=task, suited=SUITED, target=("accuracy", 0.8), budget={"rounds": 5}, seed=seed,
        fields={"rows": rows, "rank": rank, "model": EMBEDDED if model is None else Path(model).name},
    )  # fmt: skip
