"""The timeline of a token in a ring whose devices page weights in from disk; it chooses the number of turns, which the planner's objective cannot.

    receive -> wait for the window's pages -> compute -> send -> ask the disk for the next window of this device        (per device and window)

A device keeps its C most recently used layers (LRU). Its disk reads one layer at a time, in the order asked for, while other devices compute. A layer
that was read and evicted again before its use is read once more, and the computing waits for it: with one turn that is every layer.

Paper: Z. Li et al., "Prima.cpp", 2025, arXiv 2504.08791, section 3.2, figures 3-5. Symbols: C `cache_layers`; others in `airloom.plans.placement`.
Left out: parts of layers in the cache; what other programs read; the head's tables (always resident).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from airloom.errors import DoesNotFit
from airloom.plans.halda import halda_exact
from airloom.plans.placement import Placement, RingDevice, RingModel


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """The last token of a simulated decode: seconds, layers read and layers waited for by device, and seconds waited."""

    token_s: float
    loads: tuple[int, ...]
    faults: tuple[int, ...]
    waited_s: float


class _Host:
    """A device while it decodes: its page cache and its disk."""

    def __init__(self, layers: int, load_s: float) -> None:
        self.layers, self.load_s = layers, load_s
        self.cache: OrderedDict[int, float] = OrderedDict()  # layer: when its read ends; least recently used first
        self.free_s = 0.0  # when the disk is free
        self.loads = self.faults = 0

    def ask(self, layers: Sequence[int], at_s: float) -> None:
        """Read the layers that are not there, one after the other."""
        for layer in layers:
            if layer not in self.cache:
                self.free_s = max(self.free_s, at_s) + self.load_s
                self.loads += 1
                self.cache[layer] = self.free_s
                while len(self.cache) > self.layers:
                    self.cache.popitem(last=False)

    def use(self, layers: Sequence[int], at_s: float, layer_s: float) -> float:
        """Compute a window whose activation came at `at_s`; return when it is done."""
        now_s = max(at_s, self.free_s)
        for layer in layers:
            if layer in self.cache:
                self.faults += self.cache[layer] > at_s
                self.cache.move_to_end(layer)
            else:
                self.faults += 1
                self.ask([layer], now_s)
                now_s = self.free_s
            now_s += layer_s
        return now_s


def rooms(model: RingModel, ring: Sequence[RingDevice]) -> list[int]:
    """Layers that the memory of each device keeps."""
    return [max(0, int(d.room_bytes(model, m == 0) / model.loaded_bytes + 1e-9)) for m, d in enumerate(ring)]


def order(placement: Placement, ring: Sequence[RingDevice]) -> list[int]:
    """Devices that an activation passes in one turn: from the second one round to the head."""
    return [m for m in [*range(1, len(ring)), 0] if placement.windows[m] or ring[m].is_relay]


def timeline(
    model: RingModel,
    ring: Sequence[RingDevice],
    placement: Placement,
    *,
    is_prefetched: bool = True,
    tokens: int = 4,
    cache_layers: Sequence[int] | None = None,
) -> Timeline:
    """Play `tokens` tokens and return the last one, by which the caches repeat themselves.

    Arguments:
        is_prefetched: ask for the next window after each one (paper); else every missing layer is waited for.
        cache_layers: layers that each device's memory keeps; what its room holds if not given.

    >>> model = RingModel(layers=12, layer_bytes=1.0, cache_bytes=0.0, input_bytes=0.0, output_bytes=0.0, row_bytes=0.0, width=1)
    >>> twin = RingDevice(name="a", available_bytes=3.0, disk_bytes_per_s=1e9, cpu_layer_s=1.0, hop_s=0.0, output_s=0.0)
    >>> [timeline(model, [twin] * 2, Placement(turns=k, windows=(6 // k,) * 2, gpu_windows=(0, 0), token_s=0.0, planner="")).loads for k in (1, 3)]
    [(12, 12), (6, 6)]
    """
    k, kept = placement.turns, rooms(model, ring) if cache_layers is None else cache_layers
    paged = [w - n for w, n in zip(placement.windows, placement.gpu_windows, strict=True)]  # layers of a window that lie in RAM
    hosts = [_Host(c, model.loaded_bytes / d.disk_bytes_per_s) for c, d in zip(kept, ring, strict=True)]
    path = order(placement, ring)
    hops = {m: ring[before].hop_s if len(path) > 1 else 0.0 for before, m in zip([path[-1], *path], path, strict=False)}
    compute_s = [p * d.cpu_layer_s for p, d in zip(paged, ring, strict=True)]
    now_s, began_s, waited_s, before = 0.0, 0.0, 0.0, [(0, 0)] * len(ring)
    for _ in range(tokens):
        began_s, waited_s, before = now_s, 0.0, [(h.loads, h.faults) for h in hosts]
        for turn in range(k):
            for m in path:
                received_s = now_s + hops[m]
                now_s = hosts[m].use(range(turn * paged[m], (turn + 1) * paged[m]), received_s, ring[m].cpu_layer_s)
                waited_s += now_s - received_s - compute_s[m]
                n = placement.gpu_windows[m]
                now_s += n * ring[m].gpu_layer_s + ring[m].copy_s if n else 0.0
                if is_prefetched and k * paged[m] > kept[m]:
                    following = (turn + 1) % k
                    hosts[m].ask(range(following * paged[m], (following + 1) * paged[m]), now_s)
        now_s += ring[0].output_s
    loads = tuple(h.loads - old for h, (old, _) in zip(hosts, before, strict=True))
    faults = tuple(h.faults - old for h, (_, old) in zip(hosts, before, strict=True))
    return Timeline(token_s=now_s - began_s, loads=loads, faults=faults, waited_s=max(0.0, waited_s))


def best_turns(model: RingModel, ring: Sequence[RingDevice], *, is_prefetched: bool = True) -> tuple[Placement, dict[int, float]]:
    """The placement whose timeline is shortest: `halda_exact` for each number of turns; also seconds by turns, infinite where none fits.

    Raises:
        DoesNotFit: no number of turns has a placement.
    """
    made: dict[int, Placement] = {}
    seconds: dict[int, float] = {}
    refused: DoesNotFit | None = None
    for k in model.turns():
        try:
            made[k] = halda_exact(model, ring, turns=k)
            seconds[k] = timeline(model, ring, made[k], is_prefetched=is_prefetched).token_s
        except DoesNotFit as error:
            refused, seconds[k] = error, inf
    if not made:
        assert refused is not None
        raise refused
    return made[min(made, key=lambda k: (seconds[k], k))], seconds
