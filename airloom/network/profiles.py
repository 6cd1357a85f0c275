"""Devices with sources: measured boards, phones drawn from a ranking, edge box, GPU server, cloud.

What is marked *ours* is an assumption of this project; everything else names where it comes from.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from math import isnan
from pathlib import Path
from typing import Literal

import numpy as np

from airloom.clock.rng import generator
from airloom.errors import ScenarioError
from airloom.network.channel import Floats
from airloom.network.check import refuse
from airloom.network.device import Device, RadioEnergy

# ---- measured boards ----------------------------------------------------------------------------------------------------------------

# Seconds per sample by width, a CNN on MNIST: documentation and code of WHALE-FL (https://github.com/BESTTOOLBOX/WHALE-FL). The documentation
# says "per iteration", the code multiplies by the batch size; here, as in the code, seconds per sample (ours).
_WIDTHS = (1.0, 1 / 2, 1 / 4, 1 / 8, 1 / 16)
_SECONDS: Mapping[str, tuple[float, ...]] = {
    "macbook_pro_2018": (0.0083647, 0.0038257, 0.0021069, 0.0014589, 0.0009867),
    "xavier": (0.04070369, 0.0127832, 0.0057802, 0.003491786, 0.002557199),
    "tx2": (0.046046102, 0.014587217, 0.006172761, 0.003529953, 0.002453266),
    "nano": (0.048899315, 0.015707265, 0.006548797, 0.003732, 0.002509417),
    "raspberry_pi": (0.051820623, 0.016849187, 0.006933952, 0.003939243, 0.002569063),
}
LAB_RATES_BPS = (80e6, 40e6, 20e6, 15e6)  # the same source

# (peak FLOP/s in float32, memory bytes, memory bytes/s, watts while computing, idle watts). Peaks, memory and bandwidth are the makers':
# MacBook Pro as the 13-inch one (ours), i5-8259U, 4 cores x 2.3 GHz x 32; Jetson AGX Xavier, 512 cores x 1.377 GHz x 2; TX2, 256 x 1.3 GHz
# x 2; Nano, 128 x 0.9216 GHz x 2; Raspberry Pi 4, 4 cores x 1.5 GHz x 8. Watts: the makers' power modes less idle; idle watts, and a
# quarter of the memory for the operating system, are ours.
_BOARDS: Mapping[str, tuple[float, float, float, float, float]] = {
    "macbook_pro_2018": (294e9, 8e9, 34.1e9, 28.0, 5.0),
    "xavier": (1410e9, 32e9, 137e9, 25.0, 5.0),
    "tx2": (666e9, 8e9, 59.7e9, 12.0, 3.0),
    "nano": (236e9, 4e9, 25.6e9, 8.0, 2.0),
    "raspberry_pi": (48e9, 4e9, 12.8e9, 3.7, 2.7),
}
_RUNTIME_BYTES = 0.3e9  # ours: interpreter and framework, resident

WHALE_FL: Mapping[str, Device] = {
    name: Device(
        profile=name,
        speed_flops_per_s=peak,
        efficiency=0.1,  # ours; only for work that the table does not time (no samples)
        memory_bytes=0.75 * memory,
        baseline_bytes=_RUNTIME_BYTES,
        memory_bytes_per_s=bandwidth,
        power_w=power,
        idle_power_w=idle,
        seconds_per_sample=dict(zip(_WIDTHS, _SECONDS[name])),
    )
    for name, (peak, memory, bandwidth, power, idle) in _BOARDS.items()
}
"""Five boards with measured seconds per sample by width fraction."""

# ---- phones -------------------------------------------------------------------------------------------------------------------------

# Deciles 0 % to 100 % of CPU_F_AI_Score (float arithmetic on the CPU) and of RAM over the 333 phones of the AI Benchmark ranking of early 2020
# (https://ai-benchmark.com), as collected in https://github.com/PKU-Chengxu/FLASH.
PHONE_SCORES = (105.0, 274.2, 392.2, 754.6, 1327.0, 1548.0, 1696.4, 2035.2, 2621.4, 3413.6, 4310.0)
PHONE_RAM_GB = (0.5, 1.0, 2.0, 4.0, 4.0, 4.0, 6.0, 6.0, 7.2, 8.0, 12.0)

# Anchor from score to speed. FLASH timed the training of single dense layers on phones: for the tenth of the measurements with most
# work, the median is 8.7 GFLOP/s on a Redmi Note 8 (score 1546) and 22.8 on a Galaxy Note10 (3734): 5.6 and 6.1 MFLOP/s per point.
FLOPS_PER_SCORE = 6e6
# Over all sizes, dense layers reached 0.73 to 0.85 of that and LSTM layers 0.24 to 0.57: one half (ours).
PHONE_EFFICIENCY = 0.5
PHONE_FREE_SHARE = 0.3  # ours: of the installed memory, what an application in the background gets
PHONE_RUNTIME_BYTES = 0.1e9  # ours
PHONE_POWER_W, PHONE_IDLE_W = 3.0, 0.5  # ours: all cores busy, screen off; and awake, screen off
PHONE_BATTERY_J = 4000e-3 * 3600.0 * 3.85  # ours: 4,000 mAh at 3.85 V
PHONE_RADIO = RadioEnergy.linear_pa(pa_efficiency=0.4, circuit_w=0.1, receive_w=0.3)  # ours


def phone(quantile: float, *, radio: RadioEnergy = PHONE_RADIO, battery_j: float | None = None) -> Device:
    """Return the phone at a quantile of the ranking: 0.5 is the median phone.

    Speed and memory are taken at the same quantile (their rank correlation in the ranking is 0.86).

    >>> phone(0.5).speed_flops_per_s, phone(0.5).available_bytes
    (9288000000.0, 1100000000.0)
    """
    if not 0.0 <= quantile <= 1.0:
        refuse("phone", "quantile", quantile, "in [0, 1]", "0.5 is the median phone")
    return _phone(float(_speeds(np.array(quantile))), float(_memory(np.array(quantile))), radio, battery_j)


def phone_speeds(n: int, seed: int) -> Floats:
    """Return peak speeds in FLOP/s of n phones drawn from the ranking; the first phones stay the same when n grows.

    >>> bool((phone_speeds(5, seed=1) == phone_speeds(9, seed=1)[:5]).all())
    True
    """
    return _speeds(_quantiles(n, seed))


def phones(n: int, *, seed: int, radio: RadioEnergy = PHONE_RADIO, battery_j: float | None = None) -> list[Device]:
    """Return n phones drawn from the ranking, with the speeds of `phone_speeds` and memory at the same quantiles."""
    u = _quantiles(n, seed)
    return [_phone(speed, memory, radio, battery_j) for speed, memory in zip(_speeds(u).tolist(), _memory(u).tolist())]


def _quantiles(n: int, seed: int) -> Floats:
    """Where in the ranking each phone of a fleet stands."""
    if n < 1:
        refuse("phones", "n", n, ">= 1", "a fleet needs a phone")
    return generator(seed, "fleet").random(n)


def _speeds(quantile: Floats) -> Floats:
    """Peak FLOP/s at quantiles: straight lines between deciles."""
    return np.interp(quantile, np.linspace(0.0, 1.0, len(PHONE_SCORES)), PHONE_SCORES) * FLOPS_PER_SCORE


def _memory(quantile: Floats) -> Floats:
    """Bytes that an application gets at quantiles."""
    return np.interp(quantile, np.linspace(0.0, 1.0, len(PHONE_RAM_GB)), PHONE_RAM_GB) * 1e9 * PHONE_FREE_SHARE


def _phone(speed: float, memory: float, radio: RadioEnergy, battery_j: float | None) -> Device:
    """A phone of a speed and a memory."""
    return Device(
        profile="phone",
        speed_flops_per_s=speed,
        efficiency=PHONE_EFFICIENCY,
        memory_bytes=memory,
        baseline_bytes=PHONE_RUNTIME_BYTES,
        power_w=PHONE_POWER_W,
        idle_power_w=PHONE_IDLE_W,
        battery_j=battery_j,
        radio=radio,
    )


# ---- servers ------------------------------------------------------------------------------------------------------------------------

# NVIDIA Jetson AGX Orin 64 GB, data sheet: 2,048 cores x 1.3 GHz x 2 in float32, tensor cores 42.5 TFLOP/s in float16 (dense half of 85
# sparse), 204.8 GB/s, 15 to 60 W. Efficiency, idle and memory of the system: ours.
EDGE_BOX = Device(
    profile="edge_box",
    speed_flops_per_s=5.3e12,
    efficiency=0.3,
    memory_bytes=56e9,
    baseline_bytes=1e9,
    memory_bytes_per_s=204.8e9,
    power_w=45.0,
    idle_power_w=15.0,
    formats={"float16": 42.5e12},
    slots={"cpu": 1, "gpu": 1},
)
# NVIDIA A100 80 GB SXM, data sheet: 19.5 TFLOP/s in float32, 312 in float16 and bfloat16, 624 TOP/s in int8, 2,039 GB/s, 400 W.
# Efficiency, idle and runtime: ours.
GPU_SERVER = Device(
    profile="gpu_server",
    speed_flops_per_s=19.5e12,
    efficiency=0.4,
    memory_bytes=80e9,
    baseline_bytes=1e9,
    memory_bytes_per_s=2039e9,
    power_w=340.0,
    idle_power_w=60.0,
    formats={"float16": 312e12, "bfloat16": 312e12, "int8": 624e12},
    slots={"cpu": 1, "gpu": 1},
)
# Ours: a server that adds up models. 32 cores x 2.5 GHz x 32, 8 channels of DDR4-3200, 256 GB.
CLOUD = Device(
    profile="cloud",
    speed_flops_per_s=2.56e12,
    efficiency=0.5,
    memory_bytes=240e9,
    baseline_bytes=1e9,
    memory_bytes_per_s=204.8e9,
    power_w=200.0,
    idle_power_w=100.0,
    slots={"cpu": 4},
)

# ---- own devices --------------------------------------------------------------------------------------------------------------------

_REQUIRED = ("name", "speed_flops_per_s", "efficiency", "memory_bytes", "baseline_bytes", "power_w", "idle_power_w")
_OPTIONAL = ("profile", "memory_bytes_per_s", "step_overhead_s", "battery_j", "disk_bytes_per_s", "duplex", "count")


def devices_from_csv(path: Path | str, *, radio: RadioEnergy | None = None) -> dict[str, Device]:
    """Read devices by name from a CSV file with a header.

    Required columns: name, speed_flops_per_s, efficiency, memory_bytes, baseline_bytes, power_w, idle_power_w. Optional, may be empty:
    profile, memory_bytes_per_s, step_overhead_s, battery_j, disk_bytes_per_s, duplex, count (that many devices: name0, name1, ...).

    Raises
    ------
    ScenarioError
        Naming the file, line and column: a missing or unknown column, an empty required cell, not a number, a name that comes twice.
    """
    found: dict[str, Device] = {}
    with Path(path).open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        header = list(reader.fieldnames or ())
        missing = [c for c in _REQUIRED if c not in header]
        unknown = [c for c in header if c not in _REQUIRED + _OPTIONAL]
        if missing or unknown:
            raise ScenarioError(
                f"devices_from_csv('{path}'): missing columns {missing}, unknown columns {unknown}; allowed are {_REQUIRED + _OPTIONAL}."
            )
        for row in reader:
            where = f"devices_from_csv('{path}'), line {reader.line_num}"
            device = Device(
                profile=row.get("profile") or row["name"],
                speed_flops_per_s=_required(row, "speed_flops_per_s", where),
                efficiency=_required(row, "efficiency", where),
                memory_bytes=_required(row, "memory_bytes", where),
                baseline_bytes=_required(row, "baseline_bytes", where),
                power_w=_required(row, "power_w", where),
                idle_power_w=_required(row, "idle_power_w", where),
                memory_bytes_per_s=_number(row, "memory_bytes_per_s", where),
                step_overhead_s=_number(row, "step_overhead_s", where) or 0.0,
                battery_j=_number(row, "battery_j", where),
                disk_bytes_per_s=_number(row, "disk_bytes_per_s", where),
                duplex=_duplex(row, where),
                radio=radio,
            )
            count = _number(row, "count", where)
            names = [row["name"]] if count is None else [f"{row['name']}{i}" for i in range(int(count))]
            for name in names:
                if not name or name in found:
                    refuse(where, "name", name, "present and there only once", "rename one of the two devices")
                found[name] = device
    return found


def _number(row: Mapping[str, str | None], column: str, where: str) -> float | None:
    """A number, or None for an empty or missing cell."""
    text = row.get(column)
    if text is None or not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        refuse(where, column, text, "a number", "repair the cell")
    if isnan(value):
        refuse(where, column, text, "a number", "leave the cell empty where the column is optional")
    return value


def _required(row: Mapping[str, str | None], column: str, where: str) -> float:
    """A number that must be there."""
    value = _number(row, column, where)
    if value is None:
        refuse(where, column, row.get(column), "a number", "fill the cell; there is no default")
    return value


def _duplex(row: Mapping[str, str | None], where: str) -> Literal["full", "half"]:
    """The duplex column; full where it is empty."""
    text = row.get("duplex") or "full"
    if text == "half":
        return "half"
    if text != "full":
        refuse(where, "duplex", text, "'full' or 'half'", "repair the cell")
    return "full"
