"""A scenario as it was measured: speeds, rates and latencies of a real run in place of the declared ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from airloom.errors import ScenarioError
from airloom.network.churn import AlwaysOn
from airloom.network.link import Link
from airloom.scenarios.scenario import Scenario


def calibrated(scenario: Scenario, measured: Mapping[str, Any]) -> Scenario:
    """Return the scenario with measured devices and links.

    A measured link has a fixed rate, whatever it was declared as; watts and memory stay as declared, and nobody leaves.

    Arguments:
        measured: `devices` by place (`speed_flops_per_s`, or `seconds_per_sample` by width) and `links` (`source`, `target`, `rate_bps`,
            `latency_s`; one that the scenario lacks has a `direction` too), as `airloom calibrate` writes them.

    Raises:
        ScenarioError: it names a place or a link that the scenario lacks.
    """
    network = scenario.network
    places, links = dict(network.places), dict(network.links)
    for name, found in measured["devices"].items():
        if name not in places:
            raise ScenarioError(f"measured device '{name}': scenario '{scenario.name}' has no such place; use the scenario that was measured")
        device = places[name].device
        table = found.get("seconds_per_sample")
        changes: dict[str, Any] = {"profile": f"{device.profile} (measured)", "memory_bytes_per_s": None, "step_overhead_s": 0.0}
        changes["seconds_per_sample"] = None if table is None else {float(width): seconds for width, seconds in table.items()}
        if found.get("speed_flops_per_s") is not None:
            changes |= {"speed_flops_per_s": found["speed_flops_per_s"], "efficiency": 1.0, "formats": {}}
        places[name] = replace(places[name], device=replace(device, **changes))
    for found in measured["links"]:
        key = (found["source"], found["target"])
        if key not in links and not ({*key} <= places.keys() and "direction" in found):
            raise ScenarioError(f"measured link {key}: scenario '{scenario.name}' has no such link; use the scenario that was measured")
        old = network.route(*key)[0]  # of a link that the scenario lacks, the first hop: the same radio sends
        links[key] = Link(
            source=key[0], target=key[1], direction=found.get("direction", old.direction), transmit_power_w=old.transmit_power_w,
            rate_bps=found["rate_bps"], latency_s=found["latency_s"],
        )  # fmt: skip
    world = replace(network, places=places, links=links, churn=AlwaysOn(), capacities={})
    return replace(scenario, name=f"{scenario.name} (measured)", network=world)
