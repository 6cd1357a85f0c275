"""Simpler ways to deal layers to devices, the baselines of `halda`: one device, by memory, by speed, and tensor parallelism.

Paper: Z. Li et al., "Prima.cpp", 2025, arXiv 2504.08791, section 4 (MemSched, PerfSched and the systems compared).
Symbols: `airloom.plans.placement`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf

from airloom.plans.halda import apportion
from airloom.plans.placement import Placement, RingDevice, RingModel, refuse, token_s


def single(model: RingModel, ring: Sequence[RingDevice]) -> Placement:
    """Everything on the one device that is fastest alone; no hop."""
    best: Placement | None = None
    for m, device in enumerate(ring):
        for n in {0, min(model.layers, device.gpu_layers(model, True))}:
            seconds = token_s(model, [device], [model.layers], [n], 1)
            if best is None or seconds < best.token_s:
                only = [0] * len(ring)
                best = Placement(turns=1, windows=_with(only, m, model.layers), gpu_windows=_with(only, m, n), token_s=seconds, planner="single")
    assert best is not None
    return _checked(model, ring, best)


def memsched(model: RingModel, ring: Sequence[RingDevice]) -> Placement:
    """Layers in proportion to memory (RAM and VRAM), on the GPU as far as they fit."""
    return _placed(model, ring, apportion([d.available_bytes + d.vram_bytes for d in ring], model.layers), "memsched")


def perfsched(model: RingModel, ring: Sequence[RingDevice]) -> Placement:
    """Layers in proportion to speed; what does not fit moves to the fastest device with room, and stays where nobody has any."""
    fastest = [min(d.cpu_layer_s, d.gpu_layer_s) for d in ring]
    held = apportion([1.0 / s for s in fastest], model.layers)
    room = [
        max(0, int(d.room_bytes(model, m == 0) / model.loaded_bytes)) + (d.gpu_layers(model, m == 0) if d.system != "metal" else 0)
        for m, d in enumerate(ring)
    ]
    for m in range(len(ring)):
        for other in sorted(range(len(ring)), key=lambda i: (fastest[i], i)):
            moved = min(held[m] - 1, max(0, held[m] - room[m]), max(0, room[other] - held[other]))
            held[m], held[other] = held[m] - moved, held[other] + moved
    return _placed(model, ring, held, "perfsched")


def tensor_parallel_s(model: RingModel, ring: Sequence[RingDevice]) -> float:
    """Seconds of a token if every layer is cut over all devices: two all-reduces per layer, each at least one hop of the slowest link.

    T = L max_m(share_m alpha_m) + 2 L max_m hop_m + head + disk, shares in proportion to speed; the disk reads a share of each layer.
    """
    speed = [1.0 / min(d.cpu_layer_s, d.gpu_layer_s) for d in ring]
    shares = [s / sum(speed) for s in speed]
    compute_s = max(share / s for share, s in zip(shares, speed, strict=True))
    hop_s = max(d.hop_s for d in ring) if len(ring) > 1 else 0.0
    disk_s = [
        max(0.0, share * model.layers * model.loaded_bytes - d.room_bytes(model, m == 0) - d.vram_bytes) / d.disk_bytes_per_s
        for m, (d, share) in enumerate(zip(ring, shares, strict=True))
    ]
    return model.layers * (compute_s + 2.0 * hop_s) + ring[0].output_s + max(disk_s)


def _with(values: Sequence[int], m: int, value: int) -> tuple[int, ...]:
    return tuple(value if i == m else v for i, v in enumerate(values))


def _placed(model: RingModel, ring: Sequence[RingDevice], held: Sequence[int], planner: str) -> Placement:
    gpus = tuple(min(w, d.gpu_layers(model, m == 0)) for m, (w, d) in enumerate(zip(held, ring, strict=True)))
    seconds = token_s(model, ring, held, gpus, 1)
    return _checked(model, ring, Placement(turns=1, windows=tuple(held), gpu_windows=gpus, token_s=seconds, planner=planner))


def _checked(model: RingModel, ring: Sequence[RingDevice], made: Placement) -> Placement:
    if made.token_s == inf:
        raise refuse(model, ring, made.planner)
    return made


SPLITS: dict[str, Callable[[RingModel, Sequence[RingDevice]], Placement]] = {"single": single, "memsched": memsched, "perfsched": perfsched}
