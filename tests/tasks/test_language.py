"""Texts as data sets: rows by hand, what counts, sizes of the real sets, the model that they get."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from airloom.errors import ScenarioError
from airloom.tasks import Dataset, default_model, load, load_text
from airloom.tasks.language import Texts, encoded, read_texts
from airloom.tasks.metrics import IGNORE, METRICS
from airloom.tasks.task import DeviceData
from airloom.tasks.tokenizer import Tokenizer, by_bytes

LETTERS = Tokenizer(
    name="letters", size=27, pad=0, begin=26, encode=lambda text: [ord(c) - 96 for c in text], decode=lambda ids: "".join(chr(i + 96) for i in ids)
)


def test_classes_are_cut_at_the_end_and_filled_up() -> None:
    texts = Texts(kind="classification", classes=2, parts=[[("abcd", 1), ("a", 0)], [], []])
    parts, classes = encoded(texts, LETTERS, 3)
    assert parts[0][0].tolist() == [[26, 1, 2], [26, 1, 0]] and parts[0][1].tolist() == [1, 0] and classes == 2


def test_only_the_answer_counts_and_the_question_is_cut() -> None:
    texts = Texts(kind="next_token", classes=0, parts=[[("ab", "cd"), ("a", "b"), ("abcdef", "gh"), ("a", "bcdefgh")], [], []])
    (x, y), classes = encoded(texts, LETTERS, 4)[0][0], encoded(texts, LETTERS, 4)[1]
    # begin a b c d -> x = begin a b c, y = a b c d: of these c and d are the answer
    assert x[0].tolist() == [26, 1, 2, 3] and y[0].tolist() == [IGNORE, IGNORE, 3, 4]
    assert x[1].tolist() == [26, 1, 0, 0] and y[1].tolist() == [IGNORE, 2, IGNORE, IGNORE]
    # five tokens are kept, from the end
    assert x[2].tolist() == [4, 5, 6, 7] and y[2].tolist() == [IGNORE, IGNORE, 7, 8]
    assert x[3].tolist() == [4, 5, 6, 7] and y[3].tolist() == [5, 6, 7, 8] and classes == 27
    with pytest.raises(ScenarioError, match="window=1"):
        encoded(texts, LETTERS, 1)


def test_metrics_and_counts_leave_out_what_does_not_count() -> None:
    out = torch.zeros(2, 3, 4)
    out[0, 0, 1] = out[1, 2, 3] = 10.0
    y = torch.tensor([[1, IGNORE, IGNORE], [IGNORE, 2, 3]])
    assert METRICS["accuracy"].rows(out, y).tolist() == [1.0, 0.5]
    # row 1: log 4 for the even guess, nearly 0 for the sure one
    assert METRICS["loss"].rows(out, y).tolist() == pytest.approx([0.00014, (np.log(4) + 0.00014) / 2], abs=1e-4)
    data = DeviceData("a", torch.zeros(2, 3, dtype=torch.long), y, np.arange(2), 4)
    assert data.counts.tolist() == [0, 1, 1, 1]


def test_labels_that_do_not_count_are_for_tokens_alone() -> None:
    x, y = np.zeros((2, 2), np.int64), np.array([[IGNORE, 1], [0, IGNORE]])
    parts = {f"{k}_{part}": v for part in ("train", "validation", "test") for k, v in (("x", x), ("y", y))}
    assert Dataset(name="t", classes=2, kind="next_token", source="test", **parts).classes == 2  # type: ignore[arg-type]
    with pytest.raises(ScenarioError, match=r"labels run from -100 to 0, allowed is 0\.\.1; "):
        Dataset(name="t", classes=2, kind="classification", source="test", **{k: v[:, 0] if k[0] == "y" else v for k, v in parts.items()})  # type: ignore[arg-type]
    with pytest.raises(ScenarioError, match=r"allowed is 0\.\.1, and -100 for what does not count"):
        Dataset(name="t", classes=2, kind="next_token", source="test", **(parts | {"y_test": y - 1}))  # type: ignore[arg-type]


def test_real_texts_with_classes(data_folder: Path) -> None:
    for name, sizes in {"sst2": (60_614, 6_735, 872), "mrpc": (3_669, 407, 1_725), "ag_news": (9_001, 1_000, 7_600)}.items():
        assert tuple(map(len, read_texts(name, lambda file: data_folder / file).parts)) == sizes
        data = load(name, data_folder, limit=50)
        assert data.x_train.dtype == np.int64 and data.kind == "classification" and set(np.unique(data.y_train)) == set(range(data.classes))
    first = load_text("mrpc", by_bytes(), data_folder, window=400, limit=None).x_test[0]
    assert bytes((first[first > 0] - 1).astype(np.uint8)).decode().startswith("PCCW's chief operating officer")


def test_real_answers(data_folder: Path) -> None:
    for name, rows in {"gsm8k": 1_319, "arc_easy": 2_376, "arc_challenge": 1_172, "openbookqa": 500, "boolq": 3_270}.items():
        data = load_text(name, by_bytes(), data_folder, window=64)
        assert len(data.x_test) == rows and data.kind == "next_token" and ((data.y_test != IGNORE).sum(1) > 0).all()
    row = data.y_test[0]
    assert bytes((row[row != IGNORE] - 1).astype(np.uint8)).decode().startswith("the correct answer is ")


def test_real_roles_with_another_tokenizer(data_folder: Path) -> None:
    plain, ours = load("shakespeare", data_folder), load_text("shakespeare", by_bytes(), data_folder, window=80)
    assert ours.natural is not None and plain.natural is not None and set(ours.natural) == set(plain.natural)
    assert abs(len(ours.x_train) - len(plain.x_train)) < 5 and np.array_equal(ours.x_train[:, 1:], ours.y_train[:, :-1])


def test_texts_get_a_model_that_reads_them(data_folder: Path) -> None:
    spec = default_model(load("sst2", data_folder, limit=20))
    assert spec.name == "text_classifier" and spec.initial(0).spec.size > 0


def test_wrong_names_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"load_text\(name='digits'\): allowed are shakespeare, sst2"):
        load_text("digits", by_bytes())
    with pytest.raises(ScenarioError, match=r"sst2/train\.tsv\.gz is not there"):
        load("sst2", tmp_path)
