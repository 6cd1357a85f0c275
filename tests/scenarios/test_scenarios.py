"""The shipped scenarios: who is in them, that they check what they are given, and that they are the same for the same seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from airloom.errors import ScenarioError
from airloom.methods.fedavg import FedAvg
from airloom.runner import Options, Runner
from airloom.scenarios.crowd import crowd
from airloom.scenarios.factory import factory
from airloom.scenarios.factory_stream import factory_stream
from airloom.scenarios.lab import lab
from airloom.scenarios.phones import phones
from airloom.scenarios.scenario import Scenario
from airloom.scenarios.writers import writers
from airloom.tasks import TaskSettings
from airloom.tasks.stream import Stream
from airloom.tasks.task import Task
from tests.worlds import task_for, world


def test_phones_is_a_cloud_four_cells_and_forty_phones() -> None:
    made = phones(seed=0)
    network, task = made.network, made.task
    assert len(network.children(network.root)) == 4
    assert all(len(network.children(base)) == 10 for base in network.children(network.root))
    assert [link.direction for link in network.route("phone0", network.root)] == ["up", "backhaul"]
    sizes = [task.samples(name) for name in network.clients(network.root)]
    assert len(sizes) == 40
    assert min(sizes) >= 8
    assert 0.9e6 < task.model.nbytes < 1.1e6
    assert made.target == ("accuracy", 0.9)


def test_a_world_is_a_function_of_its_seed() -> None:
    one, same, other = phones(seed=1), phones(seed=1), phones(seed=2)
    assert one.network.describe() == same.network.describe()
    assert all(np.array_equal(one.task.shards[name], same.task.shards[name]) for name in one.task.shards)
    assert one.network.describe() != other.network.describe()
    assert any(not np.array_equal(one.task.shards[name], other.task.shards[name]) for name in one.task.shards)


def test_phones_of_any_size() -> None:
    made = phones(seed=0, devices=1000, base_stations=20)
    assert len(made.network.clients(made.network.root)) == 1000
    assert made.fields["partition"] == "resample"  # digits do not suffice for eight own rows each
    assert phones(seed=0, devices=4).fields["partition"] == "dirichlet"


def test_phones_that_come_and_go() -> None:
    made = phones(seed=0, on_s=100.0, off_s=50.0)
    there = [made.network.present(name, 1000.0, 0) for name in made.network.clients(made.network.root)]
    assert 10 < sum(there) < 40
    with pytest.raises(ScenarioError, match="give both or neither"):
        phones(seed=0, on_s=100.0)


@pytest.mark.parametrize("scenario", ["phones", "factory", "factory_stream", "lab", "writers"])
def test_suited_fields_are_fields_of_methods(scenario: str) -> None:
    import importlib
    from dataclasses import fields

    from airloom.program.method import Method

    suited = importlib.import_module(f"airloom.scenarios.{scenario}").SUITED
    assert suited
    for name, given in suited.items():
        module = importlib.import_module(f"airloom.methods.{name}")
        classes = [c for c in vars(module).values() if isinstance(c, type) and issubclass(c, Method) and c.__module__ == module.__name__]
        assert given.keys() <= {f.name for c in classes for f in fields(c)}
        classes[-1](**given)  # and in range


def test_factory_is_five_by_twenty_on_wires() -> None:
    made = factory(seed=0)
    network = made.network
    assert [len(network.children(edge)) for edge in network.children(network.root)] == [20] * 5
    assert all(link.cell is None for link in network.links.values())


def test_factory_stream_is_five_by_seventy_with_data_that_move(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRLOOM_DATA", raising=False)
    made = factory_stream(seed=0)
    network, task = made.network, made.task
    assert [len(network.children(edge)) for edge in network.children(network.root)] == [70] * 5
    assert made.fields["data"] == "digits, resampled (no data folder)"
    for name in list(task.shards)[:20]:
        windows = [task.data(name, 60.0 * k + 1.0) for k in range(4)]
        assert all(1 <= len(data) <= 50 and (data.counts > 0).sum() <= 3 for data in windows)
        if len(np.unique(task.dataset.y_train[task.shards[name]])) > 3:
            assert len({tuple((data.counts > 0).tolist()) for data in windows}) > 1
    # machines differ in what they see at one time
    assert len({tuple((task.data(name, 1.0).counts > 0).tolist()) for name in task.shards}) > 20


def test_factory_stream_takes_streams_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRLOOM_DATA", raising=False)
    drift = factory_stream(seed=0, factories=2, machines=3, classes=None, drift_s=100.0).task.stream
    assert drift is not None and (drift.drift_s, drift.classes) == (100.0, None)
    own = TaskSettings(partition="iid", stream=Stream(window_s=5.0, samples=9, is_once=True))
    made = factory_stream(seed=0, factories=2, machines=3, task=own)
    assert made.task.stream == own.stream
    assert made.fields["window_s"] == 5.0
    with pytest.raises(ScenarioError, match="give one of them"):
        factory_stream(seed=0, drift_s=100.0)


def test_factory_stream_has_real_writers_with_a_data_folder(data_folder: Path) -> None:
    settings = TaskSettings(dataset="mnist_writers", partition="natural", data=str(data_folder))
    task = factory_stream(seed=0, factories=2, machines=4, task=settings).task
    for name in task.shards:
        assert len(set(np.asarray(task.dataset.natural)[task.shards[name]].tolist())) == 1


def test_lab_is_five_boards_times_four_rates() -> None:
    made = lab(seed=0)
    names = made.network.clients(made.network.root)
    pairs = {(made.network.places[name].device.profile, made.network.route(name, made.network.root)[0].rate_bps) for name in names}
    assert len(names) == len(pairs) == 20
    assert {rate for _, rate in pairs} == {80e6, 40e6, 20e6, 15e6}


def test_lab_boards_are_busy_at_times() -> None:
    network = lab(seed=0, free_s=40.0, busy_s=20.0).network
    factors = [[network.slowdown(name, 10.0 * k, 0) for k in range(60)] for name in network.clients("cloud")]
    # busy for a third of the time: 20 boards over 10 cycles of 60 s, standard error about 0.03
    assert np.mean(np.array(factors) > 1.0) == pytest.approx(1 / 3, abs=0.09)
    assert all(2.0 <= max(row) <= 4.0 for row in factors)
    assert network.slowdown("cloud", 10.0, 0) == 1.0
    with pytest.raises(ScenarioError, match=r"lab\(free_s=40.0, busy_s=None\): give both or neither"):
        lab(seed=0, free_s=40.0)


def test_writers_have_one_real_writer_each(data_folder: Path) -> None:
    made = writers(seed=0, devices=12, base_stations=2, task=TaskSettings(dataset="mnist_writers", partition="natural", data=str(data_folder)))
    task = made.task
    for name in made.network.clients(made.network.root):
        assert len(set(np.asarray(task.dataset.natural)[task.shards[name]].tolist())) == 1


def test_writers_without_data_says_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"mnist_writers\.npz"):
        writers(seed=0, task=TaskSettings(dataset="mnist_writers", partition="natural", data=str(tmp_path)))


def test_a_scenario_checks_its_parts() -> None:
    network = world({("a", "hub"): 1e6})
    with pytest.raises(ScenarioError, match=r"Scenario\.task: got NoneType"):
        Scenario(name="bad", network=network, task=None)  # type: ignore[arg-type]
    with pytest.raises(ScenarioError, match=r"budget\['hours'\]"):
        Scenario(name="bad", network=network, task=task_for(network), budget={"hours": 1})
    wider = world({("a", "hub"): 1e6, ("b", "hub"): 1e6})
    with pytest.raises(ScenarioError, match="client 'b' has no data"):
        Scenario(name="bad", network=wider, task=task_for(network))


def test_crowd_is_many_phones_behind_wires_whose_rate_changes() -> None:
    made = crowd(seed=0, devices=250, per_cell=100, participants=50, on_s=300.0, off_s=100.0)
    network = made.network
    assert [len(network.children(base)) for base in network.children(network.root)] == [83, 83, 84]  # equal blocks
    up, wire = network.route("phone0", network.root)
    assert up.cell is not None
    assert wire.trace is not None
    assert wire.trace.rate_bps(0.0) == wire.trace.rate_bps(3600.0) != wire.trace.rate_bps(60.0)
    there = [sum(network.present(name, 1000.0 * k, 0) for name in network.clients(network.root)) for k in range(10)]
    assert 160 < sum(there) / 10 < 215  # three quarters of 250 are 188; ten draws of a standard deviation of 7
    assert made.suited["fedavg"]["fraction"] == pytest.approx(50 / 187.5)
    for bad in ({"devices": 0}, {"per_cell": 0}, {"participants": 0}):
        with pytest.raises(ScenarioError, match="allowed are integers >= 1"):
            crowd(seed=0, **bad)  # type: ignore[arg-type]
    with pytest.raises(ScenarioError, match="off_s"):
        crowd(seed=0, devices=10, off_s=0.0)


def test_a_crowd_is_asked_for_its_participants_only(monkeypatch: pytest.MonkeyPatch) -> None:
    made = crowd(seed=0, devices=400, per_cell=100, participants=20)
    asked: list[str] = []
    samples = Task.samples
    scenario = Scenario(name="crowd", network=made.network, task=made.task, budget={"rounds": 2})
    monkeypatch.setattr(Task, "samples", lambda self, name, at_s=0.0: (asked.append(name), samples(self, name, at_s))[1])
    method = FedAvg(fraction=made.suited["fedavg"]["fraction"], local_steps=1)
    done = Runner(scenario, method, 0, Options(eval_every=100, checkpoint_every_s=None), None, {}, None).run()
    assert len(done.points) == 2
    assert sum(point["clients"] for point in done.points) > 30
    # a weight and a sample count per participant of two rounds, and once more in the history: far fewer than the 320 that are there
    assert len(asked) <= 2 * 2 * 22
