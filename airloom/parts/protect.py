"""Protections by name: the parts for the socket `protect` of every method (see `airloom.program.protection`).

`none` changes nothing. `gaussian(clip_norm=C, noise=z)` bounds what each client sends and adds noise (differential privacy); any method takes it.
`masked()` lets the server see no update, only their sum (secure aggregation): for methods that fold through `seal` and `reduce`. Both are charged on
the clock: keys, masks, noise and their work. Numbers beside the models (a client's loss) do not leave a client under protection: they read what they
would be had nothing been learned (0), so selection by loss is blind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, isfinite, log2
from typing import Any, Literal

import numpy as np
import torch

from airloom.errors import MissingExtra, RunFailed, ScenarioError
from airloom.models.module import ModelSpec
from airloom.models.params import Params
from airloom.parts import named
from airloom.program.here import Here
from airloom.program.method import check_fields, ranged
from airloom.program.node import Node
from airloom.program.protection import OfSums, Protection, Unprotected, vector_of, vectors, with_vector
from airloom.program.reducer import MEAN, SUM, CountedMean, ScatterSum
from airloom.program.ref import Ref
from airloom.program.tree import Path, at, leaves, map_leaves

WORD_OPS = 60  # integer operations per 4-byte word of a ChaCha20 stream: 20 rounds of 4 quarters of 12 operations for 16 words (RFC 8439)
CURVE_OPS = 2e6  # of one X25519 exchange (ours, of the order of 10^5 cycles)
CLIP_OPS = 4  # per value: difference, square, sum, scale
NOISE_OPS = 25  # per value: two uniform numbers and Box-Muller (ours)


@dataclass(frozen=True, kw_only=True)
class Gaussian(Protection):
    """Clipping and Gaussian noise.

    at each client, for every model or tensor v in what a device function returns:   Delta = v - r,   r what it would be had nothing been learned
    Delta <- Delta min(1, C / ||Delta||)
    at="client":  Delta <- Delta + N(0, (z C)^2 I);   r + Delta is what leaves the device: each release is private by itself, whoever gets it
    at="server":  mean + N(0, (z C / m)^2 I), weights ignored: the server is trusted to add the noise; for methods that fold through `reduce`

    An update that is not finite counts as none. Neighbors are a client's data and none: two sets of data may be 2 C apart, twice as far.

    Paper: McMahan, Ramage, Talwar, Zhang, "Learning Differentially Private Recurrent Language Models", ICLR 2018, arXiv 1710.06963; accounting:
    Mironov, Talwar, Zhang, "Renyi Differential Privacy of the Sampled Gaussian Mechanism", 2019, arXiv 1908.10530.

    Arguments:
        clip_norm: C, largest norm of an update.
        noise: z, standard deviation over C.
        at: who adds the noise.
        entropy: "seed" draws it from the run's named streams, for repeatable experiments: whoever knows the seed can take it off again; "os" draws
            from the operating system, for real data.
        delta: at which the record states epsilon (1e-5, usual).
    """

    clip_norm: float = ranged(0, 1e6, default=1.0, open_low=True)
    noise: float = ranged(0, 1e6, default=1.0)
    at: Literal["client", "server"] = "client"
    entropy: Literal["seed", "os"] = "seed"
    delta: float = ranged(0, 0.5, default=1e-5, open_low=True)

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def is_local(self) -> bool:
        return self.at == "client"

    def guard(self, here: Here, name: str, value: Any, reference: Callable[[], Any]) -> Mapping[Path, Any]:
        """Bounded and noisy leaves, and numbers without what was learned."""
        found = vectors(name, value)
        deviation = self.noise * self.clip_norm if self.at == "client" else 0.0
        key = f"noised/{name}"
        count = here.state.get(key, 0.0) if deviation and found and not here.is_dry else 0.0
        if found:
            here.cost(flops=float((CLIP_OPS + (NOISE_OPS if deviation else 0)) * sum([len(flat) for _, flat in found])))
            if deviation:
                here.state[key] = count + 1.0
        if here.is_dry:
            return {}
        about = reference()
        if [(path, vector_of(leaf) is None) for path, leaf in leaves(about)] != [(path, vector_of(leaf) is None) for path, leaf in leaves(value)]:
            raise ScenarioError(f"{name}: the form of its value depends on the data; allowed with {self} are values of one form; use protect=none")
        rng = self.stream(here, name, count)
        flats = dict(found)
        got: dict[Path, Any] = {}
        for path, leaf in leaves(value):
            r = at(about, path)
            if path in flats:
                got[path] = self.bounded(f"{name} at {list(path)!r}", leaf, r, flats[path], rng, deviation)
            elif isinstance(leaf, int | float | str | np.number | torch.Tensor):
                got[path] = r
        return got

    def bounded(self, where: str, leaf: Any, about: Any, flat: torch.Tensor, rng: np.random.Generator, deviation: float) -> Any:
        """The leaf with a bounded update, and noise if the client adds that."""
        r = vector_of(about)
        if r is None or len(r) != len(flat) or (isinstance(leaf, Params) and leaf.spec.key != about.spec.key):
            raise ScenarioError(f"{where}: the shape of its value depends on the data; allowed with {self} are values of one shape; use protect=none")
        update = flat - r
        norm = float(update.double().norm())
        out = flat if norm <= self.clip_norm else r + update * (self.clip_norm / norm) if isfinite(norm) else r
        if deviation:
            out = out + torch.from_numpy(rng.normal(0.0, 1.0, len(out))).to(out.dtype) * deviation
        return with_vector(leaf, out)

    def stream(self, here: Here, *labels: object) -> np.random.Generator:
        """Where noise comes from."""
        return np.random.default_rng() if self.entropy == "os" else here.rng("noise", here.drawn, *labels)

    def given(self, node: Node, x: Any) -> Any:
        return x

    def seal(self, node: Node, refs: Sequence[Ref], weights: Sequence[float] | None, about: Any = None, over: Any = None) -> list[Ref]:
        return list(refs)

    def reduce(self, node: Node, refs: Sequence[Ref], weights: Sequence[float] | None, like: Any, over: Any = None) -> Any:
        if self.at == "client":
            return node.reduce(refs, weights, over=over, like=like)
        if over is not None and over != MEAN:
            raise ScenarioError(f"{self}: got a fold that is no mean; allowed with noise at the server is a mean; use at='client'")
        mean = node.reduce(refs, like=like)
        m = sum(ref.arrived_s is not None for ref in refs)
        return node.fetch(node.call(self.noised, node.name, mean, self.noise * self.clip_norm / m)) if m and self.noise else mean

    def noised(self, here: Here, value: Any, deviation: float) -> Any:
        """At the server: a value whose models have Gaussian noise on them."""
        count = here.state.get("noised", 0.0)
        rng = self.stream(here, "server", count)
        here.state["noised"] = count + 1.0

        def add(leaf: Any) -> Any:
            if not isinstance(leaf, Params):
                return leaf
            here.cost(flops=float(NOISE_OPS * len(leaf)))
            if leaf.is_meta:
                return leaf
            return Params(leaf.spec, leaf.flat + torch.from_numpy(rng.normal(0.0, 1.0, len(leaf))).to(leaf.flat.dtype) * deviation)

        return map_leaves(add, value)

    def spent(self, releases: int) -> dict[str, Any]:
        """Epsilon at `delta`, where each release is private by itself and an accountant is installed."""
        if not releases:
            return {}
        if not self.noise or self.at == "server":
            return {"releases": releases}
        try:
            return {"releases": releases, "epsilon": epsilon(noise=self.noise, rounds=releases, fraction=1.0, delta=self.delta), "delta": self.delta}
        except MissingExtra:
            return {"releases": releases}


@lru_cache(maxsize=256)
def epsilon(*, noise: float, rounds: int, fraction: float, delta: float) -> float:
    """Privacy spent by `rounds` of noise multiplier `noise` on a share `fraction` of the clients, each drawn independently: (epsilon, delta)-DP.

    By Renyi accounting (the package dp-accounting). For `at="client"` a release is protected by itself: fraction 1, and as many rounds as releases.

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
class Masked(OfSums):
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

    def seal(self, node: Node, refs: Sequence[Ref], weights: Sequence[float] | None, about: Any = None, over: Any = None) -> list[Ref]:
        keys = node.map(self.keys, [ref.place for ref in refs], on=None)
        _, _, lost = node.first(keys, len(keys))
        there = [i for i, key in enumerate(keys) if key not in set(lost)]
        public = dict(zip([keys[i].place for i in there], node.fetch([keys[i] for i in there]), strict=True))
        w = _weights(refs, weights)
        form = "counted" if isinstance(over, CountedMean) else "slices" if isinstance(over, ScatterSum) else "whole"
        sealed = node.map(self.mask, [keys[i].place for i in there], public, about, form, each=[(refs[i], w[i] / sum(w)) for i in there])
        out = list(refs)
        for i, ref in zip(there, sealed, strict=True):
            out[i] = ref
        return out

    def reduce(self, node: Node, refs: Sequence[Ref], weights: Sequence[float] | None, like: Any, over: Any = None) -> Any:
        if not (over is None or over in (MEAN, SUM) or isinstance(over, CountedMean | ScatterSum)):
            raise ScenarioError(f"{self}: got over={over!r}; allowed are means, sums and their forms for slices")
        _, _, lost = node.first(refs, len(refs))
        gone = {ref.place for ref in lost}
        came = [i for i, ref in enumerate(refs) if ref.place not in gone]
        nothing = over.into if isinstance(over, CountedMean | ScatterSum) else map_leaves(_zero, like)
        if not came:
            return nothing
        shares = node.map(self.reveal, [refs[i].place for i in came], sorted(gone), on=None)
        _, _, silent = node.first(shares, len(shares))
        if silent:
            return nothing
        values = node.fetch([refs[i] for i in came])
        total = node.fetch(node.call(self.unmask, node.name, [value["masked"] for value in values], node.fetch(shares)))
        w = _weights(refs, weights)
        sums = total.double() / self.scale  # of the w_i Delta_i of those that came, over the sum of all w
        if isinstance(over, CountedMean):
            x = over.into
            sums, counts = sums[: len(x)], sums[len(x) :]
            return Params(x.spec, torch.where(counts > 0, sums / counts.clamp(min=1e-300), x.flat.double()).to(x.flat.dtype))
        if isinstance(over, ScatterSum):
            return over.into + Params(over.into.spec, (sums * sum(w)).to(over.into.flat.dtype))
        sums = sums * sum(w) / (1.0 if over == SUM else sum([w[i] for i in came]))
        return self._decoded(sums, like, values[0]["about"])

    def keys(self, here: Here) -> torch.Tensor:
        """At a client: a key pair for this round; the public key."""
        x25519 = _cryptography().x25519
        here.cost(flops=CURVE_OPS)
        secret = x25519.X25519PrivateKey.generate()
        here.state["secure"] = {"secret": _tensor(secret.private_bytes_raw()), "own": _tensor(_random(32)), "answered": False}
        return _tensor(secret.public_key().public_bytes_raw())

    def mask(self, here: Here, public: dict[str, torch.Tensor], about: Any, form: str, value: Any, weight: float) -> dict[str, Any]:
        """At a client: its weighted update in fixed point, masked."""
        models = [leaf for _, leaf in leaves(value) if isinstance(leaf, Params)]
        if form == "whole":
            update = torch.cat([torch.zeros(0), *[(leaf - about if about is not None else leaf).flat for leaf in models]]).double()
        else:  # in the whole model's shape; who holds which of its values is masked too
            update = torch.cat([_embedded(here.spec, models[0].spec, flat) for flat in _parts(models[0], form)])
        most = float(torch.nn.functional.pad(update.abs(), (0, 1)).max())
        if not most <= self.range:
            raise RunFailed(f"masked(range={self.range:g}) at '{here.name}': got an update of {most:.3g}; use a larger range")
        own = here.state["secure"]
        words = torch.round(update * (weight * self.scale)).long() + _stream(own["own"], len(update))
        here.cost(flops=float(len(public) * (WORD_OPS * len(update) + CURVE_OPS)))
        shared = {name: self._shared(own["secret"], key, here.name, name) for name, key in sorted(public.items()) if name != here.name}
        for name, seed in shared.items():
            words += _stream(seed, len(update)) if name > here.name else -_stream(seed, len(update))
        here.state["secure"] = {**own, "shared": shared}
        zeros = map_leaves(
            lambda leaf: leaf * 0.0 if isinstance(leaf, int | float) or (isinstance(leaf, torch.Tensor) and not leaf.dim()) else None, value
        )
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

    def _decoded(self, values: torch.Tensor, like: Any, is_about: bool) -> Any:
        """The fold in the shape of `like`: about what the clients started from where they sent models (which `like` then is)."""
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


def _zero(leaf: Any) -> Any:
    return leaf * 0 if not isinstance(leaf, str | None) else leaf


def _weights(refs: Sequence[Ref], weights: Sequence[float] | None) -> list[float]:
    return [1.0] * len(refs) if weights is None else [float(w) for w in weights]


def _parts(x: Params, form: str) -> list[torch.Tensor]:
    """A slice's values, and where they are counted ones beside them."""
    return [x.flat, torch.ones_like(x.flat)] if form == "counted" else [x.flat]


def _embedded(whole: ModelSpec, spec: ModelSpec, flat: torch.Tensor) -> torch.Tensor:
    """A slice's values among the whole model's, zeros elsewhere."""
    sums = torch.zeros(whole.size, dtype=torch.float64)
    whole.places(spec).add(sums, flat, 1.0)
    return sums


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
