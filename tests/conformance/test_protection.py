"""Every star method takes `protect=gaussian(...)` without a line of its own: what really leaves its devices is bounded, noisy, counted and charged,
in simulation and on machines."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import fields, replace
from functools import cache
from typing import Any

import pytest
import torch

from airloom import jobs
from airloom.clock.rng import seed_of
from airloom.engines.host import Packet
from airloom.errors import ScenarioError
from airloom.models.lora import thaw
from airloom.models.params import Params
from airloom.parts import protect
from airloom.parts.protect import Gaussian, Masked
from airloom.program.method import Method
from airloom.program.tree import leaves
from airloom.resolve import find_function, find_method
from airloom.runner import Options, Run
from airloom.scenarios.scenario import Scenario
from tests.conformance.test_methods import METHODS, every_method, go, make, smallest
from tests.stars import Local, simulated_run, star_run, star_scenario

STARS = sorted(name for name, cls in METHODS.items() if "flower" in cls.engines)
REFUSED = {"centralized"}  # its clients send labels, which are integers
SILENT = {"local_only"}  # nothing leaves its clients
# what a function returns is a model, so that the update is its difference to the model that came down; of the others it is the value itself
MODELS = {
    "disentafl", "ditto", "fedavg", "fedper", "fedprox", "fedrolex", "flexlora", "heterofl", "local_only", "oort", "sequential_fl", "tap",
    "whale_fl",
}  # fmt: skip
ONCE = {"oort", "whale_fl"}  # whom they take, and how wide, follows from measured seconds
SUMS = {
    "ada_lora_is", "ditto", "fedavg", "feddyn", "fedlora", "fedopt", "fedper", "fedprox", "fedrolex", "fedzo", "fslora", "heterofl", "ics", "oort",
    "scaffold", "zo_sgd",
}  # fmt: skip
C = 0.05
needs_keys = pytest.mark.skipif(importlib.util.find_spec("cryptography") is None, reason="needs the extra private (cryptography)")


SCENARIOS = {adapts: star_scenario(adapts=adapts) for adapts in (False, True)}


def scenario(name: str) -> Scenario:
    return SCENARIOS[METHODS[name].adapts]


@cache
def unprotected(name: str, rounds: int) -> Run:
    return simulated_run(scenario(name), make(name), rounds=rounds)


def machines(name: str, method: Method) -> Local:
    local = Local(scenario(name), method, 1, ["m0", "m1", "m2"])
    local.at_once = 1
    return local


def distance(sent: torch.Tensor | Params, about: Params | None) -> float:
    """Norm of what was sent, or of its difference to the values of `about` at the same places."""
    if about is None or not isinstance(sent, Params):
        return float((sent.flat if isinstance(sent, Params) else sent).double().norm())
    there, places = torch.zeros(len(about), dtype=torch.float64), about.spec.places(sent.spec)
    is_held = there.clone()
    places.add(there, sent.flat, 1.0)
    places.add(is_held, torch.ones_like(sent.flat), 1.0)
    return float((there - about.flat * is_held).norm())


@pytest.mark.parametrize("name", [name for name in STARS if name not in REFUSED])
def test_what_leaves_a_device_is_bounded(name: str) -> None:
    """The bytes of the answers are decoded and compared with the models that came down in the call, by a table of what each method sends."""
    method = replace(make(name), protect=Gaussian(clip_norm=C, noise=0.0))
    local = machines(name, method)
    down: dict[str, list[Params]] = {}
    norms: list[float] = []
    # FLoRA's clients begin with pairs of their own; the first model that comes down is the head
    model = scenario(name).task.model
    drawn = [thaw(model.initial(seed_of(1, "device", f"c{i}", "pairs", t))) for i in range(4) for t in range(2)] if name == "flora" else []

    def asked(machine: str, packet: Packet) -> bool:
        wire = local.hosts[machine].wire
        if json.loads(packet.head)["kind"] == "call" and wire is not None:
            body = wire.decode(packet.body)
            given = [leaf for part in (wire.decode(packet.shared) if packet.shared else (), body) for _, leaf in leaves(part)]
            down[machine] = [leaf for leaf in given if isinstance(leaf, Params)] or down[machine]
        return True

    def answered(machine: str, packet: Packet) -> Packet:
        wire = local.hosts[machine].wire
        # what is looked at off the clock leaves devices bounded too; fedper's personal models hold a head that did not come down
        if json.loads(packet.head)["kind"] in (("done",) if name == "fedper" else ("done", "got")) and wire is not None:
            for path, leaf in leaves(wire.decode(packet.body)):
                if isinstance(leaf, Params | torch.Tensor) and (isinstance(leaf, Params) or leaf.dim()):
                    # Scaffold: dc = c_n+ - c_n = (x - y) / (H eta) - c, which is -c where nothing is learned
                    about = down[machine][0] if name in MODELS else -down[machine][1] if path[-1:] == ("dc",) else None
                    norms.append(min(distance(leaf, new | down[machine][0]) for new in drawn) if name == "flora" else distance(leaf, about))
                else:  # hetlora: the norm of the model that came down; tap: a client without a record of losses takes its model anew
                    assert leaf in (None, 0, 0.0, False) or name in ("hetlora", "tap"), leaf
        return packet

    local.on_packet, local.on_answer = asked, answered
    star_run(scenario(name), method, transport=local, rounds=2)
    assert norms or name in SILENT
    assert all(norm <= C * (1 + 1e-5) for norm in norms)  # float32: relative 6e-8 per value, and x + Delta rounds at the size of x
    assert name in SILENT or sum(norm > C / 2 for norm in norms) >= len(norms) / 2  # the bound is at work


@pytest.mark.parametrize("name", [name for name in STARS if name not in REFUSED])
def test_noise_is_the_same_on_machines_counted_and_charged(name: str) -> None:
    method, rounds = replace(make(name), protect=Gaussian(clip_norm=C, noise=2.0)), 1 if name in ONCE else 2
    real, _ = star_run(scenario(name), method, transport=machines(name, method), rounds=rounds)
    simulated, plain = simulated_run(scenario(name), method, rounds=rounds), unprotected(name, rounds)
    one, other = ([leaf.digest() for _, leaf in leaves(run.model) if isinstance(leaf, Params)] for run in (real, simulated))
    is_personal = isinstance(real.model, dict)  # on machines they are looked at as their clients would send them
    assert is_personal or one == other
    if name not in ("fedbuff", "sequential_fl"):  # fedbuff's last calls are under way; a chain goes over the server on machines
        assert real.summary["bytes_up"] == simulated.summary["bytes_up"]
        assert real.summary.get("privacy") == simulated.summary.get("privacy")
    if name in SILENT:
        assert "privacy" not in simulated.summary
        return
    told = simulated.summary["privacy"]
    assert told["releases"] >= (1 if name == "fedbuff" else rounds)
    if name not in ("ics", "ada_lora_is", "oort", "fedbuff", "heterofl", "fedrolex", "whale_fl"):  # these choose by seconds
        assert plain.summary["bytes_up"] == simulated.summary["bytes_up"]
        assert plain.summary["seconds"] < simulated.summary["seconds"]
        devices = simulated.summary["devices"]
        extra = {client: devices[client]["flops"] - own["flops"] for client, own in plain.summary["devices"].items()}
        releases = {client: own.get("releases", 0) for client, own in devices.items()}
        # clipping and noise of a release: 29 operations per value, and no model here has fewer than ten; what stays at a client is treated too
        assert all(extra[client] >= 290 * count for client, count in releases.items())


@pytest.mark.parametrize("name", [name for name in STARS if name not in REFUSED | {"hetlora", "oort"}])  # they go by a norm, and by losses
def test_without_noise_and_within_the_bound_nothing_changes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protect, "CLIP_OPS", 0)  # some plan with the seconds that clipping takes
    bounded = replace(make(name), protect=Gaussian(clip_norm=1e6, noise=0.0))
    one, other = unprotected(name, 2).model, simulated_run(scenario(name), bounded, rounds=2).model
    assert [leaf.digest() for _, leaf in leaves(one) if isinstance(leaf, Params)] == [
        leaf.digest() for _, leaf in leaves(other) if isinstance(leaf, Params)
    ]


def test_integers_are_refused_by_name() -> None:
    with pytest.raises(ScenarioError, match=r"send: its value has torch.int64 at \['y'\]"):
        simulated_run(scenario("centralized"), replace(make("centralized"), protect=Gaussian()), rounds=1)


@every_method
def test_sums_are_masked_or_refused_by_name(name: str) -> None:
    is_sum = not any(f.name == "protect" and "socket" in f.metadata for f in fields(METHODS[name]))
    assert is_sum == (name in SUMS)
    if is_sum:
        assert replace(make(name), protect=Masked()).protect == Masked()
        return
    with pytest.raises(ScenarioError, match=r"protect: got Masked\(range=8.0\), which protects sums"):
        replace(make(name), protect=Masked())


@needs_keys
@pytest.mark.parametrize("name", sorted(SUMS - {"oort"}))  # it goes by losses
def test_masked_sums_are_the_sums(name: str) -> None:
    """Slices in the whole model's shape with masked counts, weighted sums, means: the fixed point has 24 bits behind the point, so 4 clients are off
    by 2^-23 in a sum and 2^-21 in a mean over one of them; a second round of a few steps amplifies that."""
    rounds = 1 if name == "fedzo" else 2  # a loss's last digit over mu = 1e-3 is in every step of its second round
    plain, masked = unprotected(name, rounds), simulated_run(scenario(name), replace(make(name), protect=Masked(range=64.0)), rounds=rounds)
    one, other = ([leaf for _, leaf in leaves(run.model) if isinstance(leaf, Params)] for run in (plain, masked))
    assert len(one) == len(other) > 0
    assert all((x - y).abs_max() < 1e-4 * (1 + x.abs_max()) for x, y in zip(one, other, strict=True))
    assert masked.summary["bytes_up"] > plain.summary["bytes_up"]


def test_a_run_with_noise_goes_on_from_a_checkpoint(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from airloom.records import checkpoint
    from tests.conformance import test_methods

    protected = replace(make("scaffold"), protect=Gaussian(clip_norm=C, noise=1.0))
    monkeypatch.setattr(test_methods, "make", lambda name: protected)
    go("scaffold", smallest("scaffold"), rounds=2, out=tmp_path / "half")
    rest = go("scaffold", smallest("scaffold"), rounds=5, frozen=checkpoint.load(tmp_path / "half" / "checkpoint.safetensors"))
    whole = go("scaffold", smallest("scaffold"), rounds=5)
    assert rest.run.points == whole.run.points[2:]
    assert rest.run.summary["digest"] == whole.run.summary["digest"]
    assert rest.run.summary["privacy"] == whole.run.summary["privacy"]
    assert whole.run.summary["privacy"]["releases"] == 2 * 5  # dx and dc, per round


@pytest.mark.parametrize(
    "text", ["fedavg", "fedbuff", "fedbuff:protect=gaussian(noise=0.5)", "fedavg:protect=masked(range=64.0)", "fedavg:protect=ega(sigma=0.05)"]
)
def test_a_node_opens_a_job_with_a_protection(text: str) -> None:
    candidate = find_method(text)
    method = candidate.make({}, {})
    world = jobs.World(name="lab", text="lab", function=find_function("lab"), fields={})
    job = jobs.job_of(candidate, method, text, world, 0, "flower", Options())
    assert jobs.opener([])(json.loads(json.dumps(job.describe()))).method == method
