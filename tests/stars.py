"""Stars without wires: machines in this process, whose packets a test can lose, delay and tamper with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from airloom.engines.host import Host, Opened, Packet
from airloom.engines.star import Manners, StarWorld, Transport
from airloom.models import zoo
from airloom.models.lora import lora
from airloom.network.network import Network
from airloom.program.method import Method
from airloom.runner import Options, Run, Runner
from airloom.scenarios.scenario import Scenario
from airloom.tasks import TaskSettings, make_task
from tests.worlds import device, world

HURRY = Manners(ping_s=0.05, patience_s=0.3, look_s=0.02, start_s=2.0, return_s=1.0)


def star_scenario(clients: int = 4, adapts: bool = False, **rest: Any) -> Scenario:
    """Digits on a star of fast devices; `adapts` puts LoRA pairs around the model."""
    names = [f"c{i}" for i in range(clients)]
    network = world({(name, "hub"): 1e6 for name in names}, devices={name: device(1e9) for name in [*names, "hub"]}, **rest)
    settings = TaskSettings(partition="dirichlet", alpha=1.0, limit=300)
    plain = zoo.mlp(inputs=64, hidden=(8,), classes=10)
    model = lora(plain, rank=4, alpha=8.0, train=["classifier"], values=plain.initial(1)) if adapts else plain
    learned = make_task(settings, names, seed=1, model=model)
    return Scenario(name="star", network=network, task=learned, seed=1)


class Idle:
    """A clock for the server: looking at it takes half a millisecond, waiting as long as it is, and nothing else any time, so that no test depends
    on how fast this machine is."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        self.now_s += 5e-4
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


class Local(Transport):
    """Hosts by machine name, in this process.

    Attributes:
        dead: machines that neither take nor answer packets.
        on_packet: called with (name, packet) before a host gets it; False loses it.
        on_answer: turns (name, answer) into another answer, or None to hold it back for good.
    """

    def __init__(self, scenario: Scenario, method: Method, seed: int, names: Sequence[str], folder: Path | None = None) -> None:
        self.opened = Opened(method, scenario.network, scenario.task, seed)
        self.folder = folder
        self.hosts = {name: self.new_host(name) for name in names}
        self.dead: set[str] = set()
        self.sent: list[tuple[int, str, Packet]] = []
        self.log: list[tuple[str, str]] = []
        self.on_packet: Callable[[str, Packet], bool] = lambda _name, _packet: True
        self.on_answer: Callable[[str, Packet], Packet | None] = lambda _name, answer: answer
        self.count = 0
        self.at_once = 10**9  # packets that are looked at together

    def open_job(self, job: Mapping[str, Any]) -> Opened:
        return self.opened

    def new_host(self, name: str) -> Host:
        folder = None if self.folder is None else self.folder / name
        if folder is not None:
            folder.mkdir(exist_ok=True)
        return Host(self.open_job, None, folder)

    def restart(self, name: str) -> None:
        """Another process takes the machine's place."""
        self.hosts[name] = self.new_host(name)

    def machines(self) -> dict[str, Any]:
        return {name: name for name in self.hosts if name not in self.dead}

    def send(self, address: Any, packet: Packet) -> Any:
        self.count += 1
        self.sent.append((self.count, address, packet))
        return self.count

    def deliver(self) -> None:
        return

    def answers(self, tickets: Sequence[Any]) -> list[tuple[Any, Packet | None]]:
        found: list[tuple[Any, Packet | None]] = []
        now, self.sent = self.sent[: self.at_once], self.sent[self.at_once :]
        for ticket, name, packet in now:
            if name in self.dead:
                self.sent.append((ticket, name, packet))  # lies there until the machine comes back
            elif self.on_packet(name, packet):
                answer = self.on_answer(name, self.hosts[name].answer(packet))
                if answer is not None:
                    found.append((ticket, answer))
        return found

    def close(self, error: str | None) -> None:
        return


def star_run(
    scenario: Scenario, method: Method, *, seed: int = 1, rounds: int = 4, machines: Sequence[str] = ("m0", "m1", "m2"), out: Path | None = None,
    transport: Local | None = None, is_resumed: bool = False, manners: Manners = HURRY, every_s: float | None = 0.0,
) -> tuple[Run, StarWorld]:  # fmt: skip
    """Run a method on machines in this process."""
    from airloom.records import checkpoint

    local = transport or Local(scenario, method, seed, machines)
    star = StarWorld(
        network=scenario.network, task=scenario.task, method=method, seed=seed, job={}, transport=local, names=list(local.hosts), manners=manners
    )  # fmt: skip
    options = Options(budget={"rounds": rounds}, checkpoint_every_s=every_s)
    runner = Runner(scenario, method, seed, options, out, {"method": type(method).__name__}, None)
    frozen = checkpoint.load(out / "checkpoint.safetensors") if is_resumed and out is not None else None
    with patch("airloom.engines.star.time", Idle()):
        return runner.measure(star, frozen, is_resumed), star


def simulated_run(scenario: Scenario, method: Method, *, seed: int = 1, rounds: int = 4) -> Run:
    """The same in simulation."""
    return Runner(scenario, method, seed, Options(executor="loop", budget={"rounds": rounds}), None, {}, None).run()


def network_of(scenario: Scenario) -> Network:
    return scenario.network
