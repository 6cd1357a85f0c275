"""Over-the-air sums in the simulated engine: the one place where a value leaves a device without a message."""

# Trees (states, arguments, results) are of any shape, so what is taken out of them has no static type.
# pyright: strict, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Sequence
from math import isinf, sqrt
from typing import TYPE_CHECKING

import torch

from airloom.clock.rng import generator
from airloom.engines.pending import SimRef
from airloom.errors import DeviceLost, ScenarioError, Unsupported
from airloom.models.params import Params
from airloom.network.link import Link
from airloom.program.protection import is_protected
from airloom.program.reducer import AirSum

if TYPE_CHECKING:
    from airloom.engines.simulated import SimNode

_DRAWS = 10_000  # channel uses that are tried before nobody is said to qualify


def over_the_air(node: SimNode, over: AirSum, refs: Sequence[SimRef]) -> Params:
    """The mean of the values of `refs` as the channel adds it up; see `AirSum`."""
    sim = node.sim
    links = [_air_link(node, ref) for ref in refs]
    for ref in refs:
        if ref.root.issue.codec is not None:
            raise Unsupported(f"air_sum at '{node.name}': the channel adds values up, not codes; use codec=none, or over=mean")
        if is_protected(getattr(ref.root.issue.fn, "__self__", None)):
            raise Unsupported(f"air_sum at '{node.name}': the channel adds up what devices made, unprotected; use protect=none, or over=mean")
    _, lost = node.wait_made(refs)
    gone = set(lost)
    kept = [i for i in range(len(refs)) if i not in gone]
    if not kept:
        raise DeviceLost(refs[0].place if refs else node.name)
    node.prefetch([refs[i] for i in kept])
    values = [sim.numerics.value(refs[i]) for i in kept]
    for value in values:
        if not isinstance(value, Params) or value.spec.key != values[0].spec.key:
            raise ScenarioError(f"air_sum at '{node.name}': got {type(value).__name__}; allowed are Params of one model, sent as differences")
    now = sim.kernel.now
    for attempt in range(_DRAWS):
        h = [abs(complex(*generator(sim.seed, "air", links[i].source, links[i].target, repr(now), attempt).normal(0.0, 0.5, 2))) for i in kept]
        scheduled = [k for k, gain in enumerate(h) if gain >= over.threshold]
        if scheduled:
            break
    else:
        raise ScenarioError(f"air_sum(threshold={over.threshold}) at '{node.name}': nobody qualified in {_DRAWS} draws; lower the threshold")
    d, m = len(values[0]), len(scheduled)
    energies = [values[k].square_norm() for k in scheduled]
    largest = max(energies)
    h_min = min(h[k] for k in scheduled)
    total = torch.zeros(d, dtype=torch.float64)
    for k in scheduled:
        total.add_(values[k].flat, alpha=1.0 / m)
    if not isinf(over.snr_db) and largest > 0:
        spread = sqrt(largest / (10 ** (over.snr_db / 10) * (h_min if over.is_authors_noise else h_min**2) * d)) / m
        total += torch.from_numpy(generator(sim.seed, "air noise", node.name, repr(now)).normal(0.0, spread, d))
    cell = links[0].cell
    assert cell is not None
    air_s = d / (over.values_per_symbol * cell.bandwidth_hz)
    for k, energy in zip(scheduled, energies, strict=True):
        link = links[kept[k]]
        if link.transmit_power_w is not None and largest > 0:
            # alpha^2 ||Delta||^2 / (d |h|^2) with alpha^2 = P d h_min^2 / max ||Delta||^2
            joules = air_s * link.transmit_power_w * (h_min / h[k]) ** 2 * energy / largest
            meter = sim.sites[link.source].meter
            meter.radio_j += joules
            sim.totals.spend(meter, joules)
    node.sleep(now + air_s + links[0].latency_s)
    return Params(values[0].spec, total.to(values[0].flat.dtype))


def _air_link(node: SimNode, ref: SimRef) -> Link:
    """The one radio hop from a value's place to the node."""
    route = node.sim.network.route(ref.place, node.name)
    if len(route) != 1 or route[0].cell is None:
        raise Unsupported(
            f"air_sum at '{node.name}': '{ref.place}' is {len(route)} hops away{'' if len(route) != 1 else ' on a wire'}; allowed is one "
            f"hop of one cell: sum at the base stations, in a program"
        )
    return route[0]
