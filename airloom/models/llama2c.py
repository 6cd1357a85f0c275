"""Models of Llama's architecture in the binary format of llama2.c: seven whole numbers, then all weights as float32.

dim, hidden, layers, heads, key-value heads, vocabulary (negative: the output has weights of its own), length; then, each for all layers: token
embedding, attention norm, q, k, v, output, feed-forward norm, gate (w1), down (w2), up (w3); final norm; two rotary tables, which are left out.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from airloom.errors import ScenarioError

_NORM_EPSILON = 1e-5  # llama2.c


def read_llama2c(path: Path | str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the settings and the named weights of a model, as `transformers.LlamaConfig` and `LlamaForCausalLM` take them.

    Rotary pairs are neighbors in the file and half a head apart in transformers, so the rows of q and k are put into that order.

    Raises
    ------
    ScenarioError: no such file, or one that is too short or too long for its own header.
    """
    where = Path(path)
    if not where.is_file():
        raise ScenarioError(f"read_llama2c('{where}'): there is no such file; give a model in the format of llama2.c")
    raw = where.read_bytes()
    dim, hidden, layers, heads, kv_heads, vocabulary, length = struct.unpack("<7i", raw[:28]) if len(raw) >= 28 else (0,) * 7
    if min(dim, hidden, layers, heads, kv_heads, abs(vocabulary), length) < 1 or dim % heads or heads % kv_heads:
        raise ScenarioError(f"read_llama2c('{where}'): its first 28 bytes are no header of llama2.c; give a model in that format")
    is_tied, vocabulary = vocabulary > 0, abs(vocabulary)
    head, kv = dim // heads, kv_heads * (dim // heads)
    shapes = {
        "embed_tokens": (vocabulary, dim), "input_layernorm": (layers, dim), "self_attn.q_proj": (layers, dim, dim),
        "self_attn.k_proj": (layers, kv, dim), "self_attn.v_proj": (layers, kv, dim), "self_attn.o_proj": (layers, dim, dim),
        "post_attention_layernorm": (layers, dim), "mlp.gate_proj": (layers, hidden, dim), "mlp.down_proj": (layers, dim, hidden),
        "mlp.up_proj": (layers, hidden, dim), "norm": (dim,), "rotary": (2, length, head // 2),
    }  # fmt: skip
    if not is_tied:
        shapes["lm_head"] = (vocabulary, dim)
    values = np.frombuffer(raw, "<f4", offset=28)
    wanted = sum(int(np.prod(shape)) for shape in shapes.values())
    if len(values) != wanted:
        raise ScenarioError(f"read_llama2c('{where}'): it holds {len(values)} weights, its header asks for {wanted}; the file is damaged")
    named: dict[str, Tensor] = {}
    at = 0
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        block = torch.from_numpy(values[at : at + size].reshape(shape).copy())
        at += size
        if name in ("self_attn.q_proj", "self_attn.k_proj"):
            block = block.view(layers, -1, head // 2, 2, dim).transpose(2, 3).reshape(shape)
        if name in ("embed_tokens", "norm"):
            named[f"model.{name}.weight"] = block
        elif name == "lm_head":
            named["lm_head.weight"] = block
        elif name != "rotary":
            named |= {f"model.layers.{layer}.{name}.weight": block[layer].clone() for layer in range(layers)}
    named.setdefault("lm_head.weight", named["model.embed_tokens.weight"])
    settings = {
        "hidden_size": dim, "intermediate_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "vocab_size": vocabulary, "max_position_embeddings": length, "tie_word_embeddings": is_tied,
        "rms_norm_eps": _NORM_EPSILON, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    return settings, named
