"""The scenario `applications`: who holds what, what needs what, and a method on it."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

import airloom
from airloom.errors import ScenarioError
from airloom.scenarios.applications import SPEEDS, applications
from airloom.tasks.strings import NEEDS, TASKS, WORDS, spelled, strings
from airloom.tasks.tokenizer import by_bytes, by_characters


def test_five_boards_hold_a_task_each() -> None:
    made = applications(seed=0, rows=20)
    network, task = made.network, made.task
    assert network.clients(network.root) == TASKS == tuple(SPEEDS)
    assert all(task.samples(name) == 20 for name in TASKS)
    assert network.places[network.root].facts["needs"] == {v: list(u) for v, u in NEEDS.items()}
    assert task.model.rank == 10
    task.check()
    with pytest.raises(ScenarioError, match=r"applications\(rows=3\): allowed: at least 10"):
        applications(seed=0, rows=3)


def test_contextlora_runs_there_and_takes_as_long_as_it_says() -> None:
    same = {"scenario": "applications", "target": None, "out": None}
    small = {"scenario.rows": 20, "epochs": 1, "batch_size": 20}
    run = airloom.run("contextlora", set=small, **same)  # type: ignore[arg-type]
    assert run.status == "done" and len(run.points) == 1
    assert run.points[0]["seconds"] == pytest.approx(run.points[0]["planned_s"], rel=1e-12)
    assert set(run.model) == set(TASKS)


def llama(folder: Path, words: tuple[str, ...]) -> Path:
    """A file of llama2.c with random values (width 8, two blocks, 32 outputs), and its vocabulary beside it."""
    dim, hidden, blocks, heads, outputs, length = 8, 6, 2, 2, 32, 16
    size = outputs * dim + 2 * blocks * dim + 4 * blocks * dim * dim + 3 * blocks * hidden * dim + dim + length * dim // heads
    values = np.random.default_rng(0).normal(0, 0.3, size).astype("<f4")
    (folder / "own.vocab").write_text("".join(f"{word}\t0\n" for word in ("<unk>", *words)), encoding="utf-8")
    (folder / "model.bin").write_bytes(struct.pack("<7i", dim, hidden, blocks, heads, heads, outputs, length) + values.tobytes())
    return folder / "model.bin"


def test_questions_in_the_ids_of_a_tokenizer(tmp_path: Path) -> None:
    llama(tmp_path, WORDS)
    data, told = strings(count=3, seed=0), by_characters(tmp_path / "own.vocab")
    other = spelled(data, told, 32)
    assert other.classes == 32
    for part in ("train", "validation", "test"):  # word i of the list is line i + 1 of the file; what does not count stays so
        np.testing.assert_array_equal(getattr(other, f"x_{part}"), getattr(data, f"x_{part}") + 1)
        y = getattr(data, f"y_{part}")
        np.testing.assert_array_equal(getattr(other, f"y_{part}"), np.where(y < 0, y, y + 1))
    with pytest.raises(ScenarioError, match="needs an id of its own below 20"):
        spelled(data, told, 20)
    assert spelled(data, by_bytes(), 257).x_train[0, 5] == ord("=") + 1


@pytest.mark.slow
def test_contextlora_runs_with_a_language_model_of_a_folder(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("peft")
    made = applications(seed=0, rows=20, model=str(llama(tmp_path, WORDS)))
    assert made.fields["model"] == "model.bin" and made.task.dataset.classes == 32 and made.task.model.layers[:3] == ("embed", "block1", "block2")
    given = {"scenario.rows": 20, "scenario.model": str(tmp_path / "model.bin"), "epochs": 1, "batch_size": 20}
    for more in ({}, {"moves": True}, {"relations": "sequence"}):
        run = airloom.run("contextlora", scenario="applications", target=None, out=None, set={**given, **more})
        assert run.status == "done" and len(run.points) == 1
        if "relations" not in more:
            assert run.points[0]["seconds"] == pytest.approx(run.points[0]["planned_s"], rel=1e-12)
