"""Wires: directed links at run time. Messages travel over routes of them, hop by hop, and every hop is charged.

A *wire* is a link with a first-in-first-out order; a *transfer* is a message with its whole route, on one wire at a time. Latency counts after the
last bit. A relay keeps one copy per object and round: what has gone over a wire that is not the last hop of its route is not sent
over it again before the round ends; lanes are first-in-first-out, so a later message can never overtake the copy that it relies on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from airloom.clock.kernel import Handler, Kernel
from airloom.clock.media import Airtime, Rerated, max_min
from airloom.clock.meter import SiteMeter, Totals
from airloom.errors import ScenarioError
from airloom.network.cell import Cell
from airloom.network.device import Device
from airloom.network.link import Link
from airloom.network.network import Network

Part = tuple[int, Any, int]  # key, object (kept alive so that the key stays its own), bytes


class Lane:
    """First-in-first-out order of transfers. A half-duplex radio has one lane for both directions."""

    __slots__ = ("active", "queue")

    def __init__(self) -> None:
        self.active: Transfer | None = None
        self.queue: deque[Transfer] = deque()


class Wire:
    """A link at run time: its lane, the bytes it has carried, and what relays hold of this round.

    A wire with a rate of its own on which nothing can be lost needs no lane: when a message enters, its begin and end are known (`free_s`).
    """

    __slots__ = (
        "bytes", "direction", "free_s", "has_radio", "is_plain", "lane", "latency_s", "link", "medium", "rate_bps", "sent", "source", "target",
    )  # fmt: skip

    def __init__(self, link: Link, source: Endpoint, target: Endpoint, is_lossy: bool) -> None:
        radio_lane = (target if link.direction == "down" else source).radio_lane if link.direction in ("up", "down") else None
        self.direction = link.direction
        self.latency_s = link.latency_s
        self.medium = "max-min" if link.resources else None if link.cell is None else link.cell.name  # shared with others
        self.rate_bps = link.rate_bps if not link.resources else None  # of a link of its own
        self.is_plain = self.rate_bps is not None and radio_lane is None and not is_lossy
        self.has_radio = link.direction != "backhaul" and (source.device.radio is not None or target.device.radio is not None)
        self.link = link
        self.lane = None if self.is_plain else radio_lane or Lane()
        self.free_s = float("-inf")
        self.source = source
        self.target = target
        self.bytes = 0.0
        if link.direction == "up":
            source.meter.up.append(self)
        elif link.direction == "down":
            target.meter.down.append(self)
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
    """A message on its way: parts (objects with their bytes), control bytes, the route, and what the wire of its present hop does with it.

    `is_copy`: it carries objects that others rely on, so it goes on when only a later place of its route leaves.
    On a wire with a rate of its own `end_s` is known at the start; in a shared medium it depends on others.
    """

    __slots__ = (
        "bits", "body", "control", "end_s", "group", "hop", "hz", "is_copy", "is_dead", "is_flowing", "is_lost", "mark", "number", "parts",
        "rate_bps", "route", "start_s", "subject",
    )  # fmt: skip

    def __init__(self, subject: Any, parts: Sequence[Part], body: int, control: int, route: tuple[Wire, ...], hz: float | None) -> None:
        self.subject = subject  # what the engine sends: a call, or values
        self.parts = parts
        self.body = body  # bytes of all parts
        self.control = control
        self.route = route
        self.hop = 0
        self.hz = hz  # share of the band that is its own
        self.is_lost = False
        self.is_copy = False
        self.is_flowing = False  # its bits wait for the wire or are on it
        self.is_dead = False  # they never will be through
        self.bits = 0.0
        self.start_s = -1.0
        self.end_s = -1.0
        self.number = 0  # orders flows in a shared medium
        self.rate_bps = 0.0  # there: rate with all of it
        self.mark = 0.0
        self.group: list[Transfer] | None = None  # all receivers of a broadcast

    @property
    def wire(self) -> Wire:
        """The wire of the present hop."""
        return self.route[self.hop]

    @property
    def resources(self) -> tuple[str, ...]:
        """Names of shared capacities that the present hop needs."""
        return self.route[self.hop].link.resources

    @property
    def medium(self) -> str | None:
        """Name of the shared medium of the present hop, or None for a rate of its own."""
        wire = self.route[self.hop]
        return wire.medium if self.hz is None or wire.link.resources else None


class Wires:
    """All wires of a network on one kernel.

    Arguments:
        kernel: the clock.
        network: places, links, framing and the down-link rule.
        endpoint: gives the `Endpoint` of a place by name.
        totals: sums to add to.
        seed: names the channel's streams.
        arrived: called with each transfer that reached the end of its route.
        log: called as log(transfer, wire, part) for each hop that is through, or lost after that part of it, or None; part is None where a message
            costs latency only.
    """

    def __init__(
        self,
        kernel: Kernel,
        network: Network,
        endpoint: Callable[[str], Endpoint],
        totals: Totals,
        seed: int,
        arrived: Callable[[Transfer], None],
        log: Callable[[Transfer, Wire, float | None], None] | None = None,
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
        self.copies: dict[str, dict[Wire, None]] = {}  # relay -> wires to it over which it got what it holds of this round
        self.active: dict[Transfer, None] = {}  # bits that wait for a wire of their own, or are on a wire
        self.shouts: dict[tuple[Any, ...], list[Transfer]] = {}  # broadcasts gathered in this instant
        self.hopped: Handler = self.on_hop  # bound once: an event each
        self.through: Handler = self.on_through
        kernel.endings.append(self.settle)

    # --- routes -----------------------------------------------------------------------------------------------------------------------

    def wire(self, link: Link) -> Wire:
        """The wire of a link, made when first used."""
        wire = self.wires.get((link.source, link.target))
        if wire is None:
            ends = self.endpoint(link.source), self.endpoint(link.target)
            wire = self.wires[link.source, link.target] = Wire(link, *ends, self.is_lossy)
        return wire

    def route(self, source: Endpoint, target: str) -> tuple[Wire, ...]:
        """Wires from `source` to `target`, hop by hop."""
        route = source.routes.get(target)
        if route is None:
            route = source.routes[target] = tuple([self.wire(link) for link in self.network.route(source.name, target)])
        return route

    def needs_parts(self, route: tuple[Wire, ...]) -> bool:
        """Whether it matters of which objects a message over a route consists: where relays keep copies, and where broadcasts are gathered."""
        return len(route) > 1 or self.is_broadcast

    # --- sending ----------------------------------------------------------------------------------------------------------------------

    def send(self, transfer: Transfer) -> None:
        """Put a transfer on the first wire of its route."""
        if self.is_lossy:
            for wire in transfer.route:
                wire.source.transfers[transfer] = None
                wire.target.transfers[transfer] = None
        self.hop(transfer)

    def hop(self, transfer: Transfer) -> None:
        """Send a transfer over the next wire of its route."""
        route, hop = transfer.route, transfer.hop
        wire = route[hop]
        size = transfer.control
        relies = False
        transfer.is_copy = False
        if hop == len(route) - 1:
            size += transfer.body
        else:
            for key, thing, nbytes in transfer.parts:
                if key in wire.sent:
                    relies = True
                else:
                    wire.sent[key] = thing
                    self.copies.setdefault(wire.target.name, {})[wire] = None
                    size += nbytes
                    transfer.is_copy = True
        kernel = self.kernel
        now = kernel.now
        if self.is_free_down and wire.direction == "down":
            kernel.at(now, self.hopped, transfer)
            return
        if size:
            size += self.framing_bytes
        elif not relies or self._is_idle(wire):
            if self.log is not None:
                self.log(transfer, wire, None)
            kernel.at(now + wire.latency_s, self.hopped, transfer)
            return
        transfer.bits = 8.0 * size
        if wire.is_plain:
            assert wire.rate_bps is not None
            transfer.start_s = start_s = now if wire.free_s <= now else wire.free_s
            transfer.end_s = wire.free_s = end_s = start_s + transfer.bits / wire.rate_bps
            self.active[transfer] = None
            kernel.number += 1
            kernel.agenda.push((end_s + wire.latency_s, kernel.number, self.through, transfer))
            return
        if self.is_broadcast and wire.direction == "down" and wire.link.cell is not None and transfer.hz is None:
            self.shouts.setdefault((wire.link.cell.name, size, *[part[0] for part in transfer.parts]), []).append(transfer)
            kernel.is_unsettled = True
            return
        kernel.number += 1
        transfer.number = kernel.number
        transfer.start_s = transfer.end_s = -1.0
        transfer.is_flowing = True
        lane = wire.lane
        assert lane is not None
        if self._is_idle(wire):
            lane.active = transfer
            self._start(transfer)
            return
        active = lane.active
        assert active is not None
        if not lane.queue and active.medium is None:
            kernel.at(active.end_s, self.on_free, lane)
        lane.queue.append(transfer)

    def _is_idle(self, wire: Wire) -> bool:
        """Whether a message that enters a wire now starts now."""
        lane, now = wire.lane, self.kernel.now
        if lane is None:
            return wire.free_s <= now
        active = lane.active
        return active is None or (not lane.queue and 0.0 <= active.end_s <= now)

    def _start(self, transfer: Transfer) -> None:
        """Put a transfer that has the lane on the air (or the cable) now."""
        kernel, wire = self.kernel, transfer.route[transfer.hop]
        transfer.start_s = now = kernel.now
        self.active[transfer] = None
        if wire.rate_bps is not None:
            transfer.end_s = now + transfer.bits / wire.rate_bps
        elif wire.medium is not None and (transfer.hz is None or wire.link.resources):
            self._join(transfer, wire)
            return
        else:
            transfer.end_s = self._end_s(transfer)
        kernel.at(transfer.end_s + wire.latency_s, self.through, transfer)
        if wire.lane is not None and wire.lane.queue:
            kernel.at(transfer.end_s, self.on_free, wire.lane)

    def _end_s(self, transfer: Transfer) -> float:
        """End of a transfer over a trace, or with a share of the band that is its own."""
        link, hz, now = transfer.wire.link, transfer.hz, self.kernel.now
        if link.trace is not None:
            return link.trace.finish_s(now, transfer.bits)
        assert link.cell is not None and hz is not None
        return now + transfer.bits / link.cell.rate_bps(link, hz, at_s=now, bits=transfer.bits, seed=self.seed)

    def _join(self, transfer: Transfer, wire: Wire) -> None:
        """Let a transfer into its medium."""
        link = wire.link
        cell = link.cell
        if cell is None or link.resources:
            transfer.rate_bps = link.rate_bps if link.rate_bps is not None else float("inf")
        else:
            transfer.rate_bps = cell.rate_bps(link, cell.bandwidth_hz, at_s=self.kernel.now, bits=transfer.bits, seed=self.seed)
        assert wire.medium is not None
        self._share(transfer, wire.medium)

    def _share(self, transfer: Transfer, medium: str) -> None:
        """Hand a transfer to its shared medium; its end is found at the end of the instant."""
        shared = self.media.get(medium)
        if shared is None:
            cell = transfer.wire.link.cell
            if medium == "max-min":
                shared = Rerated(self._max_min_rates)
            elif cell is not None and cell.sharing == "fdma":
                shared = Rerated(self._band_rates)
            else:
                shared = Airtime()
            self.media[medium] = shared
            self.version[medium] = 0
        shared.add(transfer, self.kernel.now)
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

    def settle(self) -> None:
        """End of an instant: start gathered broadcasts, re-time media that changed."""
        if self.shouts:
            self._shout()
        kernel = self.kernel
        for medium in self.dirty:
            version = self.version[medium] = self.version[medium] + 1
            end_s = self.media[medium].next_end_s()
            if end_s is not None:
                kernel.at(max(end_s, kernel.now), self.on_medium, (medium, version))
        self.dirty.clear()

    def _shout(self) -> None:
        """Start one flow for all receivers of the same message in a cell, at the worst receiver's rate."""
        now = self.kernel.now
        for (_, size, *_), group in self.shouts.items():
            links = [transfer.wire.link for transfer in group]
            cell = links[0].cell
            assert cell is not None
            rates = [cell.rate_bps(link, cell.bandwidth_hz, at_s=now, bits=8.0 * size, seed=self.seed) for link in links]
            worst = int(np.argmin(rates))
            self.kernel.number += 1
            first = group[worst]
            first.number = self.kernel.number
            first.group = group
            first.start_s, first.rate_bps, first.bits = now, rates[worst], 8.0 * size
            self.active[first] = None
            self._share(first, cell.name)
        self.shouts.clear()

    def on_medium(self, subject: tuple[str, int]) -> None:
        """The next flow of a shared medium ends, unless the medium has changed since."""
        medium, version = subject
        if self.version[medium] != version or medium in self.dirty:
            return  # it has changed; the end of the instant finds the next end anew
        self._touch(medium)
        for transfer in self.media[medium].finish(self.kernel.now):
            self.on_end(transfer)  # type: ignore[arg-type]

    def on_end(self, transfer: Transfer) -> None:
        """The last bit of a transfer in a shared medium is through: charge it, start the lane's next one, let latency pass."""
        if transfer.is_dead:
            return
        kernel, wire = self.kernel, transfer.wire
        transfer.end_s = kernel.now
        self._charge(transfer, 1.0)
        if transfer.group is not None:
            for one in transfer.group:
                kernel.at(kernel.now + one.wire.latency_s, self.hopped, one)
            transfer.group = None
            return
        transfer.is_flowing = False
        assert wire.lane is not None
        self._next(wire.lane)
        if wire.latency_s:
            kernel.number += 1
            kernel.agenda.push((kernel.now + wire.latency_s, kernel.number, self.hopped, transfer))
        else:
            self.on_hop(transfer)

    def on_through(self, transfer: Transfer) -> None:
        """A transfer with a rate of its own has reached the end of its wire, latency included."""
        if transfer.is_dead:
            return
        lane = transfer.route[transfer.hop].lane
        if lane is not None:
            if lane.active is transfer:  # nobody has taken the lane while latency passed
                self._next(lane)
            transfer.is_flowing = False
        self._charge(transfer, 1.0)
        self.on_hop(transfer)

    def on_free(self, lane: Lane) -> None:
        """The last bit of a transfer has left a lane for which others wait."""
        if lane.active is not None and 0.0 <= lane.active.end_s <= self.kernel.now:
            self._next(lane)

    def _next(self, lane: Lane) -> None:
        """Start the oldest waiting flow of a lane."""
        lane.active = None
        while lane.queue:
            transfer = lane.queue.popleft()
            if not transfer.is_dead:
                lane.active = transfer
                self._start(transfer)
                return

    def on_hop(self, transfer: Transfer) -> None:
        """A transfer has reached the end of a wire."""
        if transfer.is_lost:
            return
        transfer.hop += 1
        if transfer.hop < len(transfer.route):
            self.hop(transfer)
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
        if not transfer.is_flowing:
            return
        wire, now = transfer.wire, self.kernel.now
        if transfer.is_copy and not 0.0 <= transfer.end_s <= now:
            if place not in (wire.source.name, wire.target.name):
                return  # others rely on what the relay gets
            for key, _, _ in transfer.parts:
                wire.sent.pop(key, None)
        transfer.is_flowing = False
        transfer.is_dead = True
        if transfer.start_s < 0:
            return  # still queued; the lane skips it
        self._charge(transfer, self.progress(transfer))
        medium = transfer.medium
        if medium is not None:
            self.media[medium].remove(transfer, now)
            self._touch(medium)
        if wire.lane is not None and wire.lane.active is transfer:
            self._next(wire.lane)

    def forget_copies(self) -> None:
        """A round ends: relays drop what they kept."""
        for wires in self.copies.values():
            for wire in wires:
                wire.sent.clear()
        self.copies.clear()

    def forget_place(self, name: str) -> None:
        """A relay left: what went to it has to be sent again."""
        for wire in self.copies.get(name, ()):
            wire.sent.clear()

    # --- charging ---------------------------------------------------------------------------------------------------------------------

    def progress(self, transfer: Transfer) -> float:
        """Share of a transfer's bits that are through its present wire now, in [0, 1]."""
        now, medium = self.kernel.now, transfer.medium
        if medium is not None:
            return self.media[medium].sent(transfer, now)
        if transfer.end_s <= now:
            return 1.0
        trace = transfer.wire.link.trace
        if trace is not None and transfer.hz is None:
            return min(trace.bits(transfer.start_s, now) / transfer.bits, 1.0) if transfer.bits else 1.0
        return (now - transfer.start_s) / (transfer.end_s - transfer.start_s)

    def spent(self, transfer: Transfer, part: float) -> tuple[float, float, float]:
        """Bytes, sender's joules and receivers' joules (of one receiver) of a share of a transfer over its present wire."""
        wire = transfer.wire
        link = wire.link
        nbytes = transfer.bits * part / 8.0
        send_j = receive_j = 0.0
        if wire.has_radio:
            now, cell = self.kernel.now, link.cell
            elapsed_s = (transfer.end_s if 0.0 <= transfer.end_s < now else now) - transfer.start_s
            air_s, sending = elapsed_s, 1.0  # seconds on the air, and the share of them in which the sender transmits (TDD)
            if cell is not None and transfer.hz is not None:
                sending = cell.air_share(transfer.hz)
            elif cell is not None and not link.resources:
                sending = cell.time_share
                if cell.sharing == "tdma" or transfer.group is not None:
                    air_s = transfer.bits / transfer.rate_bps * part
            air_s *= sending
            sender, receiver = wire.source.device.radio, wire.target.device.radio
            if sender is not None and link.direction != "down":
                power_w = link.transmit_power_w
                if cell is not None and link.gain_db is not None:
                    power_w = cell.transmit_power_w(link, transfer.hz or cell.bandwidth_hz)
                send_j = sender.transmit_j(transmit_power_w=power_w, air_s=air_s, elapsed_s=elapsed_s, bits=8 * nbytes)
            if receiver is not None and link.direction != "up":
                receive_j = receiver.receive_j(air_s=air_s, elapsed_s=elapsed_s, bits=8 * nbytes)
        return nbytes, send_j, receive_j

    def _charge(self, transfer: Transfer, part: float) -> None:
        """Book bytes and radio joules of a share of a transfer over its present wire; it is under way no longer."""
        del self.active[transfer]
        wire = transfer.route[transfer.hop]
        nbytes = transfer.bits * part / 8.0
        wire.bytes += nbytes
        self.totals.bytes_by[wire.direction] += nbytes
        if self.log is not None:
            for one in transfer.group or (transfer,):
                self.log(one, one.wire, part)
        if wire.has_radio:
            self._charge_radio(transfer, part)

    def _charge_radio(self, transfer: Transfer, part: float) -> None:
        """Book the radio joules of a share of a transfer."""
        source = transfer.wire.source.meter
        _, send_j, receive_j = self.spent(transfer, part)
        if send_j:
            source.radio_j += send_j
            self.totals.spend(source, send_j)
        if receive_j:
            for one in transfer.group or (transfer,):
                meter = one.wire.target.meter
                meter.radio_j += receive_j
                self.totals.spend(meter, receive_j)

    def under_way(self) -> tuple[dict[str, float], float]:
        """Bytes by direction and client joules of transfers that are still on a wire, up to now."""
        nbytes: dict[str, float] = {}
        joules = 0.0
        for transfer in self.active:
            if transfer.start_s > self.kernel.now:
                continue  # still behind others
            sent, send_j, receive_j = self.spent(transfer, self.progress(transfer))
            wire = transfer.wire
            nbytes[wire.direction] = nbytes.get(wire.direction, 0.0) + sent
            if not wire.source.meter.is_server:
                joules += send_j
            if not wire.target.meter.is_server:
                joules += receive_j * (len(transfer.group) if transfer.group else 1)
        return nbytes, joules
