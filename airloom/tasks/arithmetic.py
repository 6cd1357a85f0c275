"""A language of sums and products that a tiny transformer can learn in two seconds, and the transformer.

A question is two or three digits with + or * between them, read from left to right: "3+4*2=" asks for ((3 + 4) * 2) mod 100. An answer is one token,
a number from 0 to 99, or `ASK`, with which a model says that somebody else should answer. Sums of two digits are easy to learn, products less so,
and of the three-digit questions only sums are practiced: questions are easy and hard by degrees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import final

import numpy as np
import torch
from torch import Tensor

from airloom.clock.rng import generator, seed_of
from airloom.errors import ScenarioError
from airloom.models import zoo
from airloom.models.batch import Batches
from airloom.models.endpoint import Answer, Solver, persuaded
from airloom.models.module import ModelSpec
from airloom.models.objective import NextToken
from airloom.models.params import Params
from airloom.models.train import AdamW, forward, train
from airloom.tasks.datasets import Dataset
from airloom.tasks.metrics import IGNORE

WORDS = (*map(str, range(100)), "+", "*", "=", "?", "_")  # the last two: ask, and what fills a row at the left
IDS = {word: i for i, word in enumerate(WORDS)}
ASK = "?"
WINDOW = 6  # three numbers, two signs and "="
STEPS, BATCH, LR = 250, 64, 1e-2  # ours: about two seconds of one core
ASKING = {4: 0.03, WINDOW: 0.3}  # share of practice whose answer is `ASK`, by length: a model that is to learn when to ask must know the word (ours)


def solve(question: str) -> str:
    """Return the right answer.

    >>> solve("3+4*2=")
    '14'
    """
    value = int(question[0])
    for sign, digit in zip(question[1:-1:2], question[2::2]):
        value = (value + int(digit) if sign == "+" else value * int(digit)) % 100
    return str(value)


def draw(rng: np.random.Generator, *, digits: int, signs: str = "+*") -> str:
    """Return a random question with so many digits."""
    parts = [str(rng.integers(10))]
    for _ in range(digits - 1):
        parts += [signs[rng.integers(len(signs))], str(rng.integers(10))]
    return "".join(parts) + "="


def mixed(rng: np.random.Generator, *, hard: float) -> tuple[str, str]:
    """Return a question and its answer: three digits with probability `hard`, else two."""
    question = draw(rng, digits=3 if rng.random() < hard else 2)
    return question, solve(question)


def encode(questions: Sequence[str]) -> Tensor:
    """Token ids [n, WINDOW], filled up at the left, so that "=" is always the last."""
    rows = [[IDS["_"]] * (WINDOW - len(question)) + [IDS[letter] for letter in question] for question in questions]
    return torch.tensor(rows, dtype=torch.int64)


def texts(x: Tensor) -> list[str]:
    """The questions that rows of token ids stand for.

    >>> texts(encode(["3+4="]))
    ['3+4=']
    """
    return ["".join(WORDS[i] for i in row if WORDS[i] != "_") for row in x.tolist()]


def is_question(text: str) -> bool:
    """Whether a text belongs to the language.

    >>> is_question("3+4="), is_question("hello")
    (True, False)
    """
    inner = text[:-1]
    return len(text) in (4, WINDOW) and text[-1] == "=" and all((c in "0123456789") if i % 2 == 0 else c in "+*" for i, c in enumerate(inner))


def belongs(question: str, task: str) -> bool:
    """Whether a question is of a task: "+" has sums only, "*" all that multiplies; "" is everything.

    >>> belongs("1+2+3=", "+"), belongs("1+2*3=", "*"), belongs("1+2*3=", "+")
    (True, True, False)
    """
    return not task or ("*" in question) == (task == "*")


def rows(count: int, *, hard: float, seed: int, part: str) -> tuple[np.ndarray, np.ndarray]:
    """(x, y) of `count` random questions; y counts at the last place only."""
    rng = generator(seed, "arithmetic", part)
    pairs = [mixed(rng, hard=hard) for _ in range(count)]
    x = encode([question for question, _ in pairs]).numpy()
    y = np.full_like(x, IGNORE)
    y[:, -1] = [int(answer) for _, answer in pairs]
    return x, y


def dataset(*, count: int, hard: float, seed: int) -> Dataset:
    """Questions as a data set of next tokens: `count` to learn from, a quarter of that for validation and for tests each."""
    (x, y), (xv, yv), (xt, yt) = (
        rows(n, hard=hard, seed=seed, part=part) for n, part in ((count, "train"), (count // 4, "validation"), (count // 4, "test"))
    )
    return Dataset(
        name="arithmetic", x_train=x, y_train=y, x_validation=xv, y_validation=yv, x_test=xt, y_test=yt, classes=len(WORDS), kind="next_token",
        source="drawn here: sums and products of two or three digits modulo 100",
    )  # fmt: skip


@lru_cache(maxsize=1)
def tiny() -> ModelSpec:
    """The tiny transformer: one block of width 32, 19,785 values."""
    return zoo.transformer(vocabulary=len(WORDS), width=32, heads=4, blocks=1, context=WINDOW)


@lru_cache(maxsize=1)
def pretrained() -> Params:
    """The tiny transformer after practice: sums of two digits (60 %), products of two (20 %), sums of three (20 %), some answered by `ASK`."""
    rng = generator("arithmetic", "practice")
    kinds = rng.random(STEPS * BATCH)
    asked = [draw(rng, digits=2 if kind < 0.8 else 3, signs="*" if 0.6 <= kind < 0.8 else "+") for kind in kinds]
    y = torch.full((len(asked), WINDOW), IGNORE)
    may = rng.random(len(asked)) < [ASKING[len(question)] for question in asked]
    y[:, -1] = torch.tensor([IDS[ASK] if asks else int(solve(question)) for question, asks in zip(asked, may)])
    batches = Batches.of(encode(asked), y, torch.arange(len(asked)).reshape(STEPS, BATCH))
    rates = [LR * min(1.0, 2.0 * (1.0 - k / STEPS)) for k in range(STEPS)]  # constant, then falling to zero
    x, _ = train(tiny().initial(seed_of("arithmetic", "initial")), batches, lr=rates, optimizer=AdamW(), objective=NextToken())
    return x


@final
@dataclass(frozen=True, eq=False)
class TinySolver(Solver):
    """The tiny transformer as a solver: its most likely number, as sure as that is likely.

    Arguments:
        values: of the transformer.
        reply_tokens: tokens that a reply is declared to take, reasoning included.
    """

    values: Params
    reply_tokens: int

    def answer(self, question: str, notes: tuple[str, ...]) -> Answer:
        """The most likely number."""
        chances = self._chances(question)[:100]
        best = int(chances.argmax())
        return persuaded(Answer(WORDS[best], float(chances[best]), self.reply_tokens), notes)

    def asks(self, question: str) -> bool:
        """Whether `ASK` is more likely than every number, in a model that has learned to ask."""
        chances = self._chances(question)
        return bool(chances[IDS[ASK]] > chances[:100].max())

    def _chances(self, question: str) -> Tensor:
        if not is_question(question):
            raise ScenarioError(f"question {question!r}: allowed are two or three digits with + or * between them and = at the end, such as 3+4*2=")
        return forward(self.values, encode([question]))[0, -1].softmax(-1)
