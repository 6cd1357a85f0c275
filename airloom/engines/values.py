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
        self.asked: dict[Value, None] = {}
        kernel.endings.append(self.send_asked)

    @property
    def is_lossy(self) -> bool:
        """Whether places can leave."""
        return self.wires.is_lossy

    def make(self, site: Site, root: Value) -> None:
        """A value exists from now on; send it to whoever has asked."""
        root.is_made = True
        root.made_s = self.kernel.now
        root.epoch = site.epoch
        if root.deliveries:
            self._dispatch(site, root)

    def ask(self, ref: SimRef, site: Site) -> Delivery:
        """Ask for a part of a value to come to a place; free, and done once however often it is asked."""
        root = ref.root
        key = (site.name, ref.path)
        if site.epoch and self.network.on_leave == "wipe":
            for old in [k for k, d in root.deliveries.items() if k[0] == site.name and d.epoch != site.epoch]:
                del root.deliveries[old]  # what came before the place was wiped is gone
                root.carried.pop(site.name, None)
        delivery = root.deliveries.get(key)
        if delivery is not None and not (delivery.is_lost and root.is_made and not root.is_lost):
            return delivery
        delivery = root.deliveries[key] = Delivery(ref.path, site.name, site.epoch)
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
        carried = root.carried.get(delivery.place, {})
        depth = len(delivery.path)
        share = [i for i, (path, _, _) in enumerate(root.leaves) if path[:depth] == delivery.path]
        return bool(share) and all([i in carried and carried[i] is None for i in share])

    def send_asked(self) -> bool:
        """End of an instant: send what was asked for after it was made; parts asked for together are one message."""
        if not self.asked:
            return False
        asked, self.asked = self.asked, {}
        for root in asked:
            if not root.is_lost:
                self._dispatch(self.sites[root.place], root)
        return True

    def _dispatch(self, site: Site, root: Value) -> None:
        """Send the parts that are asked for and not yet under way, one message per place."""
        if len(root.deliveries) == 1 and not root.carried:
            (delivery,) = root.deliveries.values()
            if not delivery.path and not delivery.is_asked and not delivery.is_lost and delivery.place != root.place:
                self._carry_whole(site, root, delivery)
                return
        fresh: dict[str, list[Delivery]] = {}
        for delivery in list(root.deliveries.values()):
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
        place, leaves = delivery.place, root.leaves
        delivery.is_asked = True
        delivery.missing = 1
        parts: list[tuple[int, Any, int]] = []
        body, control = 0, 0
        carried: dict[int, Any] = {}
        for i, (_, weight, small) in enumerate(leaves):
            carried[i] = None
            if weight >= 0:
                parts.append((id(root) * 64 + i, root, weight))
                body += weight
            else:
                control += small
        hz = root.hz if root.issuer == place else None
        transfer = Transfer("value", (root, [delivery]), parts, body, control, self.wires.route(site, place), hz, root.label)
        for i in carried:
            carried[i] = transfer
        root.carried[place] = carried
        if self.is_lossy and not self.all_present(transfer.route):
            self.lose_transfer(transfer, self.absent(transfer.route))
            return
        self.wires.send(transfer)

    def _carry(self, site: Site, root: Value, place: str, deliveries: list[Delivery]) -> None:
        carried = root.carried.setdefault(place, {})
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
            hz = root.hz if root.issuer == place else None
            transfer = Transfer("value", (root, []), parts, sum([part[2] for part in parts]), control, route, hz, root.label)
            for i in wanted:
                carried[i] = transfer
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
            if self.is_lossy and not self.all_present(transfer.route):
                self.lose_transfer(transfer, self.absent(transfer.route))
                return
            self.wires.send(transfer)

    def _refuse_part(self, root: Value, path: Path) -> None:
        try:
            tree = root.value if root.has_value else root.call.price.result if root.call is not None else None
            at(tree, path)
        except (KeyError, IndexError, TypeError):
            raise ScenarioError(f"Ref of {root.label}: got part {list(path)!r}, which its value does not have") from None

    def on_arrived(self, transfer: Transfer) -> None:
        """A message has reached its place."""
        if transfer.kind == "call":
            call = transfer.subject
            call.site.held_bytes += transfer.body
            call.missing -= 1
            if not call.missing and not call.is_lost:
                self.ready(call)
            return
        root, deliveries = transfer.subject
        site: Site = transfer.route[-1].target  # type: ignore[assignment]
        site.held_bytes += transfer.body
        carried = root.carried[site.name]
        for i, carrier in carried.items():
            if carrier is transfer:
                carried[i] = None
        for delivery in deliveries:
            delivery.missing -= 1
            if not delivery.missing and not delivery.is_lost:
                self._arrive(delivery)

    def _arrive(self, delivery: Delivery) -> None:
        """A part of a value is at the place that asked."""
        delivery.arrived_s = self.kernel.now
        waiters, delivery.waiters = delivery.waiters, []
        for waiter in waiters:
            if type(waiter) is Call:
                waiter.missing -= 1
                if not waiter.missing and not waiter.is_lost:
                    self.ready(waiter)
            else:
                wait, index = waiter
                wait.arrived.append(index)
                self.check_wait(wait)

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
        waiters, delivery.waiters = delivery.waiters, []
        for waiter in waiters:
            if type(waiter) is not Call:
                wait, index = waiter
                wait.lost.append(index)
                self.check_wait(wait)

    def lose_value(self, root: Value, device: str) -> None:
        """A value will never be made, or went with its place."""
        if root.is_lost:
            return
        root.is_lost = True
        root.lost_device = device
        root.lost_s = self.kernel.now
        for delivery in list(root.deliveries.values()):
            self.lose_delivery(root, delivery, device)

    def lose_delivery(self, root: Value, delivery: Delivery, device: str) -> None:
        """A part of a value will not come to the place that asked for it."""
        if delivery.is_lost or delivery.arrived_s is not None:
            return
        delivery.is_lost, delivery.lost_device, delivery.lost_s = True, device, self.kernel.now
        if not root.is_lost:
            root.lost_device, root.lost_s = device, self.kernel.now
        for waiter in delivery.waiters:
            if type(waiter) is Call:
                self.lose_call(waiter, device)
        if any([type(waiter) is not Call for waiter in delivery.waiters]):
            self.kernel.at(self.kernel.now + self.network.detect_s, self.on_told, delivery)

    def lose_transfer(self, transfer: Transfer, device: str) -> None:
        if transfer.is_lost:
            return
        self.wires.lose(transfer, device)
        if transfer.kind == "call":
            self.lose_call(transfer.subject, device)
        else:
            root, deliveries = transfer.subject
            carried = root.carried[transfer.route[-1].target.name]
            for i in [i for i, carrier in carried.items() if carrier is transfer]:
                del carried[i]  # it never came, so it may be asked for again
            for delivery in deliveries:
                self.lose_delivery(root, delivery, device)

    def all_present(self, route: tuple[Wire, ...]) -> bool:
        return all([self.sites[wire.target.name].is_present for wire in route])

    def absent(self, route: tuple[Wire, ...]) -> str:
        return next(wire.target.name for wire in route if not self.sites[wire.target.name].is_present)
