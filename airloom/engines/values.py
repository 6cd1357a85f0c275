"""Values on the clock: made at a place, asked for by others, carried once, lost with their place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from airloom.clock.kernel import Kernel
from airloom.clock.wires import Transfer, Wire, Wires
from airloom.engines.pending import Call, Delivery, SimRef, Value, Wait
from airloom.engines.sites import Site
from airloom.errors import ScenarioError
from airloom.network.network import Network
from airloom.program.tree import Path, at


class Values:
    """Who has asked for which part of which value, and what is on its way.

    Arguments:
        kernel, network: the clock and the world.
        sites: places by name.
        ready: called with a call whose last argument has come.
        lose_call: called with a call that will never get an argument, and the device that is to blame.
    """

    wires: Wires

    def __init__(
        self, kernel: Kernel, network: Network, sites: Mapping[str, Site], ready: Callable[[Call], None], lose_call: Callable[[Call, str], None]
    ) -> None:
        self.kernel = kernel
        self.network = network
        self.sites = sites
        self.ready = ready
        self.lose_call = lose_call
        self.is_counted = False  # what leaves a place counts as a release
        self.asked: dict[Value, None] = {}
        self.holders: dict[Site, None] = {}  # places to which something came in this round
        kernel.endings.append(self.send_asked)

    def make(self, site: Site, root: Value) -> None:
        """A value exists from now on; send it to whoever has asked."""
        root.is_made = True
        root.made_s = self.kernel.now
        root.epoch = site.epoch
        if root.first is not None:
            self._dispatch(site, root)

    def ask(self, ref: SimRef, site: Site) -> Delivery:
        """Ask for a part of a value to come to a place; free, and done once however often it is asked."""
        root = ref.root
        if site.epoch and self.network.on_leave == "wipe":
            root.forget(site.name, site.epoch)
        if root.first is None:
            delivery = root.first = Delivery(ref.path, site.name, site.epoch)
        else:
            known = root.delivery(site.name, ref.path)
            if known is not None and not (known.is_lost and root.is_made and not root.is_lost):
                return known
            delivery = Delivery(ref.path, site.name, site.epoch)
            root.add(delivery)
        if not root.is_made and not root.is_lost:
            return delivery
        origin = self.sites[root.place]
        if root.is_made and not root.is_lost and origin.epoch != root.epoch:
            root.is_lost, root.lost_device, root.lost_s = True, root.place, self.kernel.now
        if root.is_lost:
            if self._is_there(root, delivery):
                self._arrive(delivery)
            else:
                delivery.is_lost, delivery.lost_device, delivery.lost_s = True, root.lost_device, root.lost_s
        elif root.is_made:
            if root.place == site.name:
                self._arrive(delivery)
            else:
                self.asked[root] = None
                self.kernel.is_unsettled = True
        return delivery

    def _is_there(self, root: Value, delivery: Delivery) -> bool:
        """Whether all of a part has come to the place before, with the whole or with other parts."""
        carried = self._carried(root).get(delivery.place, {})
        depth = len(delivery.path)
        share = [i for i, (path, _, _) in enumerate(root.leaves) if path[:depth] == delivery.path]
        return bool(share) and all([i in carried and carried[i] is None for i in share])

    def send_asked(self) -> None:
        """End of an instant: send what was asked for after it was made; parts asked for together are one message."""
        asked, self.asked = self.asked, {}
        for root in asked:
            if not root.is_lost:
                self._dispatch(self.sites[root.place], root)

    def _dispatch(self, site: Site, root: Value) -> None:
        """Send the parts that are asked for and not yet under way, one message per place."""
        only = root.first
        if only is not None and root.others is None and root.carried is None and not only.path and not only.is_asked and not only.is_lost:
            if only.place == root.place:
                self._arrive(only)
            else:
                self._carry_whole(site, root, only)
            return
        self._carried(root)
        fresh: dict[str, list[Delivery]] = {}
        for delivery in root.deliveries():
            if delivery.is_asked or delivery.is_lost or delivery.arrived_s is not None:
                continue
            if delivery.place == root.place:
                self._arrive(delivery)
            else:
                delivery.is_asked = True
                fresh.setdefault(delivery.place, []).append(delivery)
        for place, deliveries in fresh.items():
            self._carry(site, root, place, deliveries)

    def _carry_whole(self, site: Site, root: Value, delivery: Delivery) -> None:
        """Send a whole value that one place has asked for: the common case, without the bookkeeping of parts."""
        place, wires = delivery.place, self.wires
        delivery.is_asked = True
        route = site.routes.get(place) or wires.route(site, place)
        body, control = 0, 0
        for _, weight, small in root.leaves:
            if weight >= 0:
                body += weight
            else:
                control += small
        parts = [(id(root) * 64 + i, root, leaf[1]) for i, leaf in enumerate(root.leaves) if leaf[1] >= 0] if wires.needs_parts(route) else ()
        transfer = Transfer(delivery, parts, body, control, route, root.hz if root.issue.issuer == place else None)
        delivery.root, delivery.carrier = root, transfer
        if self.is_counted and not site.meter.is_server:
            site.meter.releases += sum([weight >= 0 for _, weight, _ in root.leaves])
        self._send(transfer)

    def _send(self, transfer: Transfer) -> None:
        """Send values, unless a place on their way is absent."""
        if self.wires.is_lossy and not self.all_present(transfer.route):
            self.lose_transfer(transfer, self.absent(transfer.route))
            return
        self.wires.send(transfer)

    def _carried(self, root: Value) -> dict[str, dict[int, Any]]:
        """Which leaves are where, from now on kept leaf by leaf."""
        if root.carried is None:
            root.carried = {}
            for delivery in root.deliveries():
                if delivery.is_asked and not delivery.is_lost:
                    carrier = delivery.carrier
                    root.carried[delivery.place] = dict.fromkeys(range(len(root.leaves)), carrier)
                    delivery.root = delivery.carrier = None
                    if carrier is not None:
                        delivery.missing = 1
                        carrier.subject = (root, [delivery])
        return root.carried

    def _carry(self, site: Site, root: Value, place: str, deliveries: list[Delivery]) -> None:
        carried = self._carried(root).setdefault(place, {})
        parts: list[tuple[int, Any, int]] = []
        control = 0
        wanted: dict[int, None] = {}
        shares: list[tuple[Delivery, list[int]]] = []
        for delivery in deliveries:
            depth = len(delivery.path)
            share = [i for i, leaf in enumerate(root.leaves) if not depth or leaf[0][:depth] == delivery.path]
            if depth and not share:
                self._refuse_part(root, delivery.path)
            shares.append((delivery, share))
            for i in share:
                if i not in carried and i not in wanted:
                    wanted[i] = None
                    _, body, small = root.leaves[i]
                    if body >= 0:
                        parts.append((id(root) * 64 + i, root, body))
                    else:
                        control += small
        moving = not shares or bool(wanted) or any([not share for _, share in shares])
        transfer: Transfer | None = None
        if moving:
            route = self.wires.route(site, place)
            hz = root.hz if root.issue.issuer == place else None
            transfer = Transfer((root, []), parts, sum([part[2] for part in parts]), control, route, hz)
            for i in wanted:
                carried[i] = transfer
            if self.is_counted and not site.meter.is_server:
                site.meter.releases += len(parts)
        for delivery, share in shares:
            carriers = {id(t): t for t in [carried[i] for i in share] if t is not None}
            if not share and transfer is not None:
                carriers[id(transfer)] = transfer
            delivery.missing = len(carriers)
            for carrier in carriers.values():
                carrier.subject[1].append(delivery)
            if not carriers:
                self._arrive(delivery)
        if transfer is not None:
            self._send(transfer)

    def _refuse_part(self, root: Value, path: Path) -> None:
        try:
            tree = root.value if root.has_value else root.call.price.result if root.call is not None else None
            at(tree, path)
        except (KeyError, IndexError, TypeError):
            raise ScenarioError(f"Ref of {root.issue.label}: got part {list(path)!r}, which its value does not have") from None

    def on_arrived(self, transfer: Transfer) -> None:
        """A message has reached its place."""
        subject = transfer.subject
        if type(subject) is Call:
            if transfer.body:
                self._hold(subject.site, transfer.body)
            subject.missing -= 1
            if not subject.missing and not subject.is_lost:
                self.ready(subject)
            return
        site: Site = transfer.route[-1].target  # type: ignore[assignment]
        if transfer.body:
            self._hold(site, transfer.body)
        if type(subject) is Delivery:
            subject.root = subject.carrier = None
            if not subject.is_lost:
                self._arrive(subject)
            return
        root, deliveries = subject
        carried = root.carried[site.name]
        for i, carrier in carried.items():
            if carrier is transfer:
                carried[i] = None
        for delivery in deliveries:
            delivery.missing -= 1
            if not delivery.missing and not delivery.is_lost:
                self._arrive(delivery)

    def _hold(self, site: Site, nbytes: int) -> None:
        """A message came: a place holds it until the round ends."""
        site.held_bytes += nbytes
        self.holders[site] = None

    def forget_held(self) -> None:
        """A round ends: places drop what came to them in it."""
        for site in self.holders:
            site.held_bytes = 0
        self.holders.clear()

    def _arrive(self, delivery: Delivery) -> None:
        """A part of a value is at the place that asked."""
        delivery.arrived_s = self.kernel.now
        waiters = delivery.waiters
        delivery.waiters = ()
        for k in range(0, len(waiters), 2):
            waiter = waiters[k]
            if type(waiter) is Call:
                waiter.missing -= 1
                if not waiter.missing and not waiter.is_lost:
                    self.ready(waiter)
            else:
                waiter.arrived.append(waiters[k + 1])
                if len(waiter.arrived) >= waiter.need or waiter.lost:
                    self.check_wait(waiter)

    def check_wait(self, wait: Wait) -> None:
        """Wake a program when it has what it needs, or can no longer get it."""
        if wait.is_over:
            return
        have, flying = len(wait.arrived), wait.total - len(wait.arrived) - len(wait.lost)
        if have >= wait.need or flying == 0:
            wait.is_over = True
            self.kernel.wake(wait.program)

    def on_timeout(self, wait: Wait) -> None:
        """A program has waited long enough."""
        if not wait.is_over:
            wait.is_over = True
            self.kernel.wake(wait.program)

    def on_told(self, delivery: Delivery) -> None:
        """Programs that wait for a lost delivery learn of it, once."""
        waiters, delivery.waiters = delivery.waiters, ()
        for waiter, index in pairs(waiters):
            if type(waiter) is not Call:
                waiter.lost.append(index)
                self.check_wait(waiter)

    def lose_value(self, root: Value, device: str) -> None:
        """A value will never be made, or went with its place."""
        if root.is_lost:
            return
        root.is_lost = True
        root.lost_device = device
        root.lost_s = self.kernel.now
        for delivery in root.deliveries():
            self.lose_delivery(root, delivery, device)

    def lose_delivery(self, root: Value, delivery: Delivery, device: str) -> None:
        """A part of a value will not come to the place that asked for it."""
        if delivery.is_lost or delivery.arrived_s is not None:
            return
        delivery.is_lost, delivery.lost_device, delivery.lost_s = True, device, self.kernel.now
        if not root.is_lost:
            root.lost_device, root.lost_s = device, self.kernel.now
        for waiter, _ in pairs(delivery.waiters):
            if type(waiter) is Call:
                self.lose_call(waiter, device)
        if any([type(waiter) is not Call for waiter, _ in pairs(delivery.waiters)]):
            self.kernel.at(self.kernel.now + self.network.detect_s, self.on_told, delivery)

    def lose_transfer(self, transfer: Transfer, device: str) -> None:
        if transfer.is_lost:
            return
        self.wires.lose(transfer, device)
        subject = transfer.subject
        if type(subject) is Call:
            self.lose_call(subject, device)
        elif type(subject) is Delivery:
            root, subject.root, subject.carrier = subject.root, None, None
            assert root is not None
            self.lose_delivery(root, subject, device)
        else:
            root, deliveries = subject
            carried = root.carried[transfer.route[-1].target.name]
            for i in [i for i, carrier in carried.items() if carrier is transfer]:
                del carried[i]  # it never came, so it may be asked for again
            for delivery in deliveries:
                self.lose_delivery(root, delivery, device)

    def all_present(self, route: tuple[Wire, ...]) -> bool:
        return all([self.sites[wire.target.name].is_present for wire in route])

    def absent(self, route: tuple[Wire, ...]) -> str:
        return next(wire.target.name for wire in route if not self.sites[wire.target.name].is_present)


def pairs(waiters: tuple[Any, ...]) -> list[tuple[Any, int]]:
    """Who waits for a delivery, each with its index there."""
    return list(zip(waiters[::2], waiters[1::2], strict=True))
