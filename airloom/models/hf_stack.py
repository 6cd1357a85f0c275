"""Causal models of `transformers` as a Sequential of layers, `embed, block1, ..., norm, out`, so that any run of layers is a model too.

For architectures whose blocks take features and positions alone: those built like Llama, and GPT-2. What passes between layers is one tensor. Of a
classifier it has one feature more, 1 at padding and else 0: the last layer must know where a text ends.

Shapes: B samples, T positions, D features, C classes or tokens.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn


class _Parts(NamedTuple):
    """Where an architecture keeps its parts: in the body, and the head beside it."""

    token: str
    position: str | None
    dropout: str | None
    blocks: str
    rotary: str | None
    norm: str


_BODIES = (_Parts("embed_tokens", None, None, "layers", "rotary_emb", "norm"), _Parts("wte", "wpe", "drop", "h", None, "ln_f"))


@final
class Embed(nn.Module):
    """Token ids [B, T] to features [B, T, D], or [B, T, D + 1] with the mark of padding."""

    def __init__(self, token: nn.Module, position: nn.Module | None, dropout: nn.Module | None, pad: int | None, settings: str) -> None:
        super().__init__()
        self.token, self.position, self.dropout = token, position, dropout
        self.pad = pad  # None: nobody asks where a text ends
        self.settings = settings  # all that the parameters do not show: part of the spec's key

    def forward(self, ids_BT: Tensor) -> Tensor:
        h_BTD = self.token(ids_BT)
        if self.position is not None:
            h_BTD = h_BTD + self.position(torch.arange(ids_BT.shape[1], device=ids_BT.device))
        if self.dropout is not None:
            h_BTD = self.dropout(h_BTD)
        return h_BTD if self.pad is None else torch.cat([h_BTD, (ids_BT == self.pad)[:, :, None].to(h_BTD.dtype)], dim=-1)


@final
class Block(nn.Module):
    """One block: attention from left to right, then the feed-forward layer."""

    def __init__(self, layer: nn.Module, rotary: nn.Module | None, is_marked: bool) -> None:
        super().__init__()
        self.layer, self.rotary, self.is_marked = layer, rotary, is_marked

    def forward(self, h_BTD: Tensor) -> Tensor:
        x_BTD = h_BTD[..., :-1] if self.is_marked else h_BTD
        told = {}
        if self.rotary is not None:
            told["position_embeddings"] = self.rotary(x_BTD, position_ids=torch.arange(x_BTD.shape[1], device=x_BTD.device)[None])
        y_BTD = self.layer(x_BTD, attention_mask=None, use_cache=False, **told)
        return torch.cat([y_BTD, h_BTD[..., -1:]], dim=-1) if self.is_marked else y_BTD


@final
class Norm(nn.Module):
    """The last normalization; of a classifier, of the last position before the padding: [B, D]."""

    def __init__(self, norm: nn.Module, is_marked: bool) -> None:
        super().__init__()
        self.norm, self.is_marked = norm, is_marked

    def forward(self, h_BTD: Tensor) -> Tensor:
        if not self.is_marked:
            return self.norm(h_BTD)
        at_T = torch.arange(h_BTD.shape[1], device=h_BTD.device)
        last_B = torch.where(h_BTD[..., -1] < 0.5, at_T, 0).amax(1)
        last_B1D = last_B[:, None, None].expand(-1, 1, h_BTD.shape[2] - 1)
        return self.norm(h_BTD[..., :-1].gather(1, last_B1D)[:, 0])


def stack(inner: Any, head: str, pad: int | None) -> nn.Sequential | None:
    """Return a model of transformers as a Sequential of its layers, sharing its modules; None where its architecture is another one.

    Arguments
    ---------
    inner: the whole model, adapters included. head: name of its last module. pad: id of padding, of a classifier; None: each position answers.
    """
    body, out = inner.base_model, dict(inner.named_children()).get(head)
    held = dict(body.named_children())
    found = next((p for p in _BODIES if {p.token, p.blocks, p.norm} | {n for n in (p.position, p.dropout, p.rotary) if n} == held.keys()), None)
    if found is None or out is None or len(dict(inner.named_children())) != 2:
        return None
    position, dropout, rotary = (None if n is None else held[n] for n in (found.position, found.dropout, found.rotary))
    settings: str = inner.config.to_json_string(use_diff=False)
    parts: OrderedDict[str, nn.Module] = OrderedDict(embed=Embed(held[found.token], position, dropout, pad, settings))
    for i, layer in enumerate(held[found.blocks].children()):
        parts[f"block{i + 1}"] = Block(layer, copy.deepcopy(rotary), pad is not None)
    parts["norm"] = Norm(held[found.norm], pad is not None)
    parts["out"] = out
    return nn.Sequential(parts)
