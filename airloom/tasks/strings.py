"""Five tasks on short strings of digits, some of which build on others, and a small transformer that has seen such strings.

A question is a letter, four digits and "="; an answer is one to four tokens:

    reverse  "r1234=" -> 4321        add  "a34__=" or "a__34=" -> 07        compare  "c3412=" -> ">"  (34 against 12: <, = or >)
    both     "b3412=" -> ">"  (3 + 4 against 1 + 2)                          max      "m3412=" -> 07   (the larger of the two sums)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch

from airloom.clock.rng import generator, seed_of
from airloom.errors import ScenarioError
from airloom.models import zoo
from airloom.models.batch import Batches
from airloom.models.module import ModelSpec
from airloom.models.objective import NextToken
from airloom.models.params import Params
from airloom.models.train import AdamW, train
from airloom.tasks.datasets import Dataset
from airloom.tasks.metrics import IGNORE
from airloom.tasks.tokenizer import Tokenizer

WORDS = (*"0123456789", *"racbm", "=", "_", "<", ">", "|")
IDS = {word: i for i, word in enumerate(WORDS)}
NEEDS: Mapping[str, tuple[str, ...]] = {"both": ("add", "compare"), "max": ("both",)}  # through "both", "max" builds on both of its parts too
TASKS = ("reverse", "add", "compare", "both", "max")
ANSWER = {"reverse": 4, "add": 2, "compare": 1, "both": 1, "max": 2}
PARTS = ("train", "validation", "test")
CONTEXT = 9  # letter, four digits, "=", and an answer but for its last token
STEPS, BATCH, LR = 100, 64, 3e-3  # ours: about two seconds of one core


def draw(task: str, rng: np.random.Generator) -> tuple[str, str]:
    """Return a random question and its answer."""
    d = [int(i) for i in rng.integers(10, size=4)]
    digits, sums = "".join(map(str, d)), (d[0] + d[1], d[2] + d[3])
    if task == "reverse":
        return f"r{digits}=", digits[::-1]
    if task == "add":
        i = int(rng.integers(2))
        return f"a{digits[:2]}__=" if i == 0 else f"a__{digits[2:]}=", f"{sums[i]:02d}"
    if task == "max":
        return f"m{digits}=", f"{max(sums):02d}"
    a, b = sums if task == "both" else (10 * d[0] + d[1], 10 * d[2] + d[3])
    return f"{task[0]}{digits}=", "<" if a < b else ">" if a > b else "|"


def rows(task: str, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(x, y) of `count` questions with their answers; y counts on the answer alone."""
    x, y = np.full((count, CONTEXT), IDS["_"]), np.full((count, CONTEXT), IGNORE)
    for i in range(count):
        question, answer = draw(task, rng)
        ids = [IDS[word] for word in question + answer]
        x[i, : len(ids) - 1] = ids[:-1]
        y[i, 5 : 5 + len(answer)] = ids[6:]
    return x, y


def strings(*, count: int, seed: int, held: int = 100) -> Dataset:
    """Questions of all tasks, each row with its task as natural client: `count` per task to learn from, `held` for validation and for tests each."""
    parts = {}
    for part, n in (("train", count), ("validation", held), ("test", held)):
        pairs = [rows(task, n, generator("strings", seed if part == "train" else 0, part, task)) for task in TASKS]
        parts[part] = np.concatenate([x for x, _ in pairs]), np.concatenate([y for _, y in pairs]), np.repeat(np.array(TASKS), n)
    (x, y, names), (xv, yv, names_v), (xt, yt, names_t) = parts.values()
    return Dataset(
        name="strings", x_train=x, y_train=y, x_validation=xv, y_validation=yv, x_test=xt, y_test=yt,
        classes=len(WORDS), kind="next_token", source="drawn here: five tasks on four digits",
        natural=names, natural_validation=names_v, natural_test=names_t,
    )  # fmt: skip


def spelled(data: Dataset, tokenizer: Tokenizer, outputs: int) -> Dataset:
    """The same questions in the ids of a tokenizer, for a model with so many outputs.

    Raises
    ------
    ScenarioError: a tokenizer that has no id of its own for one of the words.
    """
    ids = np.array([tokenizer.encode(word)[-1] for word in WORDS])
    if len(set(ids.tolist())) < len(WORDS) or ids.max() >= outputs:
        raise ScenarioError(f"spelled(tokenizer {tokenizer.name!r}): each of {''.join(WORDS)!r} needs an id of its own below {outputs}")
    parts = {f"x_{part}": ids[getattr(data, f"x_{part}")] for part in PARTS}
    for part in PARTS:
        y = getattr(data, f"y_{part}")
        parts[f"y_{part}"] = np.where(y == IGNORE, IGNORE, ids[np.maximum(y, 0)])
    return replace(data, classes=outputs, **parts)


@lru_cache(maxsize=1)
def tiny() -> ModelSpec:
    """Two blocks of width 64."""
    return zoo.transformer(vocabulary=len(WORDS), width=64, heads=4, blocks=2, context=CONTEXT)


@lru_cache(maxsize=1)
def pretrained() -> Params:
    """The transformer after practice on strings of all tasks under random letters: it knows digits and where answers stand, and not what is asked."""
    rng = generator("strings", "practice")
    pairs = [rows(task, STEPS * BATCH // len(TASKS), rng) for task in TASKS]
    x, y = np.concatenate([x for x, _ in pairs]), np.concatenate([y for _, y in pairs])
    x[:, 0] = rng.integers(IDS["r"], IDS["m"] + 1, len(x))
    chosen = rng.permutation(len(x)).reshape(STEPS, BATCH)
    batches = Batches.of(torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(chosen))
    rates = [LR * min(1.0, 2.0 * (1.0 - k / STEPS)) for k in range(STEPS)]  # constant, then falling to zero
    values, _ = train(tiny().initial(seed_of("strings", "initial")), batches, lr=rates, optimizer=AdamW(), objective=NextToken())
    return values
