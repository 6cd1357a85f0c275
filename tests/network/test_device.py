"""Seconds, memory and joules of a device, by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from airloom.errors import ScenarioError
from airloom.network.device import Capacitance, Device, RadioEnergy, Work


def device(**change: Any) -> Device:
    fields: dict[str, Any] = {
        "profile": "d",
        "speed_flops_per_s": 1e10,
        "efficiency": 0.5,
        "memory_bytes": 2e9,
        "baseline_bytes": 5e8,
        "power_w": 3.0,
        "idle_power_w": 0.5,
    }
    return Device(**(fields | change))


def test_roofline_by_hand() -> None:
    # 1e10 FLOP at 0.5 * 1e10: 2 s. 8e9 bytes at 2e9 bytes/s: 4 s. 100 steps of 10 ms: 1 s.
    work = Work(flops=1e10, steps=100, bytes_moved=8e9)
    assert device().seconds(work) == 2.0
    assert device(step_overhead_s=0.01).seconds(work) == 3.0
    assert device(step_overhead_s=0.01, memory_bytes_per_s=2e9).seconds(work) == 5.0
    assert device(memory_bytes_per_s=1e11).seconds(work) == 2.0


def test_number_formats_have_their_own_peak_or_none() -> None:
    fast = device(formats={"float16": 4e10})
    assert fast.seconds(Work(flops=1e10, format="float16")) == 0.5
    with pytest.raises(ScenarioError, match="int8"):
        fast.seconds(Work(flops=1e10, format="int8"))


def test_measured_table_by_hand() -> None:
    # log-log line between (0.25, 1 ms) and (1, 16 ms): slope 2, so 4 ms at 0.5
    board = device(seconds_per_sample={1.0: 0.016, 0.25: 0.001}, step_overhead_s=0.5)
    assert board.seconds(Work(samples=10, width=1.0)) == pytest.approx(0.16)
    assert board.seconds(Work(samples=10, width=0.5, steps=2)) == pytest.approx(0.04 + 1.0)
    assert board.seconds(Work(flops=1e10)) == 2.0  # no samples: nothing the table times
    for width in (0.2, 1.1):
        with pytest.raises(ScenarioError, match="width"):
            board.seconds(Work(samples=1, width=width))


def test_memory_is_what_is_left_to_the_application() -> None:
    assert device().available_bytes == 1.5e9


def test_both_compute_energies_by_hand() -> None:
    work = Work(flops=1e10)
    assert device().joules(2.0, work) == 6.0  # 3 W for 2 s
    # 1e10 FLOP * 0.5 = 5e9 cycles; 1e-28 * 5e9 * (2e9)^2 = 2 J, whatever the seconds
    chip = device(power_w=None, capacitance=Capacitance(kappa=1e-28, clock_hz=2e9, cycles_per_flop=0.5))
    assert chip.joules(2.0, work) == pytest.approx(2.0)
    assert chip.joules(9.0, work) == pytest.approx(2.0)
    # work known by its time: 2 s are 4e9 cycles, 1e-28 * 4e9 * 4e18 = 1.6 J
    assert chip.joules(2.0, Work(samples=5)) == pytest.approx(1.6)


def test_radio_energies_by_hand() -> None:
    # 0.2 W / 0.4 + 0.1 W = 0.6 W while on air (2 s of 8 s); receiving 0.3 W on air
    pa = RadioEnergy.linear_pa(pa_efficiency=0.4, circuit_w=0.1, receive_w=0.3)
    assert pa.transmit_j(transmit_power_w=0.2, air_s=2.0, elapsed_s=8.0, bits=1e6) == pytest.approx(1.2)
    assert pa.receive_j(air_s=2.0, elapsed_s=8.0, bits=1e6) == pytest.approx(0.6)
    # LTE at 10 Mbit/s for 8 s: (2.926 + 0.767) W * 8 s = 29.544 J; 5G mmWave: (5.664 + 0.089) * 8 = 46.024 J
    lte, wave = RadioEnergy.measured("lte"), RadioEnergy.measured("5g_mmwave")
    assert lte.transmit_j(transmit_power_w=None, air_s=2.0, elapsed_s=8.0, bits=80e6) == pytest.approx(29.544)
    assert wave.transmit_j(transmit_power_w=0.2, air_s=8.0, elapsed_s=8.0, bits=80e6) == pytest.approx(46.024)
    # receiving 80 Mbit on 5G low band: 3.059 * 8 + 80 * 0.01154 = 25.3952 J
    assert RadioEnergy.measured("5g_low").receive_j(air_s=1.0, elapsed_s=8.0, bits=80e6) == pytest.approx(25.3952)
    assert (pa.name, lte.name) == ("linear_pa", "measured_lte")


def test_radio_energy_is_linear_along_a_flow() -> None:
    for radio in (RadioEnergy.measured("lte"), RadioEnergy.linear_pa(pa_efficiency=0.3, circuit_w=0.1, receive_w=0.2)):
        whole = radio.transmit_j(transmit_power_w=0.2, air_s=2.0, elapsed_s=3.0, bits=5e6)
        parts = [radio.transmit_j(transmit_power_w=0.2, air_s=2.0 * s, elapsed_s=3.0 * s, bits=5e6 * s) for s in (0.3, 0.7)]
        assert sum(parts) == pytest.approx(whole)


def test_radio_model_that_needs_a_power_says_so() -> None:
    with pytest.raises(ScenarioError, match="transmit_power_w"):
        RadioEnergy.linear_pa(pa_efficiency=0.4, circuit_w=0.1, receive_w=0.3).transmit_j(transmit_power_w=None, air_s=1.0, elapsed_s=1.0, bits=1.0)
    with pytest.raises(ScenarioError, match="kind"):
        RadioEnergy.measured("6g")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ScenarioError, match="pa_efficiency"):
        RadioEnergy.linear_pa(pa_efficiency=0.0, circuit_w=0.1, receive_w=0.3)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"speed_flops_per_s": 0.0}, "speed_flops_per_s"),
        ({"speed_flops_per_s": math.nan}, "speed_flops_per_s"),
        ({"efficiency": 1.5}, "efficiency"),
        ({"memory_bytes": -1.0}, "memory_bytes"),
        ({"baseline_bytes": 3e9}, "baseline_bytes"),
        ({"power_w": None}, "power_w, capacitance"),
        ({"capacitance": Capacitance(kappa=1e-28, clock_hz=1e9, cycles_per_flop=1.0)}, "power_w, capacitance"),
        ({"idle_power_w": math.nan}, "idle_power_w"),
        ({"memory_bytes_per_s": 0.0}, "memory_bytes_per_s"),
        ({"battery_j": -5.0}, "battery_j"),
        ({"step_overhead_s": -1.0}, "step_overhead_s"),
        ({"formats": {"int8": 0.0}}, "formats"),
        ({"slots": {"cpu": 0}}, "slots"),
        ({"duplex": "quarter"}, "duplex"),
        ({"seconds_per_sample": {}}, "seconds_per_sample"),
        ({"seconds_per_sample": {2.0: 1.0}}, "width"),
        ({"seconds_per_sample": {1.0: 0.0}}, "seconds_per_sample"),
    ],
)
def test_device_refuses(change: dict[str, Any], field: str) -> None:
    with pytest.raises(ScenarioError, match=f"Device\\('d'\\).*{field}"):
        device(**change)


def test_negative_work_is_refused() -> None:
    with pytest.raises(ScenarioError, match="Work"):
        device().seconds(Work(flops=-1.0))
    with pytest.raises(ScenarioError, match="kappa"):
        Capacitance(kappa=0.0, clock_hz=1e9, cycles_per_flop=1.0)
