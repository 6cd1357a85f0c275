"""One token through a linear layer: packed ternary weights against float32, bfloat16 and int8, in one run, one thread.

    python benchmarks/ternary.py [--size 4096] [--seconds 2]

All layers are timed in turns, so that a change of the machine's speed meets all of them; the median of all turns counts.
"""

from __future__ import annotations

import argparse
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import nn

from airloom.models.quantize import PackedLinear, TernaryLinear, compiled


def layers(size: int) -> dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], int]]:
    """What is compared, with its bytes of weights."""
    dense = nn.Linear(size, size)
    half = nn.Linear(size, size, dtype=torch.bfloat16)
    found: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], int]] = {
        "float32": (dense, 4 * size * size),
        "bfloat16": (lambda x: half(x.bfloat16()), 2 * size * size),
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            small = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(size, size)), {nn.Linear}, dtype=torch.qint8)
            small(torch.zeros(1, size))
        found["int8"] = (small, size * size)
    except RuntimeError as error:
        print(f"int8: not on this machine ({error})")
    compiled()
    with torch.no_grad():
        packed = PackedLinear(TernaryLinear(size, size, True, group=128, rule="tequila", bias_strength=1e-3))
    found["ternary"] = (packed, packed.nbytes)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--seconds", type=float, default=2.0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    x, compared = torch.randn(1, given.size), layers(given.size)
    taken: dict[str, list[float]] = {name: [] for name in compared}
    end_s = time.perf_counter() + given.seconds
    with torch.inference_mode():
        while time.perf_counter() < end_s or len(taken["ternary"]) < 10:
            for name, (layer, _) in compared.items():
                began_s = time.thread_time()  # what other programs take does not count
                layer(x)
                taken[name].append(time.thread_time() - began_s)
    info = Path("/proc/cpuinfo")
    models = [line.partition(":")[2].strip() for line in (info.read_text().splitlines() if info.is_file() else []) if line.startswith("model name")]
    print(f"{models[0] if models else platform.processor()}, torch {torch.__version__}, {given.size} x {given.size}, {len(taken['ternary'])} turns")
    print("| weights | bytes | ms per token, median | best | tokens per second | against float32 |\n|---|---|---|---|---|---|")
    for name, (_, nbytes) in compared.items():
        middle = median(taken[name])
        factor = median(taken["float32"]) / middle
        print(f"| {name} | {nbytes:,} | {1e3 * middle:.3f} | {1e3 * min(taken[name]):.3f} | {1 / middle:.0f} | {factor:.1f} |")


if __name__ == "__main__":
    main()
