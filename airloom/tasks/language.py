"""Texts as data sets of token ids: classification of reviews, news and pairs of sentences, and answers to questions, token by token.

| name | kind | rows train / test | classes | use |
|---|---|---|---|---|
| sst2 | classification | 60,614 / 872 | negative, positive | research |
| mrpc | classification | 4,076 / 1,725 | different, the same | non-commercial |
| ag_news | classification | 10,000 / 7,600 | World, Sports, Business, Sci/Tech | non-commercial |
| gsm8k | answers | 7,473 / 1,319 | | open |
| arc_easy, arc_challenge, openbookqa, boolq | answers | 2,251 / 2,376, 1,119 / 1,172, 4,957 / 500, 9,427 / 3,270 | | open |

Where the source has no validation part, one row in ten of train becomes it. Answers are learned as next tokens: only what is to be answered counts
(`IGNORE` elsewhere). Shakespeare is in `airloom.tasks.datasets`; with a tokenizer of one's own, here.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
from numpy.typing import NDArray

from airloom.clock.rng import generator
from airloom.errors import ScenarioError
from airloom.tasks.metrics import IGNORE
from airloom.tasks.text import windows
from airloom.tasks.tokenizer import Tokenizer

Ids = NDArray[np.int64]
NEWS = ("World", "Sports", "Business", "Sci/Tech")
WINDOW = 128  # ours: tokens per row


@final
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Texts:
    """Rows of text before they are encoded.

    `parts` holds train, validation and test: texts with their class, or questions with their answers. Without a validation part: one in ten.
    """

    kind: Literal["classification", "next_token"]
    classes: int
    parts: Sequence[Sequence[tuple[str, Any]]]


def read_texts(name: str, find: Callable[[str], Path]) -> Texts:
    """Read the rows of a set of texts; `find` gives the path of a file."""
    return _TEXTS[name](find)


def encoded(texts: Texts, tokenizer: Tokenizer, window: int) -> tuple[list[tuple[Ids, Ids]], int]:
    """Return (x, y) of train, validation and test, and the number of classes.

    Classification: x (n, window), cut at the end. Answers: x and y (n, window), y one token ahead of x, cut at the beginning of the question.
    """
    if window < 2:
        raise ScenarioError(f"texts(window={window}): must be at least 2 tokens")
    if texts.kind == "classification":
        return [
            (_rows([tokenizer.ids(text)[:window] for text, _ in part], window, tokenizer.pad), _labels(part)) for part in texts.parts
        ], texts.classes
    pairs = []
    for part in texts.parts:
        x, y = [], []
        for question, answer in part:
            asked, said = tokenizer.ids(question), tokenizer.encode(answer)
            whole = (asked + said)[-window - 1 :]
            start = max(len(whole) - len(said), 1)
            x.append(whole[:-1])
            y.append([IGNORE] * (start - 1) + whole[start:])
        pairs.append((_rows(x, window, tokenizer.pad), _rows(y, window, IGNORE)))
    return pairs, tokenizer.size


def encoded_windows(pieces: Sequence[Sequence[tuple[str, str]]], tokenizer: Tokenizer, window: int) -> list[tuple[Ids, Ids, NDArray[Any]]]:
    """Cut the texts of clients, per part (client, text), into next-token windows: (x, y, client of each row)."""
    parts = []
    for piece in pieces:
        cut = [(*windows(np.array(tokenizer.ids(text), np.int64), window), client) for client, text in piece]
        clients = np.repeat(np.array([client for *_, client in cut]), [len(x) for x, *_ in cut])
        parts.append((np.concatenate([x for x, *_ in cut]), np.concatenate([y for _, y, _ in cut]), clients))
    return parts


def _rows(rows: Sequence[Sequence[int]], window: int, fill: int) -> Ids:
    """Stack rows of ids, filled up at the right."""
    out = np.full((len(rows), window), fill, np.int64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


def _labels(part: Sequence[tuple[str, int]]) -> Ids:
    return np.array([label for _, label in part], np.int64)


def _opened(path: Path) -> io.StringIO:
    """Text of a file, gzipped or not, without a byte-order mark."""
    raw = path.read_bytes()
    return io.StringIO((gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig"))


def _table(path: Path) -> list[list[str]]:
    return list(csv.reader(_opened(path), delimiter="\t", quoting=csv.QUOTE_NONE))


def _lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in _opened(path) if line.strip()]


def _split(name: str, rows: Sequence[tuple[str, Any]]) -> tuple[list[tuple[str, Any]], list[tuple[str, Any]]]:
    """Take one row in ten for validation."""
    held = set(generator(name, "validation").permutation(len(rows))[: len(rows) // 10].tolist())
    return [row for i, row in enumerate(rows) if i not in held], [rows[i] for i in sorted(held)]


def _sst2(find: Callable[[str], Path]) -> Texts:
    parts = [[(row[0], int(row[1])) for row in _table(find(f"text/sst2/{file}"))[1:]] for file in ("train.tsv.gz", "dev.tsv", "test.tsv")]
    return Texts(kind="classification", classes=2, parts=parts)


def _mrpc(find: Callable[[str], Path]) -> Texts:
    def rows(part: str) -> list[tuple[str, Any]]:
        return [(f"{row[3]} | {row[4]}", int(row[0])) for row in _table(find(f"text/mrpc/msr_paraphrase_{part}.txt"))[1:]]

    return Texts(kind="classification", classes=2, parts=[*_split("mrpc", rows("train")), rows("test")])


def _ag_news(find: Callable[[str], Path]) -> Texts:
    def rows(file: str) -> list[tuple[str, Any]]:
        return [(row[0], NEWS.index(row[1])) for row in _table(find(f"text/ag_news/{file}"))]

    return Texts(kind="classification", classes=len(NEWS), parts=[*_split("ag_news", rows("train_10k.tsv.gz")), rows("test.tsv.gz")])


def _gsm8k(find: Callable[[str], Path]) -> Texts:
    def rows(part: str) -> list[tuple[str, Any]]:
        return [(row["question"] + "\n", row["answer"]) for row in _lines(find(f"reasoning/gsm8k/{part}.jsonl.gz"))]

    return Texts(kind="next_token", classes=0, parts=[*_split("gsm8k", rows("train")), rows("test")])


def _commonsense(name: str, folder: str) -> Callable[[Callable[[str], Path]], Texts]:
    def read(find: Callable[[str], Path]) -> Texts:
        def rows(part: str) -> list[tuple[str, Any]]:
            return [(row["instruction"] + "\n", row["output"]) for row in _lines(find(f"reasoning/commonsense/{folder}/{part}.jsonl.gz"))]

        return Texts(kind="next_token", classes=0, parts=[*_split(name, rows("train")), rows("test")])

    return read


_FOLDERS = {"arc_easy": "ARC-Easy", "arc_challenge": "ARC-Challenge", "openbookqa": "openbookqa", "boolq": "boolq"}
_TEXTS: dict[str, Callable[[Callable[[str], Path]], Texts]] = {
    "sst2": _sst2, "mrpc": _mrpc, "ag_news": _ag_news, "gsm8k": _gsm8k, **{name: _commonsense(name, folder) for name, folder in _FOLDERS.items()},
}  # fmt: skip
TEXT_FILES: dict[str, tuple[str, ...]] = {
    "sst2": ("text/sst2/train.tsv.gz", "text/sst2/dev.tsv", "text/sst2/test.tsv"),
    "mrpc": ("text/mrpc/msr_paraphrase_train.txt", "text/mrpc/msr_paraphrase_test.txt"),
    "ag_news": ("text/ag_news/train_10k.tsv.gz", "text/ag_news/test.tsv.gz"),
    "gsm8k": ("reasoning/gsm8k/train.jsonl.gz", "reasoning/gsm8k/test.jsonl.gz"),
    **{name: tuple(f"reasoning/commonsense/{folder}/{part}.jsonl.gz" for part in ("train", "test")) for name, folder in _FOLDERS.items()},
}
