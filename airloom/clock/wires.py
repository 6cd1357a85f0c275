"""Wires: directed links at run time. Messages travel over routes of them, hop by hop, and every hop is charged.

A *wire* is a link with a first-in-first-out lane; a *flow* is one message on one wire; a *transfer* is a message with its whole route. Latency
counts after the last bit. A relay keeps one copy per object and round: what has gone over a wire that is not the last hop of its route is not sent
over it again before the round ends; lanes are first-in-first-out, so a later message can never overtake the copy that it relies on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from airloom.clock.kernel import Kernel
from airloom.clock.media import Airtime, Rerated, max_min
from airloom.clock.meter import SiteMeter, Totals
from airloom.errors import ScenarioError
from airloom.network.cell import Cell
from airloom.network.device import Device
from airloom.network.link import Link
from airloom.network.network import Network

Part = tuple[int, Any, int]  # key, object (kept alive so that the key stays its own), bytes


class Lane:
    """First-in-first-out order of flows. A half-duplex radio has one lane for both directions."""

    __slots__ = ("active", "queue")

    def __init__(self) -> None:
        self.active: Flow | None = None
        self.queue: deque[Flow] = deque()


class Wire:
    """A link at run time: its lane, its medium, the bytes it has carried, and what relays hold of this round."""

    __slots__ = ("bytes", "direction", "flow", "has_radio", "lane", "latency_s", "link", "rate_bps", "sent", "source", "target")

    def __init__(self, link: Link, lane: Lane, source: Endpoint, target: Endpoint) -> None:
        self.direction = link.direction
        self.latency_s = link.latency_s
        self.rate_bps = link.rate_bps if not link.resources else None  # of a link of its own
        self.flow = SharedFlow if link.resources or link.cell is not None else Flow
        self.has_radio = link.direction != "backhaul" and (source.device.radio is not None or target.device.radio is not None)
        self.link = link
        self.lane = lane
        self.source = source
        self.target = target
        self.bytes = 0.0
        self.sent: dict[int, Any] = {}


class Endpoint:
    """What wires need to know of a place."""

    __slots__ = ("device", "meter", "name", "radio_lane", "routes", "transfers")

    def __init__(self, name: str, device: Device, meter: SiteMeter) -> None:
        self.name = name
        self.device = device
        self.meter = meter
        self.radio_lane: Lane | None = Lane() if device.duplex == "half" else None
        self.routes: dict[str, tuple[Wire, ...]] = {}  # by target
        self.transfers: dict[Transfer, None] = {}  # those that touch this place; kept only in networks where places can leave


class Transfer:
    """A message on its way: parts (objects with their bytes), control bytes, the route, and what to tell on arrival."""

    __slots__ = ("body", "control", "flow", "hop", "hz", "is_lost", "kind", "label", "parts", "route", "subject")

    def __init__(
        self, kind: str, subject: Any, parts: Sequence[Part], body: int, control: int, route: tuple[Wire, ...], hz: float | None, label: str
    ) -> None:
        self.kind = kind
        self.subject = subject
        self.parts = parts
        self.body = body  # bytes of all parts
        self.control = control
        self.route = route
        self.hop = 0
        self.hz = hz
        self.label = label
        self.is_lost = False
        self.flow: Flow | None = None


class Flow:
    """One message on one wire. `is_copy`: it carries objects that others rely on, so it goes on when only a later place of its route leaves.

    A flow with a rate of its own knows its end when it starts (`end_s`); one in a shared medium is a `SharedFlow`.
    """

    __slots__ = ("air_s", "air_share", "bits", "end_s", "is_copy", "is_dead", "medium", "number", "start_s", "transfer", "wire")

    def __init__(self, number: int, wire: Wire, transfer: Transfer, bits: float, is_copy: bool) -> None:
        self.number = number
        self.wire = wire
        self.transfer = transfer
        self.bits = bits
        self.is_copy = is_copy
        self.start_s = -1.0
        self.end_s = -1.0
        self.air_s = 0.0  # seconds on the air, 0 where they are the elapsed ones
        self.air_share = 1.0  # share of that in which the sender transmits (TDD)
        self.medium: str | None = None
        self.is_dead = False


class SharedFlow(Flow):
    """A flow whose end depends on others in its medium; `group`: all receivers of a broadcast."""

    __slots__ = ("group", "mark", "rate_bps", "resources")

    def __init__(self, number: int, wire: Wire, transfer: Transfer, bits: float, is_copy: bool) -> None:
        super().__init__(number, wire, transfer, bits, is_copy)
        self.resources: tuple[str, ...] = wire.link.resources
        self.rate_bps = 0.0
        self.mark = 0.0
        self.group: list[Transfer] | None = None


class Wires:
    """All wires of a network on one kernel.

    Arguments:
        kernel: the clock.
        network: places, links, framing and the down-link rule.
        endpoint: gives the `Endpoint` of a place by name.
        totals: sums to add to.
        seed: names the channel's streams.
        arrived: called with each transfer that reached the end of its route.
        log: called as log(flow, transfer, wire, part) for each hop that is through, or lost after that part of it, or None; the flow is None where a
            message costs latency only.
    """

    def __init__(
        self,
        kernel: Kernel,
        network: Network,
        endpoint: Callable[[str], Endpoint],
        totals: Totals,
        seed: int,
        arrived: Callable[[Transfer], None],
        log: Callable[[Flow | None, Transfer, Wire, float], None] | None = None,
    ) -> None:
        self.kernel = kernel
        self.network = network
        self.endpoint = endpoint
        self.totals = totals
        self.seed = seed
        self.arrived = arrived
        self.log = log
        self.framing_bytes = network.framing_bytes
        self.is_free_down = network.downlink == "free"
        self.is_broadcast = network.downlink == "broadcast"
        wired = [link for link in network.links.values() if link.direction == "down" and link.cell is None] if self.is_broadcast else []
        if wired:
            raise ScenarioError(
                f"Network(downlink='broadcast'): the {wired[0].label} has no cell to broadcast in; give it a cell, or use "
                f"downlink 'unicast' or 'free'"
            )
        has_battery = any([place.device.battery_j is not None for place in network.places.values()])
        self.is_lossy = not network.churn.always_on or bool(network.unreachable) or has_battery
        self.wires: dict[tuple[str, str], Wire] = {}
        self.media: dict[str, Airtime | Rerated] = {}
        self.dirty: dict[str, None] = {}
        self.version: dict[str, int] = {}
        self.copies: dict[Wire, None] = {}  # wires whose relays hold something of this round
        self.active: dict[Flow, None] = {}
        self.shouts: dict[tuple[Any, ...], list[Transfer]] = {}  # broadcasts gathered in this instant
        kernel.endings.append(self.settle)

    # --- routes -----------------------------------------------------------------------------------------------------------------------

    def wire(self, link: Link) -> Wire:
        """The wire of a link, made when first used."""
        wire = self.wires.get((link.source, link.target))
        if wire is None:
            source, target = self.endpoint(link.source), self.endpoint(link.target)
            lane = (target if link.direction == "down" else source).radio_lane if link.direction in ("up", "down") else None
            wire = self.wires[link.source, link.target] = Wire(link, lane or Lane(), source, target)
        return wire

    def route(self, source: Endpoint, target: str) -> tuple[Wire, ...]:
        """Wires from `source` to `target`, hop by hop."""
        route = source.routes.get(target)
        if route is None:
            route = source.routes[target] = tuple([self.wire(link) for link in self.network.route(source.name, target)])
        return route

    # --- sending ----------------------------------------------------------------------------------------------------------------------

    def send(self, transfer: Transfer) -> None:
        """Put a transfer on the first wire of its route."""
        if self.is_lossy:
            for wire in transfer.route:
                wire.source.transfers[transfer] = None
                wire.target.transfers[transfer] = None
        self._hop(transfer)

    def _hop(self, transfer: Transfer) -> None:
        """Send a transfer over the next wire of its route."""
        route, hop = transfer.route, transfer.hop
        wire = route[hop]
        size = transfer.control
        is_copy, relies = False, False
        if hop == len(route) - 1:
            size += transfer.body
        else:
            for key, thing, nbytes in transfer.parts:
                if key in wire.sent:
                    relies = True
                else:
                    wire.sent[key] = thing
                    self.copies[wire] = None
                    size += nbytes
                    is_copy = True
        kernel, lane = self.kernel, wire.lane
        active = lane.active
        is_idle = active is None or (not lane.queue and 0.0 <= active.end_s <= kernel.now)
        if self.is_free_down and wire.direction == "down":
            kernel.at(kernel.now, self.on_hop, transfer)
            return
        if size:
            size += self.framing_bytes
        elif is_idle or not relies:
            if self.log is not None:
                self.log(None, transfer, wire, 1.0)
            kernel.at(kernel.now + wire.latency_s, self.on_hop, transfer)
            return
        if self.is_broadcast and wire.direction == "down" and wire.link.cell is not None and transfer.hz is None:
            self.shouts.setdefault((wire.link.cell.name, size, *[part[0] for part in transfer.parts]), []).append(transfer)
            kernel.is_unsettled = True
            return
        kernel.number += 1
        flow = (Flow if transfer.hz is not None and not wire.link.resources else wire.flow)(kernel.number, wire, transfer, 8.0 * size, is_copy)
        transfer.flow = flow
        if is_idle:
            lane.active = flow
            self._start(flow)
            return
        assert active is not None
        if not lane.queue and active.medium is None:
            kernel.at(active.end_s, self.on_free, active)
        lane.queue.append(flow)

    def _start(self, flow: Flow) -> None:
        """Put a flow on the air (or the cable) now."""
        kernel, wire = self.kernel, flow.wire
        flow.start_s = now = kernel.now
        self.active[flow] = None
        rate_bps = wire.rate_bps
        if rate_bps is not None:
            flow.end_s = now + flow.bits / rate_bps
        elif isinstance(flow, SharedFlow):
            self._join(flow)
            return
        else:
            flow.end_s = self._end_s(flow)
        kernel.number += 1
        kernel.agenda.push((flow.end_s + wire.latency_s, kernel.number, self.on_through, flow))
        if wire.lane.queue:
            kernel.at(flow.end_s, self.on_free, flow)

    def _end_s(self, flow: Flow) -> float:
        """End of a flow over a trace, or with a share of the band that is its own."""
        link, hz, now = flow.wire.link, flow.transfer.hz, self.kernel.now
        if link.trace is not None:
            return link.trace.finish_s(now, flow.bits)
        assert link.cell is not None and hz is not None
        flow.air_share = link.cell.air_share(hz)
        return now + flow.bits / link.cell.rate_bps(link, hz, at_s=now, bits=flow.bits, seed=self.seed)

    def _join(self, flow: SharedFlow) -> None:
        """Let a flow into its medium."""
        link = flow.wire.link
        cell = link.cell
        if link.resources:
            flow.rate_bps = link.rate_bps if link.rate_bps is not None else float("inf")
            self._share(flow, "max-min")
            return
        assert cell is not None
        flow.rate_bps = cell.rate_bps(link, cell.bandwidth_hz, at_s=self.kernel.now, bits=flow.bits, seed=self.seed)
        flow.air_share = cell.time_share
        if cell.sharing == "tdma":
            flow.air_s = flow.bits / flow.rate_bps
        self._share(flow, cell.name)

    def _share(self, flow: SharedFlow, medium: str) -> None:
        """Hand a flow to a shared medium; its end is found at the end of the instant."""
        flow.medium = medium
        shared = self.media.get(medium)
        if shared is None:
            cell = flow.wire.link.cell
            if medium == "max-min":
                shared = Rerated(self._max_min_rates)
            elif cell is not None and cell.sharing == "fdma":
                shared = Rerated(self._band_rates)
            else:
                shared = Airtime()
            self.media[medium] = shared
            self.version[medium] = 0
        shared.add(flow, self.kernel.now)
        self._touch(medium)

    def _touch(self, medium: str) -> None:
        """A medium has changed: the end of the instant finds its next end anew."""
        self.dirty[medium] = None
        self.kernel.is_unsettled = True

    def _band_rates(self, flows: Sequence[Any]) -> np.ndarray:
        """Rates when the cell's band is cut into equal parts (power-limited)."""
        cell: Cell = flows[0].wire.link.cell
        starts_s, bits = np.array([flow.start_s for flow in flows]), np.array([flow.bits for flow in flows])
        return cell.rates_bps([flow.wire.link for flow in flows], cell.bandwidth_hz / len(flows), at_s=starts_s, bits=bits, seed=self.seed)

    def _max_min_rates(self, flows: Sequence[Any]) -> np.ndarray:
        """Max-min rates over the network's named capacities."""
        return max_min(flows, self.network.capacities)

    # --- events -----------------------------------------------------------------------------------------------------------------------

    def settle(self) -> bool:
        """End of an instant: start gathered broadcasts, re-time media that changed."""
        if not self.dirty and not self.shouts:
            return False
        if self.shouts:
            self._shout()
        kernel = self.kernel
        for medium in self.dirty:
            version = self.version[medium] = self.version[medium] + 1
            end_s = self.media[medium].next_end_s()
            if end_s is not None:
                kernel.at(max(end_s, kernel.now), self.on_medium, (medium, version))
        self.dirty.clear()
        return True

    def _shout(self) -> None:
        """Start one flow for all receivers of the same message in a cell, at the worst receiver's rate."""
        now = self.kernel.now
        for (_, size, *_), group in self.shouts.items():
            links = [transfer.route[transfer.hop].link for transfer in group]
            cell = links[0].cell
            assert cell is not None
            rates = [cell.rate_bps(link, cell.bandwidth_hz, at_s=now, bits=8.0 * size, seed=self.seed) for link in links]
            worst = int(np.argmin(rates))
            self.kernel.number += 1
            flow = SharedFlow(self.kernel.number, group[worst].route[group[worst].hop], group[worst], 8.0 * size, False)
            flow.group = group
            flow.start_s, flow.rate_bps = now, rates[worst]
            flow.air_s = flow.bits / flow.rate_bps
            flow.air_share = cell.time_share
            self.active[flow] = None
            self._share(flow, cell.name)
        self.shouts.clear()

    def on_medium(self, subject: tuple[str, int]) -> None:
        """The next flow of a shared medium ends, unless the medium has changed since."""
        medium, version = subject
        if self.version[medium] != version or medium in self.dirty:
            return  # it has changed; the end of the instant finds the next end anew
        self._touch(medium)
        for flow in self.media[medium].finish(self.kernel.now):
            self.on_end(flow)  # type: ignore[arg-type]

    def on_end(self, flow: SharedFlow) -> None:
        """The last bit of a flow in a shared medium is through: charge it, start the lane's next flow, let latency pass."""
        if flow.is_dead:
            return
        kernel, wire = self.kernel, flow.wire
        flow.end_s = kernel.now
        self._charge(flow, 1.0)
        if flow.group is not None:
            for transfer in flow.group:
                kernel.at(kernel.now + transfer.route[transfer.hop].latency_s, self.on_hop, transfer)
            return
        self._next(wire.lane)
        transfer = flow.transfer
        transfer.flow = None
        if wire.latency_s:
            kernel.at(kernel.now + wire.latency_s, self.on_hop, transfer)
        else:
            self.on_hop(transfer)

    def on_through(self, flow: Flow) -> None:
        """A flow with a rate of its own has reached the end of its wire, latency included."""
        if flow.is_dead:
            return
        lane = flow.wire.lane
        if lane.active is flow:  # nobody has taken the lane while latency passed
            self._next(lane)
        self._charge(flow, 1.0)
        transfer = flow.transfer
        transfer.flow = None
        if self.is_lossy or len(transfer.route) > 1:
            self.on_hop(transfer)
        else:
            self.arrived(transfer)

    def on_free(self, flow: Flow) -> None:
        """The last bit of a flow has left a lane for which others wait."""
        if flow.wire.lane.active is flow:
            self._next(flow.wire.lane)

    def _next(self, lane: Lane) -> None:
        """Start the oldest waiting flow of a lane."""
        lane.active = None
        while lane.queue:
            flow = lane.queue.popleft()
            if not flow.is_dead:
                lane.active = flow
                self._start(flow)
                return

    def on_hop(self, transfer: Transfer) -> None:
        """A transfer has reached the end of a wire."""
        if transfer.is_lost:
            return
        transfer.hop += 1
        if transfer.hop < len(transfer.route):
            self._hop(transfer)
            return
        if self.is_lossy:
            self._forget(transfer)
        self.arrived(transfer)

    def _forget(self, transfer: Transfer) -> None:
        for wire in transfer.route:
            wire.source.transfers.pop(transfer, None)
            wire.target.transfers.pop(transfer, None)

    # --- loss and rounds --------------------------------------------------------------------------------------------------------------

    def lose(self, transfer: Transfer, place: str) -> None:
        """A place on the transfer's route left: what was sent is charged, the rest never is."""
        transfer.is_lost = True
        self._forget(transfer)
        flow = transfer.flow
        if flow is None:
            return
        if flow.is_copy and not 0.0 <= flow.end_s <= self.kernel.now:
            if place not in (flow.wire.source.name, flow.wire.target.name):
                return  # others rely on what the relay gets
            for key, _, _ in transfer.parts:
                flow.wire.sent.pop(key, None)
        transfer.flow = None
        flow.is_dead = True
        if flow.start_s < 0:
            return  # still queued; the lane skips it
        self._charge(flow, self.progress(flow))
        if isinstance(flow, SharedFlow):
            assert flow.medium is not None
            self.media[flow.medium].remove(flow, self.kernel.now)
            self._touch(flow.medium)
        if flow.wire.lane.active is flow:
            self._next(flow.wire.lane)

    def forget_copies(self) -> None:
        """A round ends: relays drop what they kept."""
        for wire in self.copies:
            wire.sent.clear()
        self.copies.clear()

    def forget_place(self, name: str) -> None:
        """A relay left: what went to it has to be sent again."""
        for wire in self.copies:
            if wire.target.name == name:
                wire.sent.clear()

    # --- charging ---------------------------------------------------------------------------------------------------------------------

    def progress(self, flow: Flow) -> float:
        """Share of the flow's bits that are through now, in [0, 1]."""
        now = self.kernel.now
        if isinstance(flow, SharedFlow):
            assert flow.medium is not None
            return self.media[flow.medium].sent(flow, now)
        if flow.end_s <= now:
            return 1.0
        trace = flow.wire.link.trace
        if trace is not None and flow.transfer.hz is None:
            return min(trace.bits(flow.start_s, now) / flow.bits, 1.0) if flow.bits else 1.0
        return (now - flow.start_s) / (flow.end_s - flow.start_s)

    def spent(self, flow: Flow, part: float) -> tuple[float, float, float]:
        """Bytes, sender's joules and receivers' joules (of one receiver) of a share of a flow."""
        wire = flow.wire
        link = wire.link
        nbytes = flow.bits * part / 8.0
        send_j = receive_j = 0.0
        if wire.has_radio:
            now = self.kernel.now
            elapsed_s = (flow.end_s if 0.0 <= flow.end_s < now else now) - flow.start_s
            air_s = (flow.air_s * part if flow.air_s else elapsed_s) * flow.air_share
            sender, receiver = wire.source.device.radio, wire.target.device.radio
            if sender is not None and link.direction != "down":
                power_w = link.transmit_power_w
                if link.cell is not None and link.gain_db is not None:
                    power_w = link.cell.transmit_power_w(link, flow.transfer.hz or link.cell.bandwidth_hz)
                send_j = sender.transmit_j(transmit_power_w=power_w, air_s=air_s, elapsed_s=elapsed_s, bits=8 * nbytes)
            if receiver is not None and link.direction != "up":
                receive_j = receiver.receive_j(air_s=air_s, elapsed_s=elapsed_s, bits=8 * nbytes)
        return nbytes, send_j, receive_j

    def _charge(self, flow: Flow, part: float) -> None:
        """Book bytes and radio joules of a share of a flow; it is under way no longer."""
        del self.active[flow]
        wire = flow.wire
        direction = wire.direction
        nbytes = flow.bits * part / 8.0
        wire.bytes += nbytes
        self.totals.bytes_by[direction] += nbytes
        source, target = wire.source.meter, wire.target.meter
        if direction == "up":
            source.bytes_up += nbytes
        elif direction == "down":
            target.bytes_down += nbytes
        group = flow.group if isinstance(flow, SharedFlow) else None
        if self.log is not None:
            for transfer in group or (flow.transfer,):
                self.log(flow, transfer, transfer.route[transfer.hop], part)
        if not wire.has_radio:
            return
        _, send_j, receive_j = self.spent(flow, part)
        if send_j:
            source.radio_j += send_j
            self.totals.spend(source, send_j)
        if receive_j:
            for transfer in group or (flow.transfer,):
                meter = transfer.route[transfer.hop].target.meter if group else target
                meter.radio_j += receive_j
                self.totals.spend(meter, receive_j)

    def under_way(self) -> tuple[dict[str, float], float]:
        """Bytes by direction and client joules of flows that are still on the air, up to now."""
        nbytes: dict[str, float] = {}
        joules = 0.0
        for flow in self.active:
            sent, send_j, receive_j = self.spent(flow, self.progress(flow))
            direction = flow.wire.link.direction
            nbytes[direction] = nbytes.get(direction, 0.0) + sent
            if not flow.wire.source.meter.is_server:
                joules += send_j
            if not flow.wire.target.meter.is_server:
                group = flow.group if isinstance(flow, SharedFlow) else None
                joules += receive_j * (len(group) if group else 1)
        return nbytes, joules
