"""A decoder of Llama's architecture, layer by layer, on weights that stay in a memory-mapped file.

    h <- h + W_o attention(rotate(W_q n), rotate(W_k n), W_v n),   n = h / rms(h) * g
    h <- h + W_down (silu(W_gate n) * W_up n),   n likewise;   token = argmax W_out n

One token at a time, key/value caches kept by layer. The operations of a layer do not depend on which process runs it, so tokens are bit for bit the
same however layers are dealt out.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from airloom.clock.rng import seed_of
from airloom.errors import ScenarioError
from airloom.models.llama2c import read_llama2c

_PARTS = ("input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "post_attention_layernorm",
          "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")  # fmt: skip


class Shape(NamedTuple):
    """Sizes of a decoder: width, feed-forward width, layers, heads, key/value heads, tokens of the vocabulary, longest text."""

    width: int
    wide: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    length: int

    @property
    def layer_flops(self) -> float:
        """Multiply-adds of one layer's weights, times two."""
        kv = self.width // self.heads * self.kv_heads
        return 2.0 * (2 * self.width**2 + 2 * self.width * kv + 3 * self.width * self.wide)


def write_decoder(path: Path, source: Path | None, *, layers: int | None = None, seed: int = 0) -> None:
    """Write a decoder's weights so that they can be mapped: one safetensors file with its shape.

    Arguments:
        source: a file of llama2.c; None draws 9.5 million weights (width 256, 12 layers), which answer nothing and cost what a real model costs.
        layers: append layers that add zero (a prime number of layers has no ring with several turns).
    """
    if source is None:
        shape = Shape(256, 688, 12, 8, 8, 512, 256)
        named = _drawn(shape, seed)
    else:
        settings, named = read_llama2c(source)
        shape = Shape(*(settings[key] for key in (
            "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size",
            "max_position_embeddings")))  # fmt: skip
        named = {name.removeprefix("model."): value for name, value in named.items()}
    if layers is not None and layers < shape.layers:
        raise ScenarioError(f"write_decoder(layers={layers}): the model has {shape.layers}; allowed are as many or more")
    for extra in range(shape.layers, layers or shape.layers):
        for part in _PARTS:
            copied = named[f"layers.0.{part}.weight"]
            named[f"layers.{extra}.{part}.weight"] = torch.zeros_like(copied) if part.endswith(("o_proj", "down_proj")) else copied.clone()
    shape = shape._replace(layers=layers or shape.layers)
    named["lm_head.weight"] = named["lm_head.weight"].clone()  # tied tables are two in the file
    save_file({name: value.contiguous() for name, value in named.items()}, path, metadata={"shape": json.dumps(shape)})


def _drawn(shape: Shape, seed: int) -> dict[str, Tensor]:
    """Weights of the usual size, drawn."""
    g = torch.Generator().manual_seed(seed_of(seed, "decoder"))
    kv = shape.width // shape.heads * shape.kv_heads
    square, shared, narrow = (shape.width, shape.width), (kv, shape.width), (shape.width,)
    wide, back = (shape.wide, shape.width), (shape.width, shape.wide)
    sizes = dict(zip(_PARTS, [narrow, square, shared, shared, square, narrow, wide, wide, back], strict=True))
    out = {"embed_tokens.weight": torch.randn(shape.vocabulary, shape.width, generator=g), "norm.weight": torch.ones(shape.width)}
    out["lm_head.weight"] = torch.randn(shape.vocabulary, shape.width, generator=g) / shape.width**0.5
    for layer in range(shape.layers):
        for part, size in sizes.items():
            drawn = torch.ones(size) if len(size) == 1 else torch.randn(size, generator=g) / size[1] ** 0.5
            out[f"layers.{layer}.{part}.weight"] = drawn
    return out


class Decoder:
    """Layers of a mapped file, computed where they are asked for; nothing is read before it is used."""

    def __init__(self, path: Path) -> None:
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(size))
        self.shape = Shape(*json.loads(header.pop("__metadata__")["shape"]))
        self._map = np.memmap(path, dtype=np.uint8, mode="c", offset=0)  # copies on writing, which nobody does
        self._begin, self._header = 8 + size, header
        self._caches: dict[int, tuple[Tensor, Tensor]] = {}
        head = self.shape.width // self.shape.heads
        angle = torch.outer(torch.arange(self.shape.length), 10000.0 ** (-torch.arange(0, head, 2) / head))
        self._cos, self._sin = torch.cat([angle, angle], 1).cos(), torch.cat([angle, angle], 1).sin()

    def weight(self, name: str) -> Tensor:
        """A tensor that lies in the file."""
        low, high = self._header[name]["data_offsets"]
        return torch.from_numpy(self._map[self._begin + low : self._begin + high].view(np.float32)).view(self._header[name]["shape"])

    def layer_bytes(self) -> int:
        """Bytes of one layer."""
        return sum(high - low for low, high in (self._header[f"layers.0.{part}.weight"]["data_offsets"] for part in _PARTS))

    def advise(self, layers: Sequence[int], is_wanted: bool) -> None:
        """Tell the system that the pages of these layers will be needed, or can go."""
        for layer in layers:
            for part in _PARTS:
                low, high = self._header[f"layers.{layer}.{part}.weight"]["data_offsets"]
                start = (self._begin + low) // mmap.PAGESIZE * mmap.PAGESIZE
                self._map._mmap.madvise(mmap.MADV_WILLNEED if is_wanted else mmap.MADV_DONTNEED, start, self._begin + high - start)  # type: ignore[attr-defined]

    def embed(self, token: int) -> Tensor:
        """The activation [1, D] of a token."""
        return self.weight("embed_tokens.weight")[token : token + 1].clone()

    def layer(self, number: int, h_1D: Tensor, position: int) -> Tensor:
        """One layer at a position; its cache grows by this token."""
        s, w = self.shape, {part: self.weight(f"layers.{number}.{part}.weight") for part in _PARTS}
        head = s.width // s.heads
        n_1D = _norm(h_1D, w["input_layernorm"])
        q_H1E, k_H1E, v_H1E = (F.linear(n_1D, w[f"self_attn.{p}_proj"]).view(1, -1, head).transpose(0, 1) for p in "qkv")
        q_H1E, k_H1E = self._rotated(q_H1E, position), self._rotated(k_H1E, position)
        if position == 0:
            self._caches[number] = (q_H1E.new_zeros(s.kv_heads, s.length, head), q_H1E.new_zeros(s.kv_heads, s.length, head))
        keys, values = self._caches[number]
        keys[:, position], values[:, position] = k_H1E[:, 0], v_H1E[:, 0]
        shared = s.heads // s.kv_heads
        k_HTE, v_HTE = (c[:, : position + 1].repeat_interleave(shared, 0) for c in (keys, values))
        mixed = torch.softmax(q_H1E @ k_HTE.transpose(1, 2) / head**0.5, -1) @ v_HTE
        h_1D = h_1D + F.linear(mixed.transpose(0, 1).reshape(1, -1), w["self_attn.o_proj"])
        n_1D = _norm(h_1D, w["post_attention_layernorm"])
        return h_1D + F.linear(F.silu(F.linear(n_1D, w["mlp.gate_proj"])) * F.linear(n_1D, w["mlp.up_proj"]), w["mlp.down_proj"])

    def output(self, h_1D: Tensor) -> int:
        """The most likely next token; the first one of equals."""
        return int(F.linear(_norm(h_1D, self.weight("norm.weight")), self.weight("lm_head.weight")).argmax())

    def _rotated(self, x_H1E: Tensor, position: int) -> Tensor:
        half = x_H1E.shape[-1] // 2
        turned = torch.cat([-x_H1E[..., half:], x_H1E[..., :half]], -1)
        return x_H1E * self._cos[position] + turned * self._sin[position]


def _norm(h_1D: Tensor, gain_D: Tensor) -> Tensor:
    return h_1D * torch.rsqrt(h_1D.square().mean(-1, keepdim=True) + 1e-5) * gain_D


def greedy(decoder: Decoder, prompt: Sequence[int], tokens: int) -> list[int]:
    """Decode in this process alone: the reference of every ring."""
    out: list[int] = []
    for position in range(len(prompt) + tokens - 1):
        h = decoder.embed(prompt[position] if position < len(prompt) else out[-1])
        for number in range(decoder.shape.layers):
            h = decoder.layer(number, h, position)
        if position >= len(prompt) - 1:
            out.append(decoder.output(h))
    return out
