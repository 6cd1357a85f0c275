"""A home: old computers, tablets and phones on one Wi-Fi that together hold one language model (the testbed of Prima.cpp).

Free memory, VRAM, disk rates, Wi-Fi rates and latencies are the paper's. Processor and memory speeds are ours (its profiling tables are not public),
so ratios between planners have meaning here, absolute seconds do not. Profiles measured by `airloom doctor --profile` take the place of all of it.

Paper: Z. Li et al., "Prima.cpp: Fast 30-70B LLM Inference on Heterogeneous and Low-Resource Home Clusters", 2025, arXiv 2504.08791, section 4.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

from airloom.errors import ScenarioError
from airloom.network.device import Device
from airloom.network.link import Link
from airloom.network.network import Network, Place
from airloom.plans.placement import RingDevice, RingModel
from airloom.scenarios.scenario import Scenario
from airloom.tasks import TaskSettings, make_task

SUITED: Mapping[str, Mapping[str, Any]] = {}
GIB = 2.0**30


@dataclass(frozen=True, kw_only=True)
class Host:
    """A computer of the home. Rates in FLOP/s and byte/s; gpu_* are 0 without a GPU; is_shared: CPU and GPU share memory; software_s: of handing on
    an activation, beside the link (0 for the testbed, whose latencies are measured by its authors' program).
    """

    name: str
    system: str
    free_bytes: float
    disk_bytes_per_s: float
    cpu_flops_per_s: float
    cpu_bytes_per_s: float
    wifi_bps: float
    latency_s: float
    power_w: float
    vram_bytes: float = 0.0
    gpu_flops_per_s: float = 0.0
    gpu_bytes_per_s: float = 0.0
    is_shared: bool = False
    software_s: float = 0.0


# speeds (all ours): what quantized layers reach on such processors, and the memory's rate; watts while computing, ours
HOSTS = (
    Host(name="mac_m1", system="metal", free_bytes=2.4 * GIB, disk_bytes_per_s=0.7e9, cpu_flops_per_s=80e9, cpu_bytes_per_s=60e9, wifi_bps=420e6,
         latency_s=0.003, power_w=15.0, vram_bytes=2.4 * GIB, gpu_flops_per_s=500e9, gpu_bytes_per_s=60e9, is_shared=True),
    Host(name="i9_3070", system="linux", free_bytes=4.1 * GIB, disk_bytes_per_s=3.0e9, cpu_flops_per_s=150e9, cpu_bytes_per_s=40e9, wifi_bps=610e6,
         latency_s=0.003, power_w=120.0, vram_bytes=8.0 * GIB, gpu_flops_per_s=5e12, gpu_bytes_per_s=400e9),
    Host(name="i9_2080ti", system="linux", free_bytes=9.7 * GIB, disk_bytes_per_s=3.0e9, cpu_flops_per_s=150e9, cpu_bytes_per_s=40e9, wifi_bps=610e6,
         latency_s=0.003, power_w=120.0, vram_bytes=11.0 * GIB, gpu_flops_per_s=5e12, gpu_bytes_per_s=500e9),
    Host(name="mate40", system="android", free_bytes=1.9 * GIB, disk_bytes_per_s=1.4e9, cpu_flops_per_s=40e9, cpu_bytes_per_s=25e9, wifi_bps=320e6,
         latency_s=0.007, power_w=5.0),
    Host(name="honor_pad", system="android", free_bytes=5.1 * GIB, disk_bytes_per_s=2.0e9, cpu_flops_per_s=40e9, cpu_bytes_per_s=25e9, wifi_bps=320e6,
         latency_s=0.007, power_w=5.0),
    Host(name="macbook_air", system="macos", free_bytes=6.8 * GIB, disk_bytes_per_s=0.4e9, cpu_flops_per_s=60e9, cpu_bytes_per_s=25e9, wifi_bps=420e6,
         latency_s=0.005, power_w=20.0),
)  # fmt: skip

# (layers, width, feed-forward width, key/value heads x head width, vocabulary): public configurations of the Llama and Qwen2.5 models
_MODELS: Mapping[str, tuple[int, int, int, int, int]] = {
    "8b": (32, 4096, 14336, 1024, 128256),
    "14b": (48, 5120, 13824, 1024, 152064),
    "30b": (60, 6656, 17920, 6656, 32000),
    "65b": (80, 8192, 22016, 8192, 32000),
    "70b": (80, 8192, 28672, 1024, 128256),
}
Q4K_BYTES, Q6K_BYTES = 4.5 / 8, 6.5625 / 8  # per weight, with their scales (format definition of llama.cpp)


def sizes(name: str, cached_tokens: int) -> tuple[RingModel, float, float]:
    """Return a model in Q4K (output table in Q6K), FLOPs of one layer and of the output layer per token.

    >>> model, flops, _ = sizes("70b", 1024)
    >>> model.layers, round(model.layers * model.layer_bytes / 1e9, 1), round(flops / 1e9, 2)
    (80, 38.5, 1.71)
    """
    if name not in _MODELS:
        raise ScenarioError(f"home(model={name!r}): allowed are {', '.join(_MODELS)}")
    layers, width, wide, kv, vocabulary = _MODELS[name]
    weights = 2 * width * width + 2 * width * kv + 3 * width * wide
    model = RingModel(
        layers=layers, layer_bytes=weights * Q4K_BYTES, cache_bytes=2.0 * 2 * kv * cached_tokens, input_bytes=vocabulary * width * Q4K_BYTES,
        output_bytes=vocabulary * width * Q6K_BYTES, row_bytes=width * Q4K_BYTES, width=width,
    )  # fmt: skip
    return model, 2.0 * weights, 2.0 * vocabulary * width


def ring_of(hosts: Sequence[Host], model: RingModel, layer_flops: float, output_flops: float) -> list[RingDevice]:
    """Turn computers into devices of a ring: seconds per layer as arithmetic plus one pass over its bytes, seconds per hop as latency plus bits."""
    ring = []
    for host in hosts:
        copy_s = 0.0 if host.is_shared or not host.vram_bytes else 2.0 * model.hop_bytes / host.cpu_bytes_per_s
        ring.append(
            RingDevice(
                name=host.name, system=host.system, available_bytes=host.free_bytes, disk_bytes_per_s=host.disk_bytes_per_s,  # type: ignore[arg-type]
                cpu_layer_s=layer_flops / host.cpu_flops_per_s + model.loaded_bytes / host.cpu_bytes_per_s,
                gpu_layer_s=layer_flops / host.gpu_flops_per_s + model.loaded_bytes / host.gpu_bytes_per_s if host.vram_bytes else float("inf"),
                output_s=output_flops / host.cpu_flops_per_s + (model.row_bytes + model.output_bytes) / host.cpu_bytes_per_s,
                vram_bytes=host.vram_bytes, copy_s=copy_s,
                hop_s=host.latency_s + host.software_s + 8.0 * model.hop_bytes / host.wifi_bps if len(hosts) > 1 else 0.0,
            )
        )  # fmt: skip
    return ring


def measured(path: str) -> list[Host]:
    """Read computers from profiles that `airloom doctor --profile` wrote: one object or a list of them."""
    try:
        read = json.loads(Path(path).read_text())
        return [Host(**host) for host in (read if isinstance(read, list) else [read])]
    except (OSError, ValueError, TypeError) as error:
        raise ScenarioError(f"home(profile={path!r}): {error}; give a file written by airloom doctor --profile") from error


def home(*, seed: int, model: str = "70b", cached_tokens: int = 1024, devices: int | None = None, profile: str | None = None) -> Scenario:
    """Six computers on one Wi-Fi; the first is the head, where the user types.

    Arguments:
        seed: of the world; nothing here is drawn.
        model: 8b, 14b, 30b, 65b or 70b.
        cached_tokens: tokens in the key/value cache.
        devices: only the first so many; all if not given.
        profile: JSON file of measured computers instead of the testbed.
    """
    hosts = list(HOSTS) if profile is None else measured(profile)
    if devices is not None and not 1 <= devices <= len(hosts):
        raise ScenarioError(f"home(devices={devices}): allowed are 1 to {len(hosts)}")
    hosts = hosts[: devices or len(hosts)]
    if len({host.name for host in hosts}) < len(hosts):
        raise ScenarioError(f"home(profile={profile!r}): names of computers must differ, got {[host.name for host in hosts]}")
    held, layer_flops, output_flops = sizes(model, cached_tokens)
    ring = ring_of(hosts, held, layer_flops, output_flops)
    network = _network(hosts, ring, held)
    task = make_task(TaskSettings(partition="iid", limit=100), [host.name for host in hosts], seed=seed)  # nothing is learned here
    return Scenario(name="home", network=network, task=task, suited=SUITED, seed=seed, fields={"model": model, "cached_tokens": cached_tokens})


def _network(hosts: Sequence[Host], ring: Sequence[RingDevice], model: RingModel) -> Network:
    """The head and its peers, which all reach each other over one access point; what a planner needs is declared at each place."""
    places = [
        Place(
            name=host.name, parent=None if host is hosts[0] else hosts[0].name, role="server" if host is hosts[0] else "client",
            facts={"ring": asdict(device), "model": asdict(model)},
            device=Device(
                profile=host.name, speed_flops_per_s=host.cpu_flops_per_s, efficiency=1.0, memory_bytes=host.free_bytes + host.vram_bytes,
                baseline_bytes=0.0, memory_bytes_per_s=host.cpu_bytes_per_s, disk_bytes_per_s=host.disk_bytes_per_s, power_w=host.power_w,
                idle_power_w=0.2 * host.power_w, slots={"cpu": 1, "disk": 1},
            ),
        )
        for host, device in zip(hosts, ring, strict=True)
    ]  # fmt: skip
    head = hosts[0]
    links = [
        Link(
            source=a.name, target=b.name, latency_s=a.latency_s, rate_bps=a.wifi_bps,  # the sender's rate decides (ours)
            direction="down" if a is head else "up" if b is head else "peer",
        )
        for a, b in permutations(hosts, 2)
    ]  # fmt: skip
    return Network.of(places, links, origin={"builder": "home", "devices": len(hosts)})
