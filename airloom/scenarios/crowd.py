"""A crowd: many phones in many radio cells that come and go, behind wires whose rate changes; few of them take part in a round."""

from __future__ import annotations

import numpy as np

from airloom.clock.rng import generator
from airloom.errors import ScenarioError
from airloom.network.access import cells
from airloom.network.churn import Markov
from airloom.network.profiles import CLOUD, EDGE_BOX
from airloom.network.profiles import phones as draw_phones
from airloom.network.trace import Trace
from airloom.scenarios.scenario import Scenario
from airloom.tasks import TaskSettings, make_task

TRACES = 24  # different backhaul traces, dealt to the base stations in turn (ours)
STEPS, STEP_S = 60, 60.0  # a trace: an hour by the minute, repeated (ours)
SPREAD = 0.5  # standard deviation of a trace's log rate: a factor of 1.6 up or down (ours)
MEMORY = 0.9  # of the log rate from minute to minute (ours)


def crowd(
    *,
    seed: int,
    devices: int = 10_000,
    per_cell: int = 100,
    participants: int = 1_000,
    on_s: float = 3_600.0,
    off_s: float = 900.0,
    backhaul_bps: float = 200e6,
    task: TaskSettings = TaskSettings(partition="resample"),
) -> Scenario:
    """Very many phones, a thousand of which take part in a round.

    Arguments:
        seed: of the world: partition, fleet, positions, channels, presence, traces.
        devices: phones in all.
        per_cell: phones of a cell; there are ceil(devices / per_cell) cells.
        participants: clients of a round of the methods that have a `fraction` (their suited one makes so many of those present on average).
        on_s, off_s: mean seconds that a phone stays and stays away (ours: four fifths are there).
        backhaul_bps: median rate of the wires between base stations and cloud; traces vary around it.
        task: data set and partition; by default 32 rows each, which phones may share.
    """
    for name, amount in (("devices", devices), ("per_cell", per_cell), ("participants", participants)):
        if amount < 1:
            raise ScenarioError(f"crowd({name}={amount}): allowed are integers >= 1")
    network = cells(
        draw_phones(devices, seed=seed),
        base_stations=-(-devices // per_cell),
        base_station=EDGE_BOX,
        root=CLOUD,
        seed=seed,
        churn=Markov(on_s=on_s, off_s=off_s),
        framing_bytes=64,
        detect_s=1.0,
        backhaul=backhaul(seed, backhaul_bps),
    )
    learned = make_task(task, list(network.clients(network.root)), seed=seed)
    there = (devices - len(network.unreachable)) * on_s / (on_s + off_s)
    fields = {"fraction": min(1.0, participants / there), "local_steps": 10, "lr": 0.3}
    return Scenario(
        name="crowd", network=network, task=learned, suited=dict.fromkeys(("fedavg", "fedprox"), fields), target=("accuracy", 0.9),
        budget={"seconds": 3600.0}, seed=seed, fields={"devices": devices, "per_cell": per_cell, "participants": participants},
    )  # fmt: skip


def backhaul(seed: int, median_bps: float) -> list[Trace]:
    """Return traces whose log rate is a stationary first-order process around the median; the hour repeats."""
    rng = generator(seed, "crowd", "backhaul")
    made: list[Trace] = []
    for _ in range(TRACES):
        step = rng.standard_normal(STEPS)
        log_rate = [step[0]]
        for drawn in step[1:]:
            log_rate.append(MEMORY * log_rate[-1] + (1.0 - MEMORY**2) ** 0.5 * drawn)
        rates = median_bps * np.exp(SPREAD * np.array(log_rate))
        made.append(Trace(times_s=(STEP_S * np.arange(STEPS)).tolist(), rates_bps=rates.tolist(), period_s=STEPS * STEP_S))
    return made
