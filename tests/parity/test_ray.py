"""The same text on Ray and in simulation: equal to the last bit in float32, on one machine."""

from __future__ import annotations

import importlib
import importlib.util
import json
import pkgutil
from pathlib import Path
from typing import Any

import pytest

import airloom.methods
from airloom import api
from airloom.errors import MissingExtra, RunFailed, ScenarioError, Unsupported
from airloom.models.params import Params
from airloom.program.method import Method
from airloom.program.tree import leaves
from airloom.records.record import load
from tests.parity.replay import replayed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of Ray
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra ray"),
]
WORLD = "tests.tiny_world:tiny"
CURVE = ("accuracy", "loss", "round")
SMALL = {
    "local_steps": 2,
    "group_rounds": 2,
    "buffer": 2,
    "lr": 0.2,
    "batch_size": 8,
    "fraction": 1.0,
}  # all take part: some methods choose by measured seconds


def on_ray() -> list[str]:
    found = []
    for info in pkgutil.iter_modules(airloom.methods.__path__):
        module = importlib.import_module(f"airloom.methods.{info.name}")
        own = [t for t in vars(module).values() if isinstance(t, type) and issubclass(t, Method) and t.__module__ == module.__name__]
        if any("ray" in cls.engines and not cls.adapts for cls in own):  # what trains LoRA pairs needs another world
            found.append(info.name)
    return found


def run(method: str, engine: str, out: Path, rounds: int = 3, **more: Any) -> api.Run:
    return api.run(method, scenario=WORLD, engine=engine, budget={"rounds": rounds}, target=None, out=out, checkpoint_every_s=None, **more)


def difference(a: Any, b: Any) -> float:
    """Largest absolute difference of two reported models."""
    one, two = [leaf for _, leaf in leaves(a)], [leaf for _, leaf in leaves(b)]
    assert len(one) == len(two) and all(isinstance(leaf, Params) for leaf in one)
    return max(float((x.flat - y.flat).abs().max()) for x, y in zip(one, two))


CODED = ["fedavg,codec=topk(share=0.1)", "hfedavg,codec=qsgd(bits=4)", "sequential_fl,codec=half", "fedbuff,codec=randk(share=0.2)"]


@pytest.mark.parametrize("name", [*on_ray(), *CODED])
def test_methods_compute_the_same(name: str, tmp_path: Path) -> None:
    plain, _, own = name.partition(",")
    known = [f"{f}={SMALL[f]}" for f in sorted(api.find_method(plain).cls.__dataclass_fields__) if f in SMALL]
    fields = ",".join([*known, *([own] if own else [])])
    text = f"{plain}:{fields}" if fields else plain
    real = run(text, "ray", tmp_path / "ray")
    with replayed(tmp_path / "ray" / "measured.jsonl"):
        simulated = run(text, "simulated", tmp_path / "simulated", executor="loop")
    assert real.header["clock"] == "measured" and simulated.header["clock"] == "simulated"
    assert difference(real.model, simulated.model) == 0.0
    for one, two in zip(real.points, simulated.points, strict=True):
        assert {k: one.get(k) for k in CURVE} == {k: two.get(k) for k in CURVE}
    lines = [json.loads(line) for line in (tmp_path / "ray" / "measured.jsonl").read_text().splitlines()]
    if not any(line["kind"] == "first" and len(line["arrived"]) < line["of"] for line in lines):  # else messages are under way at the end
        for cost in ("bytes_up", "bytes_down", "bytes_peer"):
            assert real.summary[cost] == simulated.summary[cost], cost
    assert load(tmp_path / "ray").status == "budget"


def test_every_verb_works(tmp_path: Path) -> None:
    real = run("tests.parity.methods:EveryVerb", "ray", tmp_path / "ray")
    simulated = run("tests.parity.methods:EveryVerb", "simulated", tmp_path / "simulated", executor="loop")
    costs = {"seconds", "bytes_up", "bytes_down", "bytes_backhaul", "bytes_peer", "joules", "joules_idle", "joules_server"}
    for one, two in zip(real.points, simulated.points, strict=True):
        assert {k: v for k, v in one.items() if k not in costs} == {k: v for k, v in two.items() if k not in costs}
    assert real.points[-1]["stamps"] and real.points[-1]["flying"] == 1 and real.points[-1]["kept"] > 0
    assert difference(real.model, simulated.model) == 0.0


def test_a_failing_function_ends_the_run_by_name(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"Broken\.client at device 'board\d', issued at methods\.py:\d+: ValueError: no way"):
        run("tests.parity.methods:Broken", "ray", tmp_path / "run")
    record = load(tmp_path / "run")
    assert record.status == "failed" and len(record.points) == 1


def test_what_cannot_run_there_is_refused_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.tiny_world import tiny

    with pytest.raises(ScenarioError, match="is an object that no file holds"):
        api.run("fedavg", scenario=tiny(seed=0), engine="ray", budget={"rounds": 1}, out=tmp_path / "a")
    with pytest.raises(ScenarioError, match="allowed are simulated, ray"):
        run("fedavg", "carrier pigeon", tmp_path / "b")
    with pytest.raises(ScenarioError, match="allowed with engine simulated"):
        api.compare(["fedavg"], scenario=WORLD, engine="ray", workers="ray", seeds=1, budget={"rounds": 1}, out=tmp_path / "c")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"airloom\[ray\]"):
        run("fedavg", "ray", tmp_path / "d")
    assert not list(tmp_path.iterdir())


def test_a_shared_band_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="real links share themselves"):
        run("tests.parity.methods:Shares", "ray", tmp_path / "run")


def test_compare_over_ray_gives_the_same_numbers(tmp_path: Path) -> None:
    options: dict[str, Any] = {"scenario": WORLD, "seeds": 2, "budget": {"rounds": 2}, "target": ("accuracy", 0.3)}
    apart = api.compare(["fedavg", "mtgc"], workers="ray", out=tmp_path / "apart", **options)
    here = api.compare(["fedavg", "mtgc"], workers=1, out=tmp_path / "here", **options)
    for method, seeds in here.records.items():
        for seed, record in seeds.items():
            assert apart.records[method][seed].points == record.points
            assert record.summary is not None and apart.records[method][seed].summary == record.summary
