"""Files of llama2.c: shapes, order, rotary pairs, damaged files."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from airloom.errors import ScenarioError
from airloom.models.llama2c import read_llama2c

DIM, HIDDEN, LAYERS, HEADS, KV, VOCABULARY, LENGTH = 8, 6, 2, 2, 1, 5, 4
SIZES = [
    VOCABULARY * DIM, LAYERS * DIM, LAYERS * DIM * DIM, LAYERS * 4 * DIM, LAYERS * 4 * DIM, LAYERS * DIM * DIM, LAYERS * DIM, LAYERS * HIDDEN * DIM,
    LAYERS * DIM * HIDDEN, LAYERS * HIDDEN * DIM, DIM, 2 * LENGTH * 2,
]  # fmt: skip


def write(path: Path, values: np.ndarray, vocabulary: int = VOCABULARY) -> Path:
    path.write_bytes(struct.pack("<7i", DIM, HIDDEN, LAYERS, HEADS, KV, vocabulary, LENGTH) + values.astype("<f4").tobytes())
    return path


def test_weights_are_found_in_their_order(tmp_path: Path) -> None:
    values = np.arange(sum(SIZES), dtype=np.float32)
    settings, named = read_llama2c(write(tmp_path / "m.bin", values))
    assert (settings["hidden_size"], settings["num_key_value_heads"], settings["tie_word_embeddings"]) == (DIM, KV, True)
    starts = np.cumsum([0, *SIZES])
    assert named["model.embed_tokens.weight"].flatten().tolist() == list(range(40))
    assert named["lm_head.weight"] is named["model.embed_tokens.weight"]
    # w1 is the gate, w2 goes down, w3 up; of the second layer, the second half of each block
    for name, block, shape in (("gate_proj", 7, (HIDDEN, DIM)), ("down_proj", 8, (DIM, HIDDEN)), ("up_proj", 9, (HIDDEN, DIM))):
        weight = named[f"model.layers.1.mlp.{name}.weight"]
        assert tuple(weight.shape) == shape and weight[0, 0] == starts[block] + SIZES[block] // 2
    # q of a head: rows 0 1 2 3 hold the pairs (0, 1) and (2, 3); transformers wants the first of all pairs, then the second ones
    q = named["model.layers.0.self_attn.q_proj.weight"]
    assert [int(row[0] - starts[2]) // DIM for row in q] == [0, 2, 1, 3, 4, 6, 5, 7]


def test_an_output_of_its_own(tmp_path: Path) -> None:
    values = np.arange(sum(SIZES) + VOCABULARY * DIM, dtype=np.float32)
    settings, named = read_llama2c(write(tmp_path / "m.bin", values, -VOCABULARY))
    assert not settings["tie_word_embeddings"] and named["lm_head.weight"][0, 0] == sum(SIZES)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="there is no such file"):
        read_llama2c(tmp_path / "none.bin")
    with pytest.raises(ScenarioError, match=f"it holds {sum(SIZES) - 1} weights, its header asks for {sum(SIZES)}"):
        read_llama2c(write(tmp_path / "short.bin", np.zeros(sum(SIZES) - 1)))
    (tmp_path / "text.bin").write_bytes(b"no model")
    with pytest.raises(ScenarioError, match=r"no header of llama2\.c"):
        read_llama2c(tmp_path / "text.bin")
    assert torch.is_tensor(read_llama2c(write(tmp_path / "good.bin", np.zeros(sum(SIZES))))[1]["model.norm.weight"])
