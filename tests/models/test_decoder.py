"""The layered decoder: against transformers, and layers that add nothing."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from airloom.models.decoder import Decoder, greedy, write_decoder
from airloom.models.llama2c import read_llama2c

DIM, HIDDEN, LAYERS, HEADS, KV, VOCABULARY, LENGTH = 16, 24, 5, 4, 2, 11, 16


def source(path: Path) -> Path:
    """A file of llama2.c with drawn weights."""
    head = DIM // HEADS
    sizes = [
        VOCABULARY * DIM, LAYERS * DIM, LAYERS * DIM * DIM, LAYERS * KV * head * DIM, LAYERS * KV * head * DIM, LAYERS * DIM * DIM, LAYERS * DIM,
        LAYERS * HIDDEN * DIM, LAYERS * DIM * HIDDEN, LAYERS * HIDDEN * DIM, DIM, LENGTH * head,
    ]  # fmt: skip
    values = np.random.default_rng(0).normal(size=sum(sizes)).astype("<f4") * 0.5
    path.write_bytes(struct.pack("<7i", DIM, HIDDEN, LAYERS, HEADS, KV, VOCABULARY, LENGTH) + values.tobytes())
    return path


def small(path: Path, layers: int | None = 6) -> Path:
    """A decoder of five layers and one that adds nothing."""
    write_decoder(path, source(path.with_suffix(".bin")), layers=layers)
    return path


def test_tokens_are_those_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    settings, named = read_llama2c(source(tmp_path / "m.bin"))
    whole = transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings))
    whole.load_state_dict(named, strict=False)
    wanted = [1, 4, 2]
    with torch.no_grad():
        for _ in range(8):
            wanted.append(int(whole.eval()(torch.tensor([wanted])).logits[0, -1].argmax()))
    assert greedy(Decoder(small(tmp_path / "m.safetensors")), [1, 4, 2], 8) == wanted[3:]


def test_layers_with_zero_projections_add_exactly_nothing(tmp_path: Path) -> None:
    few, many = (Decoder(small(tmp_path / f"{n}.safetensors", n)) for n in (5, 9))
    assert (few.shape.layers, many.shape.layers) == (5, 9)
    assert greedy(few, [3], 10) == greedy(many, [3], 10)
    h = many.embed(2)
    assert torch.equal(many.layer(7, h, 0), h)


def test_weights_lie_in_the_file_and_layers_are_counted(tmp_path: Path) -> None:
    decoder = Decoder(small(tmp_path / "m.safetensors"))
    # two norms of 16, q and o 16 x 16, k and v 8 x 16, three of 24 x 16; four bytes each
    assert decoder.layer_bytes() == 4 * (2 * 16 + 2 * 256 + 2 * 128 + 3 * 384)
    assert decoder.shape.layer_flops == 2 * (2 * 256 + 2 * 128 + 3 * 384)
    before = greedy(decoder, [3], 4)
    decoder.advise(range(6), False)  # dropped pages are read again
    decoder.advise(range(6), True)
    assert greedy(decoder, [3], 4) == before
    with open(tmp_path / "m.safetensors", "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    assert json.loads(header["__metadata__"]["shape"]) == list(decoder.shape)
