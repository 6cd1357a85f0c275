from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from airloom.errors import RecordError
from airloom.records.checkpoint import load, save

TREE = {"round": 3, "heap": [[0.1, 7, "end"], [math.inf, 8, 'a "checksum":" \u2028']], "state": {"best": -math.inf, "x": {"ref": 4}, "none": None}}


def tensors() -> dict[str, torch.Tensor]:
    base = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    return {
        "flag": torch.tensor([True, False, True]),
        "x": base,
        "turned": base.t(),
        "view of x": base[1, 1:3],
        "scalar": torch.tensor(math.pi, dtype=torch.float64),
        "empty": torch.empty(0, 5),
        "half": torch.tensor([1.5, math.nan], dtype=torch.bfloat16),
        "f16": torch.ones(3, dtype=torch.float16),
        "ids": torch.tensor([2**60, -1]),
        "i32": torch.ones(1, dtype=torch.int32),
        "i16": torch.ones(1, dtype=torch.int16),
        "i8": torch.ones(1, dtype=torch.int8),
        "u8": torch.tensor([255], dtype=torch.uint8),
        "needs grad": torch.ones(2, requires_grad=True),
    }


def assert_same(got: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert set(got) == set(wanted)
    for name, tensor in wanted.items():
        assert got[name].dtype == tensor.dtype and got[name].shape == tensor.shape, name
        assert torch.equal(torch.nan_to_num(got[name]), torch.nan_to_num(tensor)), name


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save(path, TREE, tensors())
    tree, loaded = load(path)
    assert tree == TREE
    assert_same(loaded, tensors())
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_without_tensors(tmp_path: Path) -> None:
    save(tmp_path / "c", {}, {})
    assert load(str(tmp_path / "c")) == ({}, {})


def test_other_programs_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save(path, TREE, tensors())
    assert_same(load_file(path), tensors())
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["tree"]) == TREE


def test_the_same_content_is_the_same_file(tmp_path: Path) -> None:
    save(tmp_path / "a", TREE, tensors())
    save(tmp_path / "b", TREE, dict(reversed(tensors().items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "c"
    save(path, {"round": 1}, {"x": torch.ones(3), "flag": torch.tensor([True])})
    content = path.read_bytes()
    for i in range(len(content)):
        path.write_bytes(content[:i] + bytes([content[i] ^ 0x04]) + content[i + 1 :])
        with pytest.raises(RecordError, match="checkpoint '"):
            load(path)


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "c"
    save(path, {"round": 1}, {"x": torch.ones(3)})
    content = path.read_bytes()
    for n in range(len(content)):
        path.write_bytes(content[:n])
        with pytest.raises(RecordError):
            load(path)
    path.write_bytes(content + b" ")
    with pytest.raises(RecordError):
        load(path)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="cannot be read"):
        load(tmp_path / "none")
    save_file({"x": torch.ones(2)}, tmp_path / "model")
    with pytest.raises(RecordError, match="not a checkpoint of format"):
        load(tmp_path / "model")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(RecordError, match="not a checkpoint of format"):
        load(tmp_path / "text")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "c"
    save(path, {"round": 1}, {})

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(RecordError, match=r"No space left.*previous checkpoint is intact"):
            save(path, {"round": 2}, {"x": torch.ones(5)})
    assert load(path)[0] == {"round": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["c"]
    (tmp_path / "c.partial").write_bytes(b"left by a killed process")
    save(path, {"round": 3}, {})
    assert load(path)[0] == {"round": 3}
    assert [entry.name for entry in tmp_path.iterdir()] == ["c"]


def test_the_file_is_complete_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace
    seen: list[Any] = []

    def look(source: Path, target: Path) -> None:
        seen.append(load(source)[0])
        replace(source, target)

    monkeypatch.setattr(os, "replace", look)
    save(tmp_path / "c", {"round": 1}, {"x": torch.ones(3)})
    assert seen == [{"round": 1}]


@pytest.mark.parametrize("tensor", [torch.ones(2, dtype=torch.complex64), torch.ones(2, device="meta")])
def test_tensors_that_cannot_be_stored(tmp_path: Path, tensor: torch.Tensor) -> None:
    with pytest.raises(RecordError, match="tensor 'x'"):
        save(tmp_path / "c", {}, {"x": tensor})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("tree", "words"),
    [({"a": (1, 2)}, r"tree_json.a: got a tuple"), ({"a": [{1: 2}]}, r"tree_json.a\[0\]: key 1 is a int"), ({"a": {2.5}}, "got a set")],
)
def test_trees_that_would_change(tmp_path: Path, tree: dict[str, Any], words: str) -> None:
    with pytest.raises(RecordError, match=words):
        save(tmp_path / "c", tree, {})
