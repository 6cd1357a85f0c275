"""What a sum has taken in may be let go; who asks for it again gets the same numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from airloom.engines import numerics
from airloom.engines.pending import SimRef
from airloom.models.params import Params
from airloom.program.here import Here
from airloom.program.method import Method, State
from airloom.program.node import Node
from airloom.records import checkpoint
from airloom.runner import Options, Run, Runner
from airloom.scenarios.scenario import Scenario
from tests.worlds import task_for, world

PAIRS = {(f"d{i}", "server"): 1e6 for i in range(4)}
held: list[int] = []  # clients' models that are in memory after the sum, by round


@dataclass(frozen=True, kw_only=True)
class AsksAgain(Method):
    """Adds up, then asks for one model again, lets another client go on from a second one, and keeps a third for the next round."""

    def init(self, node: Node, x: Params) -> State:
        return {"x": x, "kept": None, "t": 0}

    def round(self, node: Node, s: State) -> State:
        out = node.map(self.client, node.clients, s["x"])
        x = node.reduce(out, like={"x": s["x"], "loss": 0.0})["x"]
        held.append(sum(not ref.root.value["x"].flat.is_meta for ref in out if isinstance(ref, SimRef)))
        losses = node.fetch([ref["loss"] for ref in out])
        x = x + node.fetch(out[0]["x"]) - node.fetch(node.call(self.client, "d3", out[1]["x"]))["x"]
        if s["kept"] is not None:
            x = x + node.fetch(s["kept"]["x"])
        node.report(round=s["t"], model=x, loss=sum(losses))
        return {"x": x, "kept": out[2], "t": s["t"] + 1}

    def client(self, here: Here, x: Params) -> dict[str, Any]:
        return {"x": here.train(x, steps=2, lr=0.1, batch_size=8), "loss": here.log.loss}


def play(rounds: int, executor: str = "loop", out: Path | None = None, frozen: Any = None) -> Run:
    network = world(PAIRS)
    scenario = Scenario(name="folded", network=network, task=task_for(network), budget={"rounds": rounds})
    options = Options(executor=executor, workers=2, checkpoint_every_s=0 if out else None, timeline=0)
    held.clear()
    return Runner(scenario, AsksAgain(), 0, options, out, {"method": "AsksAgain"}, None).run(frozen)


@pytest.mark.parametrize("executor", ["loop", "pool"])
def test_values_that_were_let_go_come_back_bit_for_bit(executor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = play(3)
    assert held == [4, 4, 4]
    monkeypatch.setattr(numerics, "FOLDED_BYTES", 0)
    again = play(3, executor)
    assert held == [0, 0, 0]
    assert again.summary["digest"] == kept.summary["digest"]
    assert again.points == kept.points


def test_the_first_bytes_of_each_round_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    network = world(PAIRS)
    nbytes = task_for(network).model.nbytes
    monkeypatch.setattr(numerics, "FOLDED_BYTES", 2 * nbytes)  # room for two of the four models of a round
    play(2)
    assert held == [2, 2]


def test_a_checkpoint_holds_what_was_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = play(3)
    monkeypatch.setattr(numerics, "FOLDED_BYTES", 0)
    play(2, out=tmp_path)
    tree, tensors = checkpoint.load(tmp_path / "checkpoint.safetensors")
    assert all(not tensor.is_meta for tensor in tensors.values() if isinstance(tensor, torch.Tensor))
    assert play(3, frozen=(tree, tensors)).summary["digest"] == whole.summary["digest"]
