"""A ring of devices that share one language model by layers: who holds which layers, and the seconds of a token that follow.

    T = sum_m [ l_cpu alpha_m + l_gpu gamma_m + k (copy_m + hop_m) + disk_m / s_m ] + head
    l_cpu = k (w_m - n_m),   l_gpu = k n_m,   L = k sum_m w_m

A sum, not a maximum: one request is served at a time. Weights that do not fit are read again from disk for every token: `disk_m`.

Paper: Z. Li, T. Li, W. Feng et al., "Prima.cpp: Fast 30-70B LLM Inference on Heterogeneous and Low-Resource Home Clusters", 2025, arXiv 2504.08791,
section 3 and appendix A.
Symbols: L `layers`, b `layer_bytes`, b' `loaded_bytes`, bi `input_bytes`, bo `output_bytes`, bi/V `row_bytes`, alpha `cpu_layer_s`, alpha + beta =
gamma `gpu_layer_s`, t_comm `hop_s`, s `disk_bytes_per_s`, w `windows`, n `gpu_windows`, k `turns`.
Left out: more than one request at a time; time to first token; the charge of the input table's row on other devices than the head (only it has it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Literal

from airloom.errors import DoesNotFit, ScenarioError

SLOW_DISK_BYTES_PER_S = 0.1e9  # authors' code: below this a device never reads weights while it decodes


@dataclass(frozen=True, kw_only=True)
class RingModel:
    """Sizes of a language model.

    Arguments: number of layers; bytes of a layer, of its key/value cache, of input and output tables and of one input row; width of an activation
    (fp32: `4 width` bytes per hop).
    """

    layers: int
    layer_bytes: float
    cache_bytes: float
    input_bytes: float
    output_bytes: float
    row_bytes: float
    width: int

    def __post_init__(self) -> None:
        if self.layers < 1 or self.width < 1 or not 0 < self.layer_bytes < inf:
            raise ScenarioError(f"RingModel({self}): allowed are at least one layer, a width >= 1 and finite layer_bytes > 0")
        if not all(0 <= value < inf for value in (self.cache_bytes, self.input_bytes, self.output_bytes, self.row_bytes)):
            raise ScenarioError(f"RingModel({self}): allowed are finite bytes >= 0")

    @property
    def loaded_bytes(self) -> float:
        """Bytes of a layer with its cache, b'."""
        return self.layer_bytes + self.cache_bytes

    @property
    def hop_bytes(self) -> float:
        """Bytes of one activation."""
        return 4.0 * self.width

    def turns(self) -> list[int]:
        """Numbers of turns that divide the layers; all but L itself (paper), 1 for a model of one layer."""
        return [k for k in range(1, self.layers) if self.layers % k == 0] or [1]


@dataclass(frozen=True, kw_only=True)
class RingDevice:
    """One device of the ring; the first one is the head.

    Arguments
    ---------
    system : "linux", "android", "macos" or "metal": what its page cache reads again.
    available_bytes : RAM for the process; on "metal", Metal's. swap_bytes : of Android. vram_bytes : 0 without a GPU.
    cpu_buffer_bytes, gpu_buffer_bytes : taken by buffers. disk_bytes_per_s : of reading weights.
    cpu_layer_s, gpu_layer_s : one layer, memory reads included. output_s : the output layer, if it is the head.
    copy_s : RAM to VRAM and back, per window; 0 with shared memory. hop_s : an activation to the next device.
    is_relay : its hop is paid even if it holds nothing.
    """

    name: str
    available_bytes: float
    disk_bytes_per_s: float
    cpu_layer_s: float
    hop_s: float
    output_s: float
    system: Literal["linux", "android", "macos", "metal"] = "linux"
    vram_bytes: float = 0.0
    gpu_layer_s: float = inf
    cpu_buffer_bytes: float = 0.0
    gpu_buffer_bytes: float = 0.0
    swap_bytes: float = 0.0
    copy_s: float = 0.0
    is_relay: bool = False

    def __post_init__(self) -> None:
        if self.system not in ("linux", "android", "macos", "metal"):
            raise ScenarioError(f"RingDevice '{self.name}': system={self.system!r} must be linux, android, macos or metal; choose what it runs")
        if not (0 < self.disk_bytes_per_s < inf and 0 < self.cpu_layer_s < inf):
            raise ScenarioError(f"RingDevice '{self.name}': disk_bytes_per_s and cpu_layer_s must be finite and > 0; measure them")
        sizes = (self.available_bytes, self.vram_bytes, self.cpu_buffer_bytes, self.gpu_buffer_bytes, self.swap_bytes)
        if not all(0 <= value < inf for value in (*sizes, self.hop_s, self.output_s, self.copy_s)):
            raise ScenarioError(f"RingDevice '{self.name}': bytes and seconds must be finite and >= 0, got {self}")
        if self.vram_bytes and not 0 < self.gpu_layer_s < inf:
            raise ScenarioError(f"RingDevice '{self.name}': gpu_layer_s={self.gpu_layer_s!r} must be finite and > 0 with a GPU; or set vram_bytes=0")

    @property
    def is_slow_disk(self) -> bool:
        """Whether it may never hold more than fits."""
        return self.disk_bytes_per_s < SLOW_DISK_BYTES_PER_S

    def fixed_bytes(self, model: RingModel, is_head: bool) -> float:
        """Bytes beside layers, bcio: buffers, and the head's tables."""
        return self.cpu_buffer_bytes + is_head * (model.row_bytes + model.output_bytes)

    def room_bytes(self, model: RingModel, is_head: bool) -> float:
        """Bytes of RAM left for layers."""
        gpu_bytes = self.gpu_buffer_bytes if self.system == "metal" else 0.0
        return self.available_bytes + self.swap_bytes - self.fixed_bytes(model, is_head) - gpu_bytes

    def gpu_layers(self, model: RingModel, is_head: bool) -> int:
        """Layers that its GPU holds."""
        if not self.vram_bytes or self.system == "macos":
            return 0
        output_bytes = model.output_bytes if is_head and self.system == "metal" else 0.0
        return max(0, int((self.vram_bytes - self.gpu_buffer_bytes - output_bytes) / model.loaded_bytes + 1e-9))

    def disk_bytes(self, model: RingModel, layers: int, gpu_layers: int, is_head: bool) -> float:
        """Bytes that are read for each token; infinite where the disk is too slow to allow any."""
        head_bytes = is_head * (model.row_bytes + model.output_bytes)
        if self.system == "metal":  # what does not fit as a whole is dropped as a whole
            is_over = layers * model.loaded_bytes > self.room_bytes(model, is_head) + 1e-9
            needed = layers * model.layer_bytes + head_bytes if is_over else 0.0
        else:
            needed = (layers - gpu_layers) * model.loaded_bytes - self.room_bytes(model, is_head)
            is_over = needed > 1e-6
        if is_over and self.is_slow_disk:
            return inf
        return max(needed, is_head * model.row_bytes, 0.0)


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Who holds what: per device the layers of one window, and how many of these sit on its GPU (0 layers: not in the ring)."""

    turns: int
    windows: tuple[int, ...]
    gpu_windows: tuple[int, ...]
    token_s: float
    planner: str

    def owners(self) -> list[int]:
        """Device of every layer. Windows are dealt out in turns that begin at the second device and end at the head (authors' code)."""
        turn = [m for m in [*range(1, len(self.windows)), 0] for _ in range(self.windows[m])]
        return turn * self.turns


def token_s(model: RingModel, ring: Sequence[RingDevice], windows: Sequence[int], gpu_windows: Sequence[int], turns: int) -> float:
    """Seconds of one token; infinite where a slow disk or a GPU holds more than it can.

    >>> model = RingModel(layers=4, layer_bytes=1.0, cache_bytes=0.0, input_bytes=0.0, output_bytes=0.0, row_bytes=0.0, width=1)
    >>> a = RingDevice(name="a", available_bytes=1.0, disk_bytes_per_s=1e9, cpu_layer_s=2.0, hop_s=0.5, output_s=1.0)
    >>> token_s(model, [a, a], (1, 1), (0, 0), turns=2)               # 2 x (2 x 2 + 2 x 0.5), 1 byte each to reload, and the output layer
    11.000000002
    """
    if turns * sum(windows) != model.layers:
        raise ScenarioError(f"token_s(windows={tuple(windows)}, turns={turns}): must hold {model.layers} layers, got {turns * sum(windows)}")
    total, is_ring = ring[0].output_s, sum(w > 0 or d.is_relay for d, w in zip(ring, windows, strict=True)) > 1
    for m, (device, w, n) in enumerate(zip(ring, windows, gpu_windows, strict=True)):
        if n > w or turns * n > device.gpu_layers(model, m == 0):
            return inf
        if w or device.is_relay:
            total += turns * device.hop_s * is_ring
        if w:
            total += turns * ((w - n) * device.cpu_layer_s + (n * device.gpu_layer_s if n else 0.0) + device.copy_s)
            total += device.disk_bytes(model, turns * w, turns * n, m == 0) / device.disk_bytes_per_s
    return total


def refuse(model: RingModel, ring: Sequence[RingDevice], planner: str) -> DoesNotFit:
    """The error of a model that has no place here, with what it would need."""
    need = model.layers * model.loaded_bytes
    own = [d.gpu_layers(model, m == 0) * model.loaded_bytes * (d.system != "metal") for m, d in enumerate(ring)]
    have = sum(own) + sum(max(0.0, d.room_bytes(model, m == 0)) for m, d in enumerate(ring))
    slow = [d.name for d in ring if d.is_slow_disk]
    todo = f"add {max(need - have, model.loaded_bytes) / 1e9:.2f} GB of memory"
    todo += f", or give {'one of ' * (len(slow) > 1)}{', '.join(slow)} a disk of at least {SLOW_DISK_BYTES_PER_S / 1e9:g} GB/s" if slow else ""
    told = f"{model.layers} layers need {need / 1e9:.2f} GB beside buffers, {have / 1e9:.2f} GB are free on {', '.join(d.name for d in ring)}"
    return DoesNotFit(f"{planner}: {told}; {todo}.")


def reasons(model: RingModel, ring: Sequence[RingDevice], plan: Placement, loads: Sequence[int]) -> list[dict[str, Any]]:
    """A row per device: which layers, where they lie, and why; `loads` are the layers that its disk reads per token."""
    owners, rows = plan.owners(), list[dict[str, Any]]()
    for m, (device, w, n) in enumerate(zip(ring, plan.windows, plan.gpu_windows, strict=True)):
        held = [layer for layer, owner in enumerate(owners) if owner == m]
        room = device.room_bytes(model, m == 0) - plan.turns * (w - n) * model.loaded_bytes
        layer_s = min(device.cpu_layer_s, device.gpu_layer_s)
        if not w:
            hop_s = plan.turns * (device.hop_s + device.copy_s)
            why = f"left out: a layer here takes {layer_s:.3g} s and its hops {hop_s:.3g} s per token; the others do with less"
        else:
            why = f"head; {device.cpu_layer_s:.3g} s per layer" if m == 0 else f"{device.cpu_layer_s:.3g} s per layer"
            why += f", {device.gpu_layer_s:.3g} on its GPU" if n else ""
            why += f"; reads {loads[m]} layers from disk per token" if loads[m] else f"; fits, {max(0.0, room) / 1e9:.2f} GB of RAM left"
        rows.append({"device": device.name, "layers": spans(held), "count": len(held), "gpu": plan.turns * n, "read": loads[m], "why": why})
    return rows


def spans(layers: Sequence[int]) -> str:
    """Ranges of whole numbers.

    >>> spans([0, 1, 2, 6, 8, 9])
    '0-2, 6, 8-9'
    """
    starts = [layer for layer in layers if layer - 1 not in layers]
    ends = [layer for layer in layers if layer + 1 not in layers]
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))
