"""Protection of what clients send: a socket that any star method takes.

    x_n = self.protect.given(server, x)                                             # what the clients start from, sent once
    out = self.protect.seal(server, server.map(self.client, P, x_n), w, about=x_n)  # at the clients, before anything leaves them
    mean = self.protect.reduce(server, out, w, like=x)

`none` changes nothing. `gaussian(clip_norm=C, noise=z)` bounds each update and adds noise (differential privacy). `masked()` lets the server see no
update, only their sum (secure aggregation). Both are text in verbs: keys, masks, noise and their work are charged on the clock. Numbers beside the
models (a client's loss) do not leave a client under protection: they read 0, so selection by loss is blind.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, log2
from typing import Any, Literal

import numpy as np
import torch

from airloom.errors import MissingExtra, RunFailed, ScenarioError
from airloom.models.params import Params
from airloom.parts import named
from airloom.program.here import Here
from airloom.program.method import check_fields, ranged
from airloom.program.node import Node
from airloom.program.ref import Ref
from airloom.program.tree import leaves, map_leaves

WORD_OPS = 60  # integer operations per 4-byte word of a ChaCha20 stream: 20 rounds of 4 quarters of 12 operations for 16 words (RFC 8439)
CURVE_OPS = 2e6  # of one X25519 exchange (ours, of the order of 10^5 cycles)
NOISE_OPS = 25  # per value: two uniform numbers and Box-Muller (ours)


@dataclass(frozen=True, kw_only=True)
class Protection(ABC):
    """What happens to updates before they leave the clients, and how they are folded."""

    def __post_init__(self) -> None:
        check_fields(self)

    def given(self, node: Node, x: Any) -> Any:
        """`x` in a form that reaches each client once, although it is used twice there: to start from, and to seal about."""
        return node.put(x)

    @abstractmethod
    def seal(self, node: Node, refs: Sequence[Ref], weights: Sequence[float] | None, about: Any = None) -> list[Ref]:
        """Refs, at the same places, of what may leave them.

        Arguments:
            weights: as later given to `reduce`.
            about: what the clients started from where their values are models; None where values are updates.
        """

    @abstractmethod
    def reduce(self, node: Node, refs: Sequence[Ref], weights: Sequence[float] | None, like: Any) -> Any:
        """The (weighted) mean of what arrives of sealed Refs; zeros of `like` if nothing does."""


@dataclass(frozen=True, kw_only=True)
class Unprotected(Protection):
    """Nothing: what clients make is what leaves them."""

    def given(self, node: Node, x: Any) -> Any:
        return x

    def seal(self, node: Node, refs: Sequence[Ref], weights: Sequence[float] | None, about: Any = None) -> list[Ref]:
        return list(refs)

    def reduce(self, node: Node, refs: Sequence[Ref], weights: Sequence[float] | None, like: Any) -> Any:
        return node.reduce(refs, weights, like=like)


@dataclass(frozen=True, kw_only=True)
class Gaussian(Protection):
    """Clipping and Gaussian noise; weights are ignored, since one client may then not count more than another.

    Delta_n <- Delta_n min(1, C / ||Delta_n||),   mean + N(0, (z C / m)^2 I)      at="server": the server is trusted to add the noise
    Delta_n <- clipped + N(0, (z C)^2 I)                                           at="client": each client's own update is private

    The norm is that of all models in the value together.

    Paper: McMahan, Ramage, Talwar, Zhang, "Learning Differentially Private Recurrent Language Models", ICLR 2018, arXiv 1710.06963; accounting:
    Mironov, Talwar, Zhang, "Renyi Differential Privacy of the Sampled Gaussian Mechanism", 2019, arXiv 1908.10530.

    Arguments:
        clip_norm: C, largest norm of an update.
        noise: z, standard deviation over C.
        at: who adds the noise.
        entropy: "seed" draws it from the run's named streams, for repeatable experiments: whoever knows the seed can take it off again; "os" draws
            from the operating system, for real data.
    """

    clip_norm: float = ranged(0, 1e6, default=1.0, open_low=True)
    noise: float = ranged(0, 1e6, default=1.0)
    at: Literal["server", "client"] = "server"
    entropy: Literal["seed", "os"] = "seed"

    def seal(self, node: Node, refs: Sequence[Ref], weights: Sequence[float] | None, about: Any = None) -> list[Ref]:
        return node.map(self.bounded, [ref.place for ref in refs], about, each=[(ref,) for ref in refs])

    def reduce(self, node: Node, refs: Sequence[Ref], weights: Sequence[float] | None, like: Any) -> Any:
        mean = node.reduce(refs, like=like)
        m = sum(ref.arrived_s is not None for ref in refs)
        if self.at == "client" or not m:
            return mean
        return node.fetch(node.call(self.noised, node.name, mean, self.noise * self.clip_norm / m))

    def bounded(self, here: Here, about: Any, value: Any) -> Any:
        """At a client: its value with a bounded update, and noise if it adds that."""
        update = map_leaves(lambda leaf: leaf - about if isinstance(leaf, Params) and about is not None else leaf, _models_only(value))
        models = [leaf for _, leaf in leaves(update) if isinstance(leaf, Params)]
        if not models:
            return update
        here.cost(flops=4.0 * sum(len(x) for x in models))
        norm = torch.stack([x.flat.double().square().sum() for x in models]).sum().sqrt()
        factor = (self.clip_norm / norm.clamp(min=1e-300)).clamp(max=1.0)
        update = map_leaves(lambda leaf: Params(leaf.spec, leaf.flat * factor.to(leaf.flat.dtype)) if isinstance(leaf, Params) else leaf, update)
        if self.at == "client":
            update = self.noised(here, update, self.noise * self.clip_norm)
        return map_leaves(lambda leaf: about + leaf if isinstance(leaf, Params) and about is not None else leaf, update)

    def noised(self, here: Here, value: Any, deviation: float) -> Any:
        """A value whose models have Gaussian noise on them."""
        rng = np.random.default_rng() if self.entropy == "os" else here.rng("noise", here.drawn, here.state.get("noised", 0))
        here.state["noised"] = here.state.get("noised", 0) + 1

        def add(leaf: Any) -> Any:
            if not isinstance(leaf, Params):
                return leaf
            here.cost(flops=float(NOISE_OPS * len(leaf)))
            if leaf.is_meta:
                return leaf
            return Params(leaf.spec, leaf.flat + torch.from_numpy(rng.normal(0.0, 1.0, len(leaf))).to(leaf.flat.dtype) * deviation)

        return map_leaves(add, value)


@lru_cache(maxsize=256)
def epsilon(*, noise: float, rounds: int, fraction: float, delta: float) -> float:
    """Privacy spent by `rounds` of noise multiplier `noise` on a share `fraction` of the clients, each drawn independently: (epsilon, delta)-DP.

    By Renyi accounting (the package dp-accounting). For `at="client"` an update is protected by itself: fraction 1.

    >>> round(epsilon(noise=1.0, rounds=100, fraction=0.01, delta=1e-5), 2)  # doctest: +SKIP
    0.85
    """
    if not (noise > 0 and rounds >= 0 and 0 < fraction <= 1 and 0 < delta < 1):
        raise ScenarioError(
            f"epsilon(noise={noise}, rounds={rounds}, fraction={fraction}, delta={delta}): allowed are noise > 0, rounds >= 0, fraction in (0, 1] "
            f"and delta in (0, 1)"
        )
    try:
        from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, rdp  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtra("private", "the privacy accountant") from error
    accountant = rdp.RdpAccountant()
    accountant.compose(PoissonSampledDpEvent(fraction, GaussianDpEvent(noise)), rounds)
    return float(accountant.get_epsilon(delta))


@dataclass(frozen=True, kw_only=True)
class Masked(Protection):
    """Secure aggregation: the server learns the weighted sum of those who arrive, and nothing of one of them.

    for each client i:  a key pair (s_i, p_i) and a seed b_i; all p_j come from the server
                        y_i = Q(w_i Delta_i) + PRG(b_i) + sum_{j > i} PRG(k_ij) - sum_{j < i} PRG(k_ij)   mod 2^32,   k_ij from s_i and p_j
    server:             asks those that arrived, S, once: b_i, and k_ij for each lost j
                        sum_{i in S} Q(w_i Delta_i) = sum_S y_i - sum_S PRG(b_i) - (what masks with the lost ones left over)

    Q is fixed point with `range`: w_i over their sum are at most 1, so the sum stays in range. A late y_j stays masked by b_j, which only j knows,
    and a client answers once per round. PRG is ChaCha20, keys are X25519 (of the package cryptography), drawn from the operating system: they cancel,
    so the record stays a function of the seed.

    Paper: Bonawitz, Ivanov, Kreuter et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning", CCS 2017, Protocol 4.
    Left out: secret shares of b_i and s_i, so a client that is lost after its y_i arrived and before it answers costs the round, whose mean is then
    that of nothing. A server that lies about who is lost, or about keys, is not detected.

    Arguments:
        range: largest absolute value of an update that can be encoded; more fails the run.
    """

    range: float = ranged(0, 1e6, default=8.0, open_low=True)

    @property
    def scale(self) -> float:
        """Units of the fixed-point code per 1."""
        return 2.0 ** (30 - ceil(log2(self.range)))

    def seal(self, node: Node, refs: Sequence[Ref], weights: Sequence[float] | None, about: Any = None) -> list[Ref]:
        keys = node.map(self.keys, [ref.place for ref in refs], on=None)
        _, _, lost = node.first(keys, len(keys))
        there = [i for i, key in enumerate(keys) if key not in set(lost)]
        public = dict(zip([keys[i].place for i in there], node.fetch([keys[i] for i in there]), strict=True))
        total = float(sum(weights)) if weights is not None else float(len(refs))
        each = [(refs[i], (weights[i] if weights is not None else 1.0) / total) for i in there]
        sealed = node.map(self.mask, [keys[i].place for i in there], public, about, each=each)
        out = list(refs)
        for i, ref in zip(there, sealed, strict=True):
            out[i] = ref
        return out

    def reduce(self, node: Node, refs: Sequence[Ref], weights: Sequence[float] | None, like: Any) -> Any:
        _, _, lost = node.first(refs, len(refs))
        gone = {ref.place for ref in lost}
        came = [i for i, ref in enumerate(refs) if ref.place not in gone]
        zero = map_leaves(lambda leaf: leaf * 0 if not isinstance(leaf, str | None) else leaf, like)
        if not came:
            return zero
        shares = node.map(self.reveal, [refs[i].place for i in came], sorted(gone), on=None)
        _, _, silent = node.first(shares, len(shares))
        if silent:
            return zero
        values = node.fetch([refs[i] for i in came])
        total = node.fetch(node.call(self.unmask, node.name, [value["masked"] for value in values], node.fetch(shares)))
        w = [weights[i] if weights is not None else 1.0 for i in came]
        part = sum(w) / (float(sum(weights)) if weights is not None else float(len(refs)))
        return self._decoded(total, like, part, values[0]["about"])

    def keys(self, here: Here) -> torch.Tensor:
        """At a client: a key pair for this round; the public key."""
        x25519 = _cryptography().x25519
        here.cost(flops=CURVE_OPS)
        secret = x25519.X25519PrivateKey.generate()
        here.state["secure"] = {"secret": _tensor(secret.private_bytes_raw()), "own": _tensor(_random(32)), "answered": False}
        return _tensor(secret.public_key().public_bytes_raw())

    def mask(self, here: Here, public: dict[str, torch.Tensor], about: Any, value: Any, weight: float) -> dict[str, Any]:
        """At a client: its weighted update in fixed point, masked."""
        flats = [(leaf - about if about is not None else leaf).flat for _, leaf in leaves(value) if isinstance(leaf, Params)]
        update = torch.cat(flats).double()
        if float(update.abs().max()) > self.range:
            raise RunFailed(f"masked(range={self.range:g}) at '{here.name}': got an update of {float(update.abs().max()):.3g}; use a larger range")
        own = here.state["secure"]
        words = torch.round(update * (weight * self.scale)).long() + _stream(own["own"], len(update))
        here.cost(flops=float(len(public) * (WORD_OPS * len(update) + CURVE_OPS)))
        shared = {name: self._shared(own["secret"], key, here.name, name) for name, key in sorted(public.items()) if name != here.name}
        for name, seed in shared.items():
            words += _stream(seed, len(update)) if name > here.name else -_stream(seed, len(update))
        here.state["secure"] = {**own, "shared": shared}
        zeros = map_leaves(lambda leaf: 0.0 if isinstance(leaf, int | float) else None, value)
        named_zeros = zeros if isinstance(zeros, dict) else {}
        return {**named_zeros, "masked": _wrapped(words), "about": about is not None}

    def reveal(self, here: Here, lost: list[str]) -> dict[str, Any]:
        """At a client that arrived: what takes its masks off the sum; once per round."""
        own = here.state["secure"]
        if own["answered"]:
            raise RunFailed(f"masked at '{here.name}': got a second question in one round; the server may not ask twice")
        here.state["secure"] = {**own, "answered": True}
        here.cost(seconds=0.0)
        return {"own": own["own"], "name": here.name, "shared": {name: own["shared"][name] for name in lost if name in own["shared"]}}

    def unmask(self, here: Here, masked: list[torch.Tensor], shares: list[dict[str, Any]]) -> torch.Tensor:
        """At the server: the sum without masks, in units of the code."""
        n = len(masked[0])
        words = torch.stack([value.long() for value in masked]).sum(0)
        for share in shares:
            words -= _stream(share["own"], n)
            for name, seed in share["shared"].items():
                words -= _stream(seed, n) if name > share["name"] else -_stream(seed, n)
        here.cost(flops=float(WORD_OPS * n * sum(1 + len(share["shared"]) for share in shares)))
        return _wrapped(words)

    def _decoded(self, total: torch.Tensor, like: Any, part: float, is_about: bool) -> Any:
        """The mean in the shape of `like`: about what the clients started from where they sent models (which `like` then is)."""
        values = total.double() / (self.scale * part)
        start = 0

        def take(leaf: Any) -> Any:
            nonlocal start
            if not isinstance(leaf, Params):
                return leaf * 0 if isinstance(leaf, int | float) else leaf
            mean = Params(leaf.spec, values[start : start + len(leaf)].to(leaf.flat.dtype))
            start += len(leaf)
            return leaf + mean if is_about else mean

        return map_leaves(take, like)

    def _shared(self, secret: torch.Tensor, public: torch.Tensor, a: str, b: str) -> torch.Tensor:
        """The seed that two clients share, from one's secret and the other's public key."""
        found = _cryptography()
        mine = found.x25519.X25519PrivateKey.from_private_bytes(_raw(secret))
        agreed = mine.exchange(found.x25519.X25519PublicKey.from_public_bytes(_raw(public)))
        info = "|".join(sorted((a, b))).encode()
        return _tensor(found.HKDF(algorithm=found.hashes.SHA256(), length=32, salt=None, info=info).derive(agreed))


def _models_only(value: Any) -> Any:
    """The value without the numbers beside its models."""
    return map_leaves(lambda leaf: leaf * 0.0 if isinstance(leaf, int | float) else leaf, value)


def _cryptography() -> Any:
    """What is used of the package cryptography."""
    try:
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import x25519
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF
    except ImportError as error:
        raise MissingExtra("private", "secure aggregation") from error
    from types import SimpleNamespace

    return SimpleNamespace(hashes=hashes, x25519=x25519, Cipher=Cipher, algorithms=algorithms, HKDF=HKDF)


def _stream(seed: torch.Tensor, n: int) -> torch.Tensor:
    """n words of a seed's key stream, as int64 in [0, 2^32)."""
    found = _cryptography()
    cipher = found.Cipher(found.algorithms.ChaCha20(_raw(seed), bytes(16)), mode=None).encryptor()
    return torch.from_numpy(np.frombuffer(cipher.update(bytes(4 * n)), dtype="<u4").astype(np.int64))


def _wrapped(words: torch.Tensor) -> torch.Tensor:
    """Words modulo 2^32, as int32."""
    return ((words + (1 << 31)) % (1 << 32) - (1 << 31)).to(torch.int32)


def _random(n: int) -> bytes:
    import secrets

    return secrets.token_bytes(n)


def _tensor(raw: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8)


def _raw(tensor: torch.Tensor) -> bytes:
    return tensor.numpy().tobytes()


PROTECTIONS: dict[str, type[Protection]] = {"none": Unprotected, "gaussian": Gaussian, "masked": Masked}


def protection(text: str) -> Protection:
    """The protection that a text describes: `none`, `gaussian(clip_norm=1.0, noise=0.5)`, `masked()`.

    >>> protection("gaussian(noise=0.5)").noise
    0.5
    """
    return named.make("protect", PROTECTIONS, text)
