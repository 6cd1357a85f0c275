"""An assistant on phones: a tiny model in every phone, a larger one at each base station, the largest in the cloud; users ask as time goes by.

The phone's model is real: a tiny transformer that is trained from scratch on arithmetic when the scenario is first built (two seconds). What edge and
cloud would answer is declared. Speeds, prices and energies are this scenario's assumptions; replace them by your own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from airloom.clock.rng import generator
from airloom.errors import ScenarioError
from airloom.models.endpoint import Declared, Endpoint
from airloom.network.network import Network
from airloom.network.profiles import CLOUD, EDGE_BOX
from airloom.network.profiles import phones as draw_phones
from airloom.network.topology import Level, tree
from airloom.network.trace import Trace
from airloom.scenarios.scenario import Scenario
from airloom.tasks.arithmetic import TinySolver, dataset, mixed, pretrained, solve, tiny
from airloom.tasks.requests import poisson
from airloom.tasks.task import Task

# a wrong number is worth 0.2 and a right one 2.2, so asking pays where the chance of being right is below 0.4
SUITED: Mapping[str, Mapping[str, Any]] = {"gapg": {"assisted": 1.0}, "critique_routing": {"service_lr": 2.0}}

# all ours: a 50-million-parameter model computes 1e8 FLOP per token, and a phone spends them at its own speed; 3 billion parameters in 16 bits
# read 6e9 bytes per token from 204.8 GB/s; the cloud's speeds are those of a busy commercial service. Prices per token, ratio 1 : 3 : 10
FLOPS_PER_TOKEN = 1e8
EDGE_SPEED, CLOUD_SPEED = (2000.0, 34.0), (2000.0, 60.0)  # tokens per second read and written
PRICES = {"device": (0.25e-6, 1e-6), "edge": (0.75e-6, 3e-6), "cloud": (2.5e-6, 10e-6)}
REPLY_TOKENS = {"device": 40, "edge": 80, "cloud": 160}  # larger models reason longer
ROWS = 6144  # questions that the phones hold together, to learn from


def assistant(
    *,
    seed: int,
    devices: int = 6,
    base_stations: int = 2,
    requests: int = 30,
    per_minute: float = 1.0,
    hard: float = 0.5,
    context_bytes: int = 400,
    up_bps: float = 10e6,
    down_bps: float = 40e6,
    latency_s: float = 0.02,
    outage: float = 0.0,
    outage_s: float = 60.0,
    trace: str | None = None,
) -> Scenario:
    """Phones whose users ask sums and products.

    Arguments:
        seed: of the world: fleet, requests, outages.
        devices, base_stations: phones, dealt evenly to the stations.
        requests, per_minute: requests per phone, and how many of them arrive in a minute on average.
        hard: share of questions with three digits instead of two.
        context_bytes: what comes with a question.
        up_bps, down_bps, latency_s: between a phone and its station, bit/s and seconds one way.
        outage, outage_s: share of the time without a link, and mean length of an outage in seconds.
        trace: CSV file with columns t_s and rate_bps (of the downlink; up-link a quarter of it, ours) in place of up_bps, down_bps and outages.
    """
    if not 1 <= base_stations <= devices or devices % base_stations:
        raise ScenarioError(f"assistant(devices={devices}, base_stations={base_stations}): allowed: one station or more, as many phones at each")
    if not 0 <= outage < 1 or not outage_s > 0 or not 0 <= hard <= 1:
        raise ScenarioError(f"assistant(outage={outage}, outage_s={outage_s}, hard={hard}): allowed are shares, outage below 1, and seconds above 0")
    network = _network(seed, devices, base_stations, up_bps, down_bps, latency_s, outage, outage_s, trace)
    phones = network.clients(network.root)
    data = dataset(count=ROWS, hard=hard, seed=seed)
    task = Task(
        name="arithmetic requests", dataset=data, model=tiny(), metrics=("accuracy",),
        shards={name: rows for name, rows in zip(phones, np.array_split(np.arange(ROWS), len(phones)))},
        residents=_endpoints(network), seed=seed,
        requests=poisson(
            phones, count=requests, per_s=per_minute / 60.0, context_bytes=context_bytes, draw=lambda rng: mixed(rng, hard=hard), seed=seed
        ),
    )  # fmt: skip
    fields = {"devices": devices, "requests": requests, "hard": hard, "outage": outage, "model": "tiny transformer, trained here on arithmetic"}
    return Scenario(name="assistant", network=network, task=task, suited=SUITED, seed=seed, fields=fields)


def edge_skill(question: str) -> float:
    """How often the station's model is right: two digits always, three mostly where nothing is multiplied (ours)."""
    return 1.0 if len(question) == 4 else 0.9 if "*" not in question else 0.5


def slip(question: str) -> str:
    """A wrong answer that looks like one: off by ten."""
    return str((int(solve(question)) + 10) % 100)


def _always(_: str) -> float:
    return 1.0


def _endpoints(network: Network) -> dict[str, Endpoint]:
    """One endpoint per place."""
    device = TinySolver(pretrained(), REPLY_TOKENS["device"])
    edge = Declared(solve=solve, skill=edge_skill, reply_tokens=REPLY_TOKENS["edge"], name="edge", mistake=slip)
    cloud = Declared(solve=solve, skill=_always, reply_tokens=REPLY_TOKENS["cloud"], name="cloud")
    made: dict[str, Endpoint] = {}
    for name, place in network.places.items():
        tier = {"client": "device", "edge": "edge"}.get(place.role, "cloud")
        own = place.device.speed_flops_per_s * place.device.efficiency / FLOPS_PER_TOKEN
        read, write = {"device": (own, own), "edge": EDGE_SPEED, "cloud": CLOUD_SPEED}[tier]
        solver = {"device": device, "edge": edge, "cloud": cloud}[tier]
        price_in, price_out = PRICES[tier]
        made[name] = Endpoint(  # its joules are the place's power times seconds
            solver=solver, prefill_per_s=read, decode_per_s=write, price_in=price_in, price_out=price_out, joules_per_token=0.0
        )
    return made


def _network(
    seed: int, devices: int, stations: int, up_bps: float, down_bps: float, latency_s: float, outage: float, outage_s: float, trace: str | None
) -> Network:
    """Cloud, stations behind a wire, phones behind links that may break."""
    up: Any = up_bps
    down: Any = down_bps
    if trace is not None:
        down = Trace.from_csv(trace, period_s=None)
        down = Trace(times_s=down.times_s, rates_bps=down.rates_bps, period_s=down.times_s[-1] + 1.0)
        up = Trace(times_s=down.times_s, rates_bps=[rate / 4 for rate in down.rates_bps], period_s=down.period_s)
    elif outage:
        pairs = [_broken(generator(seed, "outage", i), outage, outage_s) for i in range(devices)]
        up, down = (
            [Trace(times_s=t, rates_bps=[rate * bit for bit in on], period_s=t[-1] + outage_s) for t, on in pairs] for rate in (up_bps, down_bps)
        )
    levels = [
        Level(name="edge", count=stations, devices=EDGE_BOX, up_bps=1e9, down_bps=1e9, latency_s=0.01, wired=True),
        Level(
            name="phone", count=devices // stations, devices=draw_phones(devices, seed=seed), up_bps=up, down_bps=down, latency_s=latency_s,
            transmit_power_w=0.2,
        ),
    ]  # fmt: skip
    return tree(levels, root=CLOUD, framing_bytes=64, detect_s=1.0)


def _broken(rng: np.random.Generator, outage: float, outage_s: float) -> tuple[list[float], list[int]]:
    """Times at which a link goes (0) and comes back (1), for a hundred outages; exponential lengths."""
    times, on, at_s = [0.0], [1], 0.0
    for _ in range(100):
        at_s += rng.exponential(outage_s * (1 - outage) / outage)
        times.append(at_s)
        at_s += rng.exponential(outage_s)
        times.append(at_s)
        on += [0, 1]
    return times, on
