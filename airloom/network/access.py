"""Radio access: a plan of the cells, and the builder of cloud, base stations and phones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import inf, isfinite, sqrt
from typing import Any, Literal

import numpy as np

from airloom.clock.rng import generator
from airloom.network.cell import BlockFading, Cell
from airloom.network.channel import (
    DOWN_RATE,
    PROPAGATION,
    THERMAL_DBM_PER_HZ,
    UP_RATE,
    Environment,
    Floats,
    RateCurve,
    line_of_sight_probability,
    path_loss_db,
    shadowing_db,
    watts,
)
from airloom.network.check import need_non_negative, need_positive, need_share, refuse
from airloom.network.churn import AlwaysOn, Churn, Without
from airloom.network.device import Device
from airloom.network.link import Link
from airloom.network.network import Network, Place
from airloom.network.trace import Trace

_POWER_CONTROL_HZ = 180e3  # TS 38.213 section 7.1.1 counts bandwidth in resource blocks of 180 kHz (2^mu M)
_NEIGHBORS = 18  # base stations that the geometry of interference looks at: two rings


@dataclass(frozen=True, kw_only=True, slots=True)
class CellPlan:
    """Everything that turns positions into radio links. Defaults: NR at 3.5 GHz, 20 MHz, TDD, street canyon.

    Arguments
    ---------
    environment : "umi" (street canyon), "uma", "indoor_mixed", "indoor_open".
    carrier_hz; blocks, resource_block_hz : 51 blocks of 360 kHz are 20 MHz at 30 kHz spacing (TS 38.101-1 table 5.3.2-1).
    up_share : share of TDD time for the up-link. overhead : control and reference signals (TS 38.306 section 4.1.2, up to 6 GHz).
    sharing : "tdma" or "fdma", both directions.
    radius_m, min_distance_m : phones are uniform in the ring between. base_height_m : None takes the environment's.
    device_power_dbm : power class 3 (TS 38.101-1). base_power_dbm : over the whole band, at constant density (TR 38.901 table 7.8-1, UMi).
    power_control_p0_dbm, power_control_alpha : up-link power min(P_max, P0 + 10 log10(b / 180 kHz) + alpha PL) (TS 38.213 7.1.1); values ours.
    antenna_gain_db : both ends together; 0 is ours, it stands for antenna gain less body and building loss.
    noise_dbm_per_hz, base_noise_figure_db (ITU-R M.2412), device_noise_figure_db (TR 38.901 table 7.8-1); noise_rise_db : interference (ours).
    interference : "noise_rise", or "geometry": the down-link's comes from the 18 nearest other base stations, each on the air for `load` of
        the time and never louder than the phone's own.
    block_error : share of blocks sent again; each transfer then waits one `round_trip_s`. air_latency_s : one way. (both latencies ours)
    fading : block fading on or off. speed_m_per_s : 3 km/h, the pedestrian of TR 38.901 table 7.2-1.
    estimate_error_db, estimate_delay_s : what planners see (ours).
    backhaul_bps, backhaul_latency_s : wired, base station to cloud.

    >>> plan = CellPlan(radius_m=100.0)
    >>> round(plan.band_hz / 1e6, 2), round(plan.bandwidth_hz("up") / 1e6, 4), round(plan.bandwidth_hz("down") / 1e6, 4)
    (18.36, 4.2228, 11.8422)
    """

    environment: Environment = "umi"
    carrier_hz: float = 3.5e9
    blocks: int = 51
    resource_block_hz: float = 360e3
    up_share: float = 0.25
    up_overhead: float = 0.08
    down_overhead: float = 0.14
    sharing: Literal["tdma", "fdma"] = "tdma"
    radius_m: float = 150.0
    min_distance_m: float = 10.0
    base_height_m: float | None = None
    device_height_m: float = 1.5
    device_power_dbm: float = 23.0
    base_power_dbm: float = 44.0
    power_control_p0_dbm: float = -80.0
    power_control_alpha: float = 0.8
    antenna_gain_db: float = 0.0
    noise_dbm_per_hz: float = THERMAL_DBM_PER_HZ
    base_noise_figure_db: float = 5.0
    device_noise_figure_db: float = 9.0
    noise_rise_db: float = 3.0
    interference: Literal["noise_rise", "geometry"] = "noise_rise"
    load: float = 0.5
    up_rate: RateCurve = UP_RATE
    down_rate: RateCurve = DOWN_RATE
    block_error: float = 0.1
    round_trip_s: float = 0.008
    air_latency_s: float = 0.005
    shadowing: bool = True
    fading: bool = True
    speed_m_per_s: float = 3.0 / 3.6
    estimate_error_db: float = 1.0
    estimate_delay_s: float = 0.01
    backhaul_bps: float = 1e9
    backhaul_latency_s: float = 0.01

    def __post_init__(self) -> None:
        if self.environment not in PROPAGATION:
            refuse("CellPlan", "environment", self.environment, "one of " + ", ".join(PROPAGATION), "choose a table of TR 38.901")
        if self.blocks < 1:
            refuse("CellPlan", "blocks", self.blocks, ">= 1", "give the number of resource blocks")
        for name, value in (
            ("carrier_hz", self.carrier_hz),
            ("resource_block_hz", self.resource_block_hz),
            ("min_distance_m", self.min_distance_m),
            ("device_height_m", self.device_height_m),
            ("backhaul_bps", self.backhaul_bps),
        ):
            need_positive("CellPlan", name, value, "give a value in the unit of its name")
        if not self.min_distance_m < self.radius_m < inf:
            refuse("CellPlan", "radius_m", self.radius_m, f"above min_distance_m={self.min_distance_m!r}", "phones stand in the ring between")
        if not 0.0 < self.up_share < 1.0:
            refuse("CellPlan", "up_share", self.up_share, "in (0, 1)", "both directions need air time")
        need_share("CellPlan", "load", self.load, "share of the time that other base stations send")
        if not 0.0 <= self.power_control_alpha <= 1.0:
            refuse("CellPlan", "power_control_alpha", self.power_control_alpha, "in [0, 1]", "1 compensates all of the path loss")
        if self.interference not in ("noise_rise", "geometry"):
            refuse("CellPlan", "interference", self.interference, "'noise_rise' or 'geometry'", "choose one")
        if self.base_height_m is not None:
            need_positive("CellPlan", "base_height_m", self.base_height_m, "or None for the environment's")
        is_indoor = self.environment.startswith("indoor")
        shortest_m, longest_m = (1.0, 150.0) if is_indoor else (10.0, 5000.0)
        if self.min_distance_m < shortest_m or self.radius_m > longest_m:
            allowed = f"within {shortest_m:g} to {longest_m:g} m, where TR 38.901 holds"
            refuse("CellPlan", "min_distance_m, radius_m", (self.min_distance_m, self.radius_m), allowed, "change the size of the cell")
        if not is_indoor and not 1.5 <= self.device_height_m <= 22.5:
            refuse(
                "CellPlan", "device_height_m", self.device_height_m, "within 1.5 to 22.5 m, where TR 38.901 holds", "a phone in the hand is at 1.5"
            )
        if not 0.5e9 <= self.carrier_hz <= 100e9:
            refuse("CellPlan", "carrier_hz", self.carrier_hz, "within 0.5 to 100 GHz, where TR 38.901 holds", "change the carrier")
        for name, value in (
            ("round_trip_s", self.round_trip_s),
            ("air_latency_s", self.air_latency_s),
            ("backhaul_latency_s", self.backhaul_latency_s),
            ("speed_m_per_s", self.speed_m_per_s),
        ):
            need_non_negative("CellPlan", name, value, "give a value in the unit of its name")

    @property
    def band_hz(self) -> float:
        """Spectrum on the air: all resource blocks."""
        return self.blocks * self.resource_block_hz

    @property
    def height_m(self) -> float:
        """Height of the base station."""
        return PROPAGATION[self.environment].base_height_m if self.base_height_m is None else self.base_height_m

    @property
    def latency_s(self) -> float:
        """One way over the air, with the round trip of a retransmission."""
        return self.air_latency_s + (self.round_trip_s if self.block_error else 0.0)

    def describe(self) -> dict[str, Any]:
        """Return all fields, JSON-able (None for an infinite one)."""
        fields = asdict(self)
        for name in ("up_rate", "down_rate"):
            fields[name] = {key: value if isfinite(value) else None for key, value in fields[name].items()}
        return fields

    def bandwidth_hz(self, direction: Literal["up", "down"]) -> float:
        """Return what a direction may use, after the TDD split and overhead."""
        if direction == "up":
            return self.band_hz * self.up_share * (1.0 - self.up_overhead)
        return self.band_hz * (1.0 - self.up_share) * (1.0 - self.down_overhead)

    def cell(self, name: str, direction: Literal["up", "down"]) -> Cell:
        """Return one direction of a cell."""
        up = direction == "up"
        return Cell(
            name=name,
            bandwidth_hz=self.bandwidth_hz(direction),
            sharing=self.sharing,
            time_share=self.up_share if up else 1.0 - self.up_share,
            overhead=self.up_overhead if up else self.down_overhead,
            resource_block_hz=self.resource_block_hz,
            curve=self.up_rate if up else self.down_rate,
            noise_dbm_per_hz=self.noise_dbm_per_hz,
            noise_figure_db=self.base_noise_figure_db if up else self.device_noise_figure_db,
            noise_rise_db=self.noise_rise_db,
            block_error=self.block_error,
            fading=BlockFading(carrier_hz=self.carrier_hz) if self.fading else None,
            estimate_error_db=self.estimate_error_db,
            estimate_delay_s=self.estimate_delay_s,
        )

    def up_density_w_per_hz(self, gain_db: Floats) -> Floats:
        """Return the power density that fractional power control asks for at a gain."""
        return 10.0 ** ((self.power_control_p0_dbm - self.power_control_alpha * gain_db) / 10.0 - 3.0) / _POWER_CONTROL_HZ


def cells(
    devices: Sequence[Device],
    *,
    base_stations: int,
    base_station: Device,
    root: Device,
    seed: int,
    plan: CellPlan | None = None,
    root_name: str = "cloud",
    base_name: str = "edge",
    client_name: str = "phone",
    churn: Churn | None = None,
    downlink: Literal["unicast", "broadcast", "free"] = "unicast",
    framing_bytes: int = 0,
    detect_s: float = 0.0,
    on_leave: Literal["keep", "wipe"] = "keep",
    backhaul: Sequence[Trace] = (),
) -> Network:
    """Return a cloud, base stations on a hexagonal grid behind wired backhaul, and phones in their cells (one up, one down `Cell` each).

    Arguments
    ---------
    devices : the phones, dealt to the base stations in equal blocks. base_station, root : their devices.
    seed : positions, lines of sight and shadowing are drawn from (seed, base station).
    plan : `CellPlan()` if None.
    backhaul : traces of the wired links, dealt to the base stations in turn, instead of the plan's `backhaul_bps`.

    Phones that no band reaches in one direction or the other stay in the network, are listed in `Network.unreachable` and never present.

    >>> from airloom.network.profiles import CLOUD, EDGE_BOX, phones
    >>> net = cells(phones(40, seed=0), base_stations=2, base_station=EDGE_BOX, root=CLOUD, seed=0)
    >>> len(net.places), net.route("phone39", "cloud")[1].source, sorted(net.unreachable)
    (43, 'edge1', [])
    """
    plan = CellPlan() if plan is None else plan
    if base_stations < 1:
        refuse("cells", "base_stations", base_stations, ">= 1", "give the number of cells")
    if len(devices) < base_stations:
        refuse("cells", "devices", len(devices), f"at least one per base station ({base_stations})", "use fewer base stations")
    centers = hexagonal_grid(base_stations, sqrt(3.0) * plan.radius_m)
    places = [Place(name=root_name, device=root, role="cloud")]
    links: list[Link] = []
    unreachable: list[str] = []
    bounds = [len(devices) * b // base_stations for b in range(base_stations + 1)]
    for b in range(base_stations):
        x, y = centers[b].tolist()
        places.append(Place(name=f"{base_name}{b}", device=base_station, parent=root_name, role="edge", position_m=(x, y)))
        trace = backhaul[b % len(backhaul)] if backhaul else None
        rate_bps = None if trace is not None else plan.backhaul_bps
        for source, target in ((places[-1].name, root_name), (root_name, places[-1].name)):
            links.append(Link(source=source, target=target, latency_s=plan.backhaul_latency_s, direction="backhaul", rate_bps=rate_bps, trace=trace))
    for b in range(base_stations):
        names = [f"{client_name}{i}" for i in range(bounds[b], bounds[b + 1])]
        unreachable += _fill_cell(plan, seed, f"{base_name}{b}", b, centers, names, devices[bounds[b] : bounds[b + 1]], places, links)
    absent = frozenset(unreachable)
    present = AlwaysOn() if churn is None else churn
    return Network.of(
        places,
        links,
        churn=Without(absent=absent, rest=present) if absent else present,
        downlink=downlink,
        framing_bytes=framing_bytes,
        detect_s=detect_s,
        on_leave=on_leave,
        unreachable=absent,
        origin={"builder": "cells", "base_stations": base_stations, "seed": seed, **plan.describe()},
    )


def hexagonal_grid(n: int, spacing_m: float) -> Floats:
    """Return the n points [n, 2] of a hexagonal grid that are nearest to its center, center first."""
    reach = int(sqrt(n)) + 2
    i, j = np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1))
    points = np.stack([(i + 0.5 * j).ravel(), (sqrt(3.0) / 2.0 * j).ravel()], axis=1) * spacing_m
    angle = np.arctan2(points[:, 1], points[:, 0])
    order = np.lexsort((np.round(angle, 9), np.round(np.hypot(points[:, 0], points[:, 1]), 6)))
    return np.asarray(points[order[:n]], dtype=np.float64)


def _fill_cell(
    plan: CellPlan,
    seed: int,
    base: str,
    b: int,
    centers: Floats,
    names: Sequence[str],
    devices: Sequence[Device],
    places: list[Place],
    links: list[Link],
) -> list[str]:
    """Place the phones of one cell and link them both ways; return those that no band reaches."""
    n = len(names)
    rng = generator(seed, "channel", base)
    draws = rng.random((n, 3))
    near, far = plan.min_distance_m**2, plan.radius_m**2
    distance = np.sqrt(near + (far - near) * draws[:, 0])
    angle = 2.0 * np.pi * draws[:, 1]
    offset = np.stack([distance * np.cos(angle), distance * np.sin(angle)], axis=1)
    sees = draws[:, 2] < line_of_sight_probability(plan.environment, distance, device_height_m=plan.device_height_m)
    loss = path_loss_db(
        plan.environment, distance, sees, carrier_hz=plan.carrier_hz, base_height_m=plan.height_m, device_height_m=plan.device_height_m
    )
    if plan.shadowing:
        loss = loss + shadowing_db(plan.environment, offset, sees, rng)
    gain_db = plan.antenna_gain_db - loss
    position = centers[b] + offset
    rise_db = _noise_rise_db(plan, seed, base, b, centers, position, gain_db)

    up, down = plan.cell(f"{base}:up", "up"), plan.cell(f"{base}:down", "down")
    device_w, base_w = watts(plan.device_power_dbm), watts(plan.base_power_dbm)
    density = plan.up_density_w_per_hz(gain_db)
    base_density = base_w / plan.band_hz
    gain = 10.0 ** (gain_db / 10.0)
    up_noise = watts(plan.noise_dbm_per_hz + plan.base_noise_figure_db + plan.noise_rise_db)
    down_noise = watts(plan.noise_dbm_per_hz + plan.device_noise_figure_db) * 10.0 ** (rise_db / 10.0)
    # a hair above the minimum, so that `Cell.reachable` agrees whatever the rounding
    up_least, down_least = (rate.min_sinr * (1.0 + 1e-9) for rate in (plan.up_rate, plan.down_rate))
    up_density = np.minimum(density, device_w / plan.resource_block_hz)
    reached = (up_density * gain >= up_least * up_noise) & (base_density * gain >= down_least * down_noise)
    rice_db = PROPAGATION[plan.environment].rice_db
    geometry = plan.interference == "geometry"
    latency_s = plan.latency_s
    columns = zip(names, devices, position.tolist(), gain_db.tolist(), density.tolist(), rise_db.tolist(), sees.tolist())
    for name, device, (x, y), gain_i, density_i, rise_i, sees_i in columns:
        places.append(Place(name=name, device=device, parent=base, position_m=(x, y)))
        rice_i = rice_db if sees_i else -inf
        links.append(
            Link(
                source=name,
                target=base,
                latency_s=latency_s,
                direction="up",
                cell=up,
                gain_db=gain_i,
                transmit_power_w=device_w,
                power_w_per_hz=density_i,
                speed_m_per_s=plan.speed_m_per_s,
                rice_db=rice_i,
            )
        )
        links.append(
            Link(
                source=base,
                target=name,
                latency_s=latency_s,
                direction="down",
                cell=down,
                gain_db=gain_i,
                transmit_power_w=base_w,
                power_w_per_hz=base_density,
                noise_rise_db=rise_i if geometry else None,
                speed_m_per_s=plan.speed_m_per_s,
                rice_db=rice_i,
            )
        )
    return [names[i] for i in np.flatnonzero(~reached).tolist()]


def _noise_rise_db(plan: CellPlan, seed: int, base: str, b: int, centers: Floats, position: Floats, gain_db: Floats) -> Floats:
    """Interference at each phone over its noise: the plan's figure, or the sum over the nearest other base stations.

    A station that is heard louder than the phone's own would have been chosen in its place: its gain is cut to that of the phone's own.
    """
    if plan.interference == "noise_rise":
        return np.full(len(position), plan.noise_rise_db)
    apart = np.hypot(*(centers - centers[b]).T)
    others = np.argsort(apart, kind="stable")[1 : _NEIGHBORS + 1]
    rng = generator(seed, "interference", base)
    received = np.zeros(len(position))
    for other in others.tolist():
        offset = position - centers[other]
        distance = np.maximum(np.hypot(offset[:, 0], offset[:, 1]), plan.min_distance_m)
        sees = rng.random(len(position)) < line_of_sight_probability(plan.environment, distance, device_height_m=plan.device_height_m)
        loss = path_loss_db(
            plan.environment, distance, sees, carrier_hz=plan.carrier_hz, base_height_m=plan.height_m, device_height_m=plan.device_height_m
        )
        if plan.shadowing:
            loss = loss + shadowing_db(plan.environment, offset, sees, rng)
        received += 10.0 ** (np.minimum(plan.antenna_gain_db - loss, gain_db) / 10.0)
    density = watts(plan.base_power_dbm) / plan.band_hz * plan.load
    noise = watts(plan.noise_dbm_per_hz + plan.device_noise_figure_db)
    return 10.0 * np.log10(1.0 + received * density / noise)
