"""Phones that fine-tune a pretrained model: one cell, three classes of memory, LoRA pairs of a rank that not all of them can train.

The base stays at the phones; adapters and the head travel. Without a folder with a language model, the model is the small transformer that comes with
airloom, pretrained on the digits 0 to 4 when the scenario is first built; the phones learn all ten.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from airloom.errors import ScenarioError
from airloom.models.hf import hf_lora, outputs
from airloom.models.lora import lora
from airloom.models.module import ModelSpec
from airloom.models.price import peak_bytes
from airloom.models.submodel import ranks
from airloom.network.access import CellPlan, cells
from airloom.network.profiles import CLOUD, EDGE_BOX
from airloom.network.profiles import phones as draw_phones
from airloom.scenarios.phones import enough
from airloom.scenarios.scenario import Scenario
from airloom.tasks import Dataset, TaskSettings, load, load_text, make_task
from airloom.tasks.datasets import at_hand
from airloom.tasks.embedded import EMBEDDED, embedded
from airloom.tasks.language import TEXT_FILES
from airloom.tasks.task import Task
from airloom.tasks.tokenizer import beside

SUITED: Mapping[str, Mapping[str, Any]] = {}

SHARES = (4, 2, 1)  # a phone of a class has memory for rank / 4, rank / 2 or the whole rank, and not for twice that (ours)
TARGETS = ("query", "value", "up", "down")  # as in the experiments of FSLoRA: attention's query and value, and the feed-forward layers
LLAMA_TARGETS = ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj")


def lora_phones(
    *,
    seed: int,
    devices: int = 50,
    rank: int = 16,
    alpha: float | None = None,
    model: str | None = None,
    window: int = 64,
    batch_size: int = 16,
    sharing: str = "tdma",
    downlink: str = "unicast",
    radius_m: float = 150.0,
    task: TaskSettings = TaskSettings(),
) -> Scenario:
    """Fifty phones of three memory classes in one cell.

    Arguments:
        seed: of the world: partition, fleet, positions, channels.
        devices: phones; each third has memory for another rank.
        rank: r of the model's LoRA pairs, at least 4.
        alpha: numerator of the pairs' scale alpha / sqrt(r); None: 4 sqrt(r).
        model: folder of a model of transformers, or file of llama2.c, with its tokenizer, maybe within the data folder; None: the embedded one, on
            digits.
        window: tokens per row of a text.
        batch_size: that the memory classes are made for; larger batches may not fit.
        sharing, downlink, radius_m: of the cell, as in `phones`.
        task: data set and partition; with `model` a set of texts ("shakespeare" instead of digits).
    """
    if rank < 4:
        raise ScenarioError(f"lora_phones(rank={rank}): allowed: at least 4, the least of three classes has a quarter of it")
    data, spec = _embedded(task, rank, alpha) if model is None else _pretrained(model, task, rank, alpha, window)
    stated = EMBEDDED + " (no folder with a model is given)" if model is None else f"'{Path(model).name}' from a local folder"
    fleet = draw_phones(devices, seed=seed)
    names = [f"phone{i}" for i in range(devices)]
    settings = enough(task, devices) if model is None else task
    learned = make_task(settings, names, seed=seed, model=spec, dataset=data)
    room = {share: _room_bytes(learned, rank, share, batch_size) for share in SHARES}
    fleet = [replace(phone, memory_bytes=phone.baseline_bytes + room[SHARES[i % len(SHARES)]]) for i, phone in enumerate(fleet)]
    network = cells(
        fleet, base_stations=1, base_station=EDGE_BOX, root=CLOUD, seed=seed,
        plan=CellPlan(sharing=sharing, radius_m=radius_m),  # type: ignore[arg-type]
        downlink=downlink,  # type: ignore[arg-type]
        framing_bytes=64, detect_s=1.0,
    )  # fmt: skip
    fields = {"devices": devices, "rank": rank, "model": stated, "partition": settings.partition}
    target = ("accuracy", 0.9) if data.kind == "classification" and model is None else None
    return Scenario(
        name="lora_phones", network=network, task=learned, suited=SUITED, target=target, budget={"seconds": 1200.0}, seed=seed, fields=fields
    )


@lru_cache(maxsize=1)
def _say() -> None:
    """State once which model it is."""
    logging.getLogger("airloom").warning("lora_phones: model %s; give scenario.model=FOLDER for a language model", EMBEDDED)


def _embedded(task: TaskSettings, rank: int, alpha: float | None) -> tuple[Dataset, ModelSpec]:
    """The transformer that needs no folder, on digits."""
    if task.dataset != "digits":
        raise ScenarioError(f"lora_phones(model=None, task.dataset={task.dataset!r}): the embedded model reads digits; give a model that reads text")
    _say()
    values = embedded()
    scale = 4.0 * rank**0.5 if alpha is None else alpha
    spec = lora(values.spec, rank=rank, alpha=scale, scaling="alpha/sqrt(r)", targets=TARGETS, train=["classifier"], values=values)
    return load("digits", limit=task.limit), spec


def _pretrained(model: str, task: TaskSettings, rank: int, alpha: float | None, window: int) -> tuple[Dataset, ModelSpec]:
    """A language model of a local folder, on a set of texts."""
    name = "shakespeare" if task.dataset == "digits" else task.dataset
    if name != "shakespeare" and name not in TEXT_FILES:
        raise ScenarioError(f"lora_phones(task.dataset={name!r}): a language model needs text; allowed are shakespeare, {', '.join(TEXT_FILES)}")
    where = at_hand(model, task.data)
    data = load_text(name, beside(where), task.data, window=window, limit=task.limit)
    is_llama = where.suffix == ".bin"
    spec = hf_lora(
        where, rank=rank, alpha=4.0 * rank**0.5 if alpha is None else alpha, scaling="alpha/sqrt(r)", targets=LLAMA_TARGETS if is_llama else None,
        head="classification" if data.kind == "classification" else "causal", classes=data.classes if data.kind == "classification" else None,
    )  # fmt: skip
    if data.kind == "next_token":
        data = replace(data, classes=outputs(spec))
    return data, spec


def _room_bytes(task: Task, rank: int, share: int, batch_size: int) -> float:
    """Memory that holds training with rank / share, and not with twice that."""
    batch = task.data(next(iter(task.shards))).shaped(batch_size)

    def need(k: int) -> float:  # the call, the slice that came for it, and its rows where they are scattered
        part = task.model.slice(ranks(k))
        return peak_bytes(part, batch, task.objective) + part.nbytes + 8.0 * k * len(task.model.pairs)

    k = rank // share
    return 1.25 * need(k) if share == 1 else (need(k) + need(2 * k)) / 2
