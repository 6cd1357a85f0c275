"""Claim of TAP: personal models that take federated parts where these help beat both local and federated ones; the second stage adds little.

    python -m benchmarks.claims.tap [--data clothes_and_news]

Digits as pictures and as bags of words; tasks: which digit, odd or even, give the picture back. 12 clients of four patterns, Dirichlet(0.5), 3
of them per round; the test rows of a client have its mix of digits, modalities and tasks. With clothes_and_news the pictures are those of
Fashion-MNIST (which piece, give the picture back), the texts those of AG News (which topic), and some clients have both.
"""

from __future__ import annotations

import os
import time
from functools import lru_cache
from math import inf
from pathlib import Path
from statistics import fmean
from typing import Any
from zlib import crc32

import numpy as np

from airloom.clock.rng import generator
from airloom.methods.disentafl import DisentAFL
from airloom.methods.ditto import Ditto
from airloom.methods.fedavg import FedAvg
from airloom.methods.fedper import FedPer
from airloom.methods.local_only import LocalOnly
from airloom.methods.tap import TAP
from airloom.models.assembly import TaskLosses, assembly
from airloom.network.link import Link
from airloom.network.network import Network, Place
from airloom.network.profiles import CLOUD, WHALE_FL
from airloom.scenarios.scenario import Scenario
from airloom.tasks.datasets import Dataset, load
from airloom.tasks.language import read_texts
from airloom.tasks.partition import dirichlet
from airloom.tasks.task import Task
from benchmarks.claims.harness import RECORDS, Claim, Outcome, Plan, Point, Side, keep, main, play, table

CLIENTS, ALPHA, MINIMUM, WORDS, LENGTH, TEST_ROWS, BPS, LATENCY_S = 12, 0.5, 20, 30, 12, 60, 20e6, 0.01
PAIRS = (("image", "digit"), ("image", "rebuild"), ("text", "digit"), ("text", "parity"))
PATTERNS = ((("image",), ("digit",)), (("image",), ("digit", "rebuild")), (("text",), ("digit", "parity")), (("image", "text"), ("digit",)))
STEPS: dict[str, Any] = {"local_steps": 10, "batch_size": 32}
TEACH: dict[str, Any] = {"fraction": 0.25, "teach_steps": 30}
SIDES = (
    Side(label="local only", method=LocalOnly, fields=STEPS),
    Side(label="fedavg", method=FedAvg, fields={**STEPS, "fraction": 0.25}),
    Side(label="fedper", method=FedPer, fields={**STEPS, "fraction": 0.25}),
    Side(label="ditto", method=Ditto, fields={**STEPS, "fraction": 0.25}),
    Side(label="fedavg + fine-tuning", method=TAP, fields={**STEPS, **TEACH, "margin": -inf, "teach": "no_distill"}),
    *[
        Side(label=f"tap, {teach}", method=TAP, fields={**STEPS, **TEACH, "teach": teach})
        for teach in ("none", "no_distill", "distill")
    ],
)  # fmt: skip
FULL = Plan(cases={"digits": 16}, last=1, target=0.8, lrs=(0.3, 1.0), seeds=(0, 1, 2), tuning_seeds=(100,))
SMALL = Plan(cases={"digits": 4}, last=1, target=0.8, lrs=(0.3,), seeds=(0,), tuning_seeds=())
ABOUT = {
    "data": "digits, pictures and bags of words", "clients": CLIENTS, "alpha": ALPHA, "minimum": MINIMUM, "words": WORDS, "words_per_row": LENGTH,
    "device": "xavier", "client_bps": BPS, "client_latency_s": LATENCY_S,
}  # fmt: skip


@lru_cache(maxsize=2)
def network(patterns: tuple[Any, ...] = PATTERNS) -> Network:
    """A star of equal devices that differ in what they see and want."""
    names = [f"client{k}" for k in range(CLIENTS)]
    facts = [{"modalities": m, "tasks": o} for m, o in patterns]
    places = [Place(name=n, device=WHALE_FL["xavier"], parent="cloud", facts=facts[k % len(facts)]) for k, n in enumerate(names)]
    links = [Link(source=n, target="cloud", direction="up", rate_bps=BPS, latency_s=LATENCY_S) for n in names]
    links += [Link(source="cloud", target=n, direction="down", rate_bps=BPS, latency_s=LATENCY_S) for n in names]
    return Network.of([Place(name="cloud", device=CLOUD, role="cloud"), *places], links)


@lru_cache(maxsize=8)
def task(seed: int) -> Task:
    """Every row gets a modality and a task of its client; words are drawn by digit, with a distribution of each seed."""
    digits, rng = load("digits"), generator(seed, "claim tap")
    words = rng.dirichlet(np.full(WORDS, 0.15), size=10)
    shards = dict(zip(network().clients("cloud"), dirichlet(digits.y_train, CLIENTS, alpha=ALPHA, minimum=MINIMUM, seed=seed), strict=True))

    def rows(part: str, ids: np.ndarray, owners: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        x, y, _ = digits.part(part)
        x, y = x.reshape(len(x), -1)[ids], y[ids]
        pair = np.zeros(len(ids), np.int64)
        for k in range(CLIENTS):
            modalities, tasks = PATTERNS[k % len(PATTERNS)]
            own = [i for i, (m, o) in enumerate(PAIRS) if m in modalities and o in tasks and (part == "train" or o != "rebuild")]
            pair[owners == k] = rng.choice(own, size=int((owners == k).sum()))
        bags = np.stack([rng.multinomial(LENGTH, words[c]) for c in y]) / 3.0
        inputs = {"image": x.astype(np.float32), "text": bags.astype(np.float32), "pair": pair}
        return inputs, np.where(pair == PAIRS.index(("text", "parity")), y % 2, y).astype(np.int64)

    owner = np.zeros(len(digits.y_train), np.int64)
    for k, shard in enumerate(shards.values()):
        owner[shard] = k
    parts: dict[str, Any] = dict(zip(("x_train", "y_train"), rows("train", np.arange(len(owner)), owner), strict=True))
    for part in ("validation", "test"):
        y = digits.part(part)[1]
        ids = [rng.choice(len(y), size=TEST_ROWS, p=_mix(digits.y_train[shard], y)) for shard in shards.values()]
        owners = np.repeat(np.arange(CLIENTS), TEST_ROWS)
        parts |= dict(zip((f"x_{part}", f"y_{part}"), rows(part, np.concatenate(ids), owners), strict=True)) | {f"natural_{part}": owners}
    data = Dataset(name="digits, two ways", classes=10, kind="classification", source="digits and drawn words", natural=owner, **parts)
    model = assembly(inputs={"image": 64, "text": WORDS}, outputs={"digit": 10, "rebuild": 64, "parity": 2}, pairs=PAIRS)
    natural = {name: k for k, name in enumerate(shards)}
    return Task(
        name="two ways", dataset=data, model=model, shards=shards, objective=TaskLosses(pairs=PAIRS, rebuilds=(("rebuild", 64),)), natural=natural
    )


def _mix(own: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Chance of each row of a part, so that labels come as in a client's own rows."""
    weight = (np.bincount(own, minlength=10) / np.bincount(y, minlength=10))[y]
    return weight / weight.sum()


def world(case: str, seed: int) -> Scenario:
    """The data of a seed, on the star."""
    return Scenario(name=f"claim tap, {case}", network=network(), task=task(seed), seed=seed)


REAL_PAIRS = (("image", "piece"), ("image", "rebuild"), ("text", "topic"))
REAL_PATTERNS = (
    (("image",), ("piece",)), (("image",), ("piece", "rebuild")), (("text",), ("topic",)), (("image", "text"), ("piece", "topic")),
)  # fmt: skip
ROWS, BINS, PIXELS = 120, 256, 196  # training rows of a client; words fall into bins by their check sum; pixels are means of four


def bag(text: str) -> np.ndarray:
    """Which words a text has, as bins of their check sums."""
    out = np.zeros(BINS, np.float32)
    for word in text.lower().split():
        out[crc32(word.strip(".,;:'\"()-").encode()) % BINS] = 1.0
    return out


@lru_cache(maxsize=1)
def sources() -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Inputs and labels of the two modalities by part."""
    clothes, folder = load("fashion_mnist", limit=6000), Path(os.environ["AIRLOOM_DATA"])
    parts = ("train", "validation", "test")
    small = {part: clothes.part(part)[0].reshape(-1, 14, 2, 14, 2).mean((2, 4)).reshape(-1, PIXELS) for part in parts}
    news = dict(zip(parts, read_texts("ag_news", lambda file: folder / file).parts, strict=True))
    return {
        "image": {part: (small[part], clothes.part(part)[1]) for part in parts},
        "text": {part: (np.stack([bag(t) for t, _ in news[part][:6000]]), np.array([y for _, y in news[part][:6000]])) for part in parts},
    }


@lru_cache(maxsize=8)
def real_task(seed: int) -> Task:
    """Every client draws its rows by a mix of labels of its own (Dirichlet) from the modalities that it has, for train, validation and test alike."""
    rng, names = generator(seed, "claim tap, real"), network(REAL_PATTERNS).clients("cloud")
    rows: dict[str, list[tuple[np.ndarray, np.ndarray, int, int, int]]] = {"train": [], "validation": [], "test": []}
    for k in range(CLIENTS):
        modalities, tasks = REAL_PATTERNS[k % len(REAL_PATTERNS)]
        mixes = {m: rng.dirichlet(np.full(10 if m == "image" else 4, ALPHA)) for m in modalities}
        for part, count in (("train", ROWS), ("validation", TEST_ROWS), ("test", TEST_ROWS)):
            own = [i for i, (m, o) in enumerate(REAL_PAIRS) if m in modalities and o in tasks and (part == "train" or o != "rebuild")]
            for pair in rng.choice(own, size=count):
                m = REAL_PAIRS[pair][0]
                x, y = sources()[m][part]
                label = rng.choice(len(mixes[m]), p=mixes[m])
                i = rng.choice(np.flatnonzero(y == label))
                image, text = (x[i], np.zeros(BINS, np.float32)) if m == "image" else (np.zeros(PIXELS, np.float32), x[i])
                rows[part].append((image, text, int(pair), int(label), k))
    parts: dict[str, Any] = {}
    for part, found in rows.items():
        image, text, pair, label, owner = zip(*found, strict=True)
        parts[f"x_{part}"] = {"image": np.stack(image), "text": np.stack(text), "pair": np.array(pair)}
        parts[f"y_{part}"], parts[f"natural_{part}"] = np.array(label), np.array(owner)
    owner = parts.pop("natural_train")
    data = Dataset(name="clothes and news", classes=10, kind="classification", source="Fashion-MNIST and AG News", natural=owner, **parts)
    model = assembly(
        inputs={"image": PIXELS, "text": BINS}, outputs={"piece": 10, "rebuild": PIXELS, "topic": 4}, pairs=REAL_PAIRS, shows_hidden=True
    )
    shards = {name: np.flatnonzero(owner == k) for k, name in enumerate(names)}
    objective = TaskLosses(pairs=REAL_PAIRS, rebuilds=(("rebuild", PIXELS),))
    return Task(
        name="clothes and news", dataset=data, model=model, shards=shards, objective=objective, natural={name: k for k, name in enumerate(names)}
    )


def real(case: str, seed: int) -> Scenario:
    """Pictures and texts of a seed, on the star."""
    return Scenario(name="claim tap, real", network=network(REAL_PATTERNS), task=real_task(seed), seed=seed)


def replaced(points: list[Point]) -> dict[str, Any]:
    """Replaced tasks per participant in the first and in the last third of stage 1; none where nothing is replaced."""
    swaps = [point["swaps"] for point in points if "swaps" in point and point["round"] < REAL_ROUNDS]
    third = max(1, len(swaps) // 3)
    return {"swaps_first": fmean(swaps[:third]), "swaps_last": fmean(swaps[-third:])} if swaps else {}


def run(plan: Plan = FULL, folder: Path | None = None) -> Outcome:
    """Run the claim; with a folder, keep its record there."""
    began_s = time.process_time()
    outcome = play(world, SIDES, plan)
    if folder is not None:
        keep("tap", SIDES, plan, ABOUT, outcome, began_s, folder)
    return outcome


REAL_ROUNDS = 6
REAL = (
    Claim(
        module="tap", data="clothes_and_news", world=real, more=replaced,
        sides=(
            *SIDES,
            Side(label="tap, twice", method=TAP, fields={**STEPS, **TEACH, "teach": "twice"}),
            Side(label="disentafl", method=DisentAFL, fields={**STEPS, "fraction": 0.25}),
            Side(label="disentafl + fine-tuning", method=DisentAFL, fields={**STEPS, "fraction": 0.25, "post_steps": 30}),
        ),
        plan=Plan(cases={"clothes and news": REAL_ROUNDS}, last=1, target=0.7, lrs=(0.1, 0.3), seeds=(0, 1, 2), tuning_seeds=(100,)),
        small=Plan(cases={"clothes and news": 2}, last=1, target=0.7, lrs=(0.3,), seeds=(0,)),
        chance=0.2,
        about={
            "data": "Fashion-MNIST at 14 x 14 pixels, AG News as 256 bins of words", "clients": CLIENTS, "alpha": ALPHA, "rows": ROWS,
            "test_rows": TEST_ROWS, "device": "xavier", "client_bps": BPS, "client_latency_s": LATENCY_S,
        },
        columns=(
            ("accuracy", "mean accuracy of clients", ".3f"), ("seconds", "seconds", ".0f"), ("bytes_up", "bytes up", ".3g"),
            ("swaps_first", "replacements, first third", ".2f"), ("swaps_last", "last third", ".2f"),
        ),
    ),
)  # fmt: skip


def show(outcome: Outcome) -> str:
    """The table of the page."""
    columns = [("accuracy", "mean accuracy of clients", ".3f"), ("seconds", "seconds", ".0f"), ("bytes_up", "bytes up", ".3g")]
    return table(outcome, columns)


if __name__ == "__main__":
    main(lambda: show(run(folder=RECORDS)), REAL)
