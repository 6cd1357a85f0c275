"""Profiles: the measured table, the ranking's quantiles, the anchor of speed, own devices from a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from airloom.errors import ScenarioError
from airloom.network.device import RadioEnergy, Work
from airloom.network.profiles import (
    CLOUD,
    EDGE_BOX,
    FLOPS_PER_SCORE,
    GPU_SERVER,
    PHONE_RAM_GB,
    PHONE_SCORES,
    WHALE_FL,
    devices_from_csv,
    phone,
    phone_speeds,
    phones,
)


def test_board_table_falls_with_width_and_spreads_one_to_six() -> None:
    for board in WHALE_FL.values():
        times = [board.seconds(Work(samples=1, width=w)) for w in (1.0, 0.5, 0.25, 0.125, 0.0625)]
        assert times == sorted(times, reverse=True)
    full = {name: board.seconds(Work(samples=1)) for name, board in WHALE_FL.items()}
    # 0.051820623 / 0.0083647 = 6.195
    assert max(full.values()) / min(full.values()) == pytest.approx(6.195, abs=1e-3)
    assert full["nano"] == 0.048899315


def test_deciles_are_those_of_the_ranking(data_folder: Path) -> None:
    table = pd.read_csv(data_folder / "devices" / "ai_benchmark_2020.csv")
    deciles = np.linspace(0.0, 1.0, 11)
    assert np.allclose(table.CPU_F_AI_Score.quantile(deciles), PHONE_SCORES)
    assert np.allclose(table.RAM_GB.quantile(deciles), PHONE_RAM_GB)


def test_anchor_of_speed_is_that_of_the_measurements(data_folder: Path) -> None:
    times = np.load(data_folder / "devices" / "phone_training_times.npz")
    for name, score in (("redmi_note8", 1546), ("samsung_note10", 3734)):
        x = times[f"{name}_output_x"].astype(float)
        flops = 3 * 2 * (x[:, 0] * 1e3) * (x[:, 1] * 1e4) * (x[:, 2] * 50) * (x[:, 3] * 10)  # forward and twice backward
        speed = flops / times[f"{name}_output_y"][:, 0]
        most_work = flops > np.quantile(flops, 0.9)
        assert np.median(speed[most_work]) / score == pytest.approx(FLOPS_PER_SCORE, rel=0.1)


def test_speeds_are_drawn_from_the_quantiles() -> None:
    speeds = phone_speeds(20_000, seed=3)
    # 20,000 draws: the median lies within 4 * 0.5 / sqrt(20000) = 1.4 % of rank 0.5, between deciles 4.86 and 5.14 of the ranking
    low, high = (np.interp(q, np.linspace(0, 1, 11), PHONE_SCORES) * 6e6 for q in (0.486, 0.514))
    assert low <= np.median(speeds) <= high
    assert speeds.min() >= 105 * 6e6
    assert speeds.max() <= 4310 * 6e6
    assert (phone_speeds(10, seed=3) == speeds[:10]).all()
    assert (phone_speeds(10, seed=4) != speeds[:10]).any()
    assert [d.speed_flops_per_s for d in phones(10, seed=3)] == speeds[:10].tolist()


def test_phone_at_a_quantile() -> None:
    # median: score 1548 * 6 MFLOP/s; 4 GB * 0.3 - 0.1 GB. Training 9.288 GFLOP at half of that: 2 s at 3 W
    median = phone(0.5)
    assert median.speed_flops_per_s == pytest.approx(9.288e9)
    assert median.available_bytes == pytest.approx(1.1e9)
    assert median.seconds(Work(flops=9.288e9)) == pytest.approx(2.0)
    assert median.joules(2.0, Work(flops=9.288e9)) == 6.0
    assert phone(0.0).speed_flops_per_s < phone(0.25).speed_flops_per_s < phone(1.0).speed_flops_per_s
    assert phone(0.5, radio=RadioEnergy.measured("lte")).radio == RadioEnergy.measured("lte")
    with pytest.raises(ScenarioError, match="quantile"):
        phone(1.5)
    with pytest.raises(ScenarioError, match="n=0"):
        phones(0, seed=0)


def test_servers_are_ordered() -> None:
    work = Work(flops=1e12)
    assert GPU_SERVER.seconds(work) < EDGE_BOX.seconds(work) < phone(1.0).seconds(work)
    assert CLOUD.available_bytes > EDGE_BOX.available_bytes > phone(1.0).available_bytes


HEADER = "name,speed_flops_per_s,efficiency,memory_bytes,baseline_bytes,power_w,idle_power_w,duplex,battery_j,count\n"


def test_own_devices_from_csv(tmp_path: Path) -> None:
    file = tmp_path / "fleet.csv"
    file.write_text(HEADER + "pi,4.8e10,0.2,4e9,3e8,3,2,half,,\nphone,1e10,0.5,1e9,1e8,3,0.5,,50000,2\n")
    fleet = devices_from_csv(file)
    assert list(fleet) == ["pi", "phone0", "phone1"]
    assert fleet["pi"].duplex == "half"
    assert fleet["pi"].battery_j is None
    assert fleet["phone1"].battery_j == 50_000.0
    assert fleet["phone1"].profile == "phone"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("name,speed\na,1\n", "missing"),
        (HEADER + "a,,0.5,1e9,1e8,3,1,,,\n", "line 2: speed_flops_per_s"),
        (HEADER + "a,fast,0.5,1e9,1e8,3,1,,,\n", "speed_flops_per_s='fast'"),
        (HEADER + "a,nan,0.5,1e9,1e8,3,1,,,\n", "nan"),
        (HEADER + "a,-1,0.5,1e9,1e8,3,1,,,\n", "speed_flops_per_s=-1"),
        (HEADER + "a,1e9,0.5,1e9,1e8,3,1,none,,\n", "duplex"),
        (HEADER + "a,1e9,0.5,1e9,1e8,3,1,,,\n" * 2, "only once"),
    ],
)
def test_csv_mistakes_name_the_place(tmp_path: Path, text: str, word: str) -> None:
    file = tmp_path / "fleet.csv"
    file.write_text(text)
    with pytest.raises(ScenarioError, match=word):
        devices_from_csv(file)
