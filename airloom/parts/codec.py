"""What clients send in place of their models and updates: half precision, stochastic quantization, the largest or random values.

    airloom run fedavg:codec=qsgd(bits=4) ...            every method has the field; see `airloom.program.codec` for what the engine does with it

n values of 4 bytes weigh 2n (half), n b / 8 and 4 per bucket (qsgd), 8 k (topk: places and values), 4 k + 8 (randk: values and a seed).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from airloom.clock.rng import generator
from airloom.parts import named
from airloom.program.codec import Codec, Payload
from airloom.program.method import check_fields, ranged


@dataclass(frozen=True, kw_only=True)
class Half(Codec):
    """Two bytes per value, rounded to nearest.

    Arguments:
        form: "float16" (11 bits of precision; beyond +-65504 values are cut to it) or "bfloat16" (8 bits, the range of float32).

    >>> Half().size_bytes(100, 4)
    200
    """

    form: Literal["float16", "bfloat16"] = "float16"

    def size_bytes(self, n: int, item_bytes: int) -> int:
        """2 n."""
        return 2 * n

    def encode(self, u: Tensor, rng: np.random.Generator) -> Payload:
        """Round."""
        dtype = getattr(torch, self.form)
        most = torch.finfo(dtype).max
        return {"values": u.clamp(-most, most).to(dtype)}

    def decode(self, payload: Payload, n: int, dtype: torch.dtype) -> Tensor:
        """Widen."""
        return payload["values"].to(dtype)


@dataclass(frozen=True, kw_only=True)
class QSGD(Codec):
    """Stochastic quantization: each value becomes one of s levels of its bucket's norm, up or down by chance, so that the mean is right.

    Q(u_i) = |u| sign(u_i) xi_i / s,   xi_i = floor(s |u_i| / |u|), one more with the probability of the remainder;   s = 2^(bits - 1) - 1

    E Q(u) = u and, with the Euclidean norm of buckets of B values, E |Q(u) - u|^2 <= min(B / s^2, sqrt(B) / s) |u|^2.

    Paper: Alistarh, Grubic, Li, Tomioka, Vojnovic, "QSGD: Communication-Efficient SGD via Gradient Quantization and Encoding", NIPS 2017,
    arXiv 1610.02132, section 3.1 and Lemma 3.1; buckets from section 4.

    Arguments:
        bits: per value, the sign among them (4 and 8: paper's experiments).
        bucket: values that share a norm (512: paper's experiments).
        norm: "l2" (the analysis) or "max" (the paper's experiments; smaller error, no sparsity).

    Left out: Elias coding of the levels; every value takes `bits`.

    >>> QSGD(bits=4).size_bytes(1024, 4)      # 1024 / 2, and two norms
    520
    """

    bits: int = ranged(2, 16, default=8)
    bucket: int = ranged(1, 2**31, default=512)
    norm: Literal["l2", "max"] = "l2"

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def is_random(self) -> bool:
        """Up or down by chance."""
        return True

    def size_bytes(self, n: int, item_bytes: int) -> int:
        """Levels of all values, packed, and 4 bytes per bucket."""
        return ceil(n * self.bits / 8) + 4 * ceil(n / self.bucket)

    def encode(self, u: Tensor, rng: np.random.Generator) -> Payload:
        """Levels from 0 to 2 s, packed bit by bit, and the norms."""
        s, n = 2 ** (self.bits - 1) - 1, len(u)
        size = min(self.bucket, n)
        rows = torch.nn.functional.pad(u.double(), (0, -n % size)).view(-1, size)
        norms = (rows.norm(dim=1) if self.norm == "l2" else rows.abs().amax(1)).float()
        scaled = (rows * (s / norms.double().clamp(min=1e-300))[:, None]).flatten()[:n].clamp(-s, s)  # a float32 norm may lie a little below
        levels = torch.floor(scaled + torch.from_numpy(rng.random(n))).to(torch.int32) + s
        bits = (levels.numpy()[:, None] >> np.arange(self.bits)) & 1
        return {"levels": torch.from_numpy(np.packbits(bits.astype(np.uint8).reshape(-1))), "norms": norms}

    def decode(self, payload: Payload, n: int, dtype: torch.dtype) -> Tensor:
        """Levels times norm / s."""
        s = 2 ** (self.bits - 1) - 1
        bits = np.unpackbits(payload["levels"].numpy(), count=n * self.bits).reshape(n, self.bits)
        levels = torch.from_numpy(bits.astype(np.int64) @ (1 << np.arange(self.bits)) - s)
        return (levels * payload["norms"].double().repeat_interleave(min(self.bucket, n))[:n] / s).to(dtype)


@dataclass(frozen=True, kw_only=True)
class TopK(Codec):
    """The k values of largest size with their places; with error feedback the rest is kept and added next time.

    Paper: Stich, Cordonnier, Jaggi, "Sparsified SGD with Memory", NeurIPS 2018, arXiv 1809.07599, Algorithm 1 (the memory; there per step, here per
    message).

    Arguments:
        share: of the values that are sent, k = ceil(share n) (0.01: usual).
        feedback: keep what was dropped (paper). Without it values that are never among the largest are never sent.

    >>> TopK(share=0.01).size_bytes(1000, 4)
    80
    """

    share: float = ranged(0, 1, default=0.01, open_low=True)
    feedback: bool = True

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def has_memory(self) -> bool:
        """As `feedback` says."""
        return self.feedback

    def size_bytes(self, n: int, item_bytes: int) -> int:
        """k places of 4 bytes and k values."""
        return ceil(self.share * n) * (4 + item_bytes)

    def encode(self, u: Tensor, rng: np.random.Generator) -> Payload:
        """Places in ascending order, and values."""
        places = u.abs().topk(ceil(self.share * len(u)), sorted=False).indices.sort().values
        return {"places": places.to(torch.int32), "values": u[places]}

    def decode(self, payload: Payload, n: int, dtype: torch.dtype) -> Tensor:
        """Zeros but for these places."""
        return torch.zeros(n, dtype=dtype).index_copy_(0, payload["places"].long(), payload["values"])


@dataclass(frozen=True, kw_only=True)
class RandomK(Codec):
    """k values at random places, which a seed names. Without error feedback they are scaled by n / k, so that the mean is right.

    Paper: as for TopK; unbiased form: Konecny, McMahan, Yu et al., "Federated Learning: Strategies for Improving Communication Efficiency", 2016,
    arXiv 1610.05492 (random mask).

    Arguments:
        share: of the values that are sent, k = ceil(share n).
        feedback: keep what was dropped, and send values as they are.

    >>> RandomK(share=0.01).size_bytes(1000, 4)
    48
    """

    share: float = ranged(0, 1, default=0.01, open_low=True)
    feedback: bool = True

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def is_random(self) -> bool:
        """Places are drawn."""
        return True

    @property
    def has_memory(self) -> bool:
        """As `feedback` says."""
        return self.feedback

    def size_bytes(self, n: int, item_bytes: int) -> int:
        """A seed of 8 bytes and k values."""
        return 8 + ceil(self.share * n) * item_bytes

    def _places(self, seed: int, n: int) -> Tensor:
        return torch.from_numpy(np.sort(generator(seed, "random k").permutation(n)[: ceil(self.share * n)]))

    def encode(self, u: Tensor, rng: np.random.Generator) -> Payload:
        """A seed, and the values at its places."""
        seed, n = int(rng.integers(2**62)), len(u)
        places = self._places(seed, n)
        scale = 1.0 if self.feedback else n / len(places)
        return {"seed": torch.tensor([seed]), "values": u[places] * scale}

    def decode(self, payload: Payload, n: int, dtype: torch.dtype) -> Tensor:
        """Zeros but for the seed's places."""
        return torch.zeros(n, dtype=dtype).index_copy_(0, self._places(int(payload["seed"]), n), payload["values"])


CODECS: Mapping[str, type[Codec]] = MappingProxyType({"half": Half, "qsgd": QSGD, "topk": TopK, "randk": RandomK})


def codec(text: str) -> Codec | None:
    """Make a codec by name: `half`, `qsgd(bits=4)`, `topk(share=0.01)`, `randk(share=0.1, feedback=False)`; `none` sends values as they are.

    >>> codec("topk(share=0.05)"), codec("none")
    (TopK(share=0.05, feedback=True), None)
    """
    return None if text.strip().lower() in ("none", "null") else named.make("codec", CODECS, text)
