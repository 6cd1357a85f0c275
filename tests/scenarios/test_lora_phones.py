"""Phones with LoRA: three memory classes that bind, which model it is, the four methods on it, the pool, a language model of a folder."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from airloom.engines.simnode import SimNode
from airloom.errors import DoesNotFit, ScenarioError
from airloom.methods.ada_lora_is import AdaLoRAIS
from airloom.methods.fedlora import FedLoRA
from airloom.methods.flexlora import FlexLoRA
from airloom.methods.fslora import FSLoRA
from airloom.methods.hetlora import HetLoRA
from airloom.models.hf import hf_lora
from airloom.network.device import RadioEnergy
from airloom.network.network import Network
from airloom.network.profiles import CLOUD, phone
from airloom.network.topology import star
from airloom.parts.rank import rank_budgets
from airloom.program.method import Method
from airloom.runner import Options, Run, Runner
from airloom.scenarios import lora_phones as module
from airloom.scenarios.lora_phones import lora_phones
from airloom.scenarios.scenario import Scenario
from airloom.tasks import Dataset, TaskSettings, make_task
from tests.worlds import play


def go(scenario: Scenario, method: Method, executor: str = "loop", rounds: int = 1) -> Run:
    options = Options(budget={"rounds": rounds}, executor=executor, workers=2, checkpoint_every_s=None)
    return Runner(scenario, method, scenario.seed, options, None, {}, None).run()


def budgets(scenario: Scenario, batch_size: int = 16) -> Counter[int]:
    method, x = FSLoRA(batch_size=batch_size), scenario.task.model.initial(0)

    def text(node: SimNode) -> Counter[int]:
        return Counter(rank_budgets(node, method.client, node.clients, x, {}).values())

    return play(scenario.network, text, task=scenario.task).value


def test_fifty_phones_of_three_memory_classes_in_one_cell(caplog: pytest.LogCaptureFixture) -> None:
    module._say.cache_clear()
    with caplog.at_level(logging.WARNING, logger="airloom"):
        made = lora_phones(seed=0)
    assert "embedded: a patch transformer" in caplog.text and "no folder with a model is given" in made.fields["model"]
    network = made.network
    assert len(network.clients(network.root)) == 50 and len(network.children(network.root)) == 1
    assert budgets(made) == {4: 17, 8: 17, 16: 16}
    assert made.task.model.rank == 16 and made.target == ("accuracy", 0.9)


def test_a_phone_with_too_little_memory_is_refused_and_sketches_fit() -> None:
    made = lora_phones(seed=0, devices=6, task=TaskSettings(partition="iid"))
    with pytest.raises(DoesNotFit, match=r"FedLoRA\.client at 'phone0' needs"):
        go(made, FedLoRA(rank=16, local_steps=1))
    point = go(made, FSLoRA(local_steps=1)).points[0]
    assert point["rank"] == pytest.approx(2 * (4 + 8 + 16) / 6)


@pytest.mark.slow
def test_the_pool_gives_the_same_record() -> None:
    made = lora_phones(seed=0, devices=4, task=TaskSettings(partition="iid"))
    runs = [go(made, FSLoRA(local_steps=2), executor, rounds=2) for executor in ("loop", "pool")]
    assert runs[0].points == runs[1].points and runs[0].summary["digest"] == runs[1].summary["digest"]


@pytest.mark.slow
def test_a_language_model_of_a_folder(data_folder: Path) -> None:
    pytest.importorskip("peft")
    folder = data_folder / "lm" / "stories260k"
    settings = TaskSettings(data=str(data_folder), partition="natural", limit=60, minimum=1)
    made = lora_phones(seed=0, devices=3, rank=4, model=str(folder / "stories260K.bin"), window=16, batch_size=4, task=settings)
    assert made.fields["model"] == "'stories260K.bin' from a local folder" and made.task.dataset.kind == "next_token"
    assert budgets(made, 4) == {1: 1, 2: 1, 4: 1}
    run = go(made, FSLoRA(local_steps=2, batch_size=4, lr=0.01))
    assert run.points[0]["loss"] > 0 and run.summary["bytes_up"] < 3 * (made.task.model.nbytes + 400)
    news = lora_phones(
        seed=0,
        devices=3,
        rank=4,
        model=str(folder / "stories260K.bin"),
        window=16,
        task=TaskSettings(dataset="ag_news", data=str(data_folder), limit=60),
    )
    assert news.task.dataset.classes == 4 and "classifier" in news.task.model.components


@pytest.mark.slow
@pytest.mark.parametrize("head", ["causal", "classification"])
def test_a_model_of_transformers_in_the_pool_and_with_every_method(head: Any, tmp_path: Path) -> None:
    """A folder as save_pretrained writes it: the pool gives the loop's record, only adapters and head are charged, sketches are smaller."""
    transformers, _ = pytest.importorskip("transformers"), pytest.importorskip("peft")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, intermediate_size=32, vocab_size=50, hidden_size=16
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    spec = hf_lora(tmp_path, rank=4, head=head, classes=3 if head == "classification" else None)
    rng = np.random.default_rng(0)
    x = {part: rng.integers(3, 50, (30, 8)) for part in ("train", "validation", "test")}
    y = {part: rng.integers(0, 3, 30) if head == "classification" else np.roll(rows, -1, axis=1) for part, rows in x.items()}
    parts = {f"x_{part}": x[part] for part in x} | {f"y_{part}": y[part] for part in x}
    kind, classes = ("classification", 3) if head == "classification" else ("next_token", 50)
    data = Dataset(name="tokens", kind=kind, classes=classes, source="drawn", **parts)  # type: ignore[arg-type]
    network = star([phone(0.5, radio=RadioEnergy.measured("lte"))] * 3, root=CLOUD, up_bps=1e6, down_bps=1e6, latency_s=0.01)
    names = list(network.clients(network.root))
    made = Scenario(name="tokens", network=network, task=make_task(TaskSettings(partition="iid"), names, 0, model=spec, dataset=data), seed=0)
    steps: dict[str, Any] = {"local_steps": 2, "batch_size": 4, "lr": 0.01}
    runs = [go(made, FedLoRA(rank=4, **steps), executor, rounds=2) for executor in ("loop", "pool")]
    assert runs[0].points == runs[1].points and runs[0].summary["digest"] == runs[1].summary["digest"]
    whole = 3 * 2 * spec.nbytes  # clients, rounds; the frozen base never travels
    assert runs[0].summary["bytes_up"] == whole and spec.nbytes < spec.frozen_bytes
    half = go(made, FedLoRA(rank=2, **steps), rounds=2)
    trained_in_full = spec.nbytes - 4 * sum(leaf.size for leaf in spec.leaves if leaf.name.endswith((".A", ".B")) or "lora_" in leaf.name)
    assert half.summary["bytes_up"] == pytest.approx(3 * 2 * (trained_in_full + (spec.nbytes - trained_in_full) / 2), abs=3 * 2 * 8 * len(spec.pairs))
    for method in (HetLoRA(**steps), FlexLoRA(**steps), FSLoRA(**steps), AdaLoRAIS(beta=8.0, scheme="full", **steps)):
        assert go(made, method).points[0]["loss"] > 0
    tight = [replace(place, device=replace(place.device, memory_bytes=place.device.baseline_bytes + 1e3)) for place in network.places.values()]
    poor = replace(made, network=Network.of([network.places["cloud"], *[p for p in tight if p.parent]], network.links.values()))
    with pytest.raises(DoesNotFit, match=r"rank 1 of .* needs"):
        go(poor, FSLoRA(**steps))


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="rank=2"):
        lora_phones(seed=0, rank=2)
    with pytest.raises(ScenarioError, match="the embedded model reads digits"):
        lora_phones(seed=0, task=TaskSettings(dataset="sst2"))
    with pytest.raises(ScenarioError, match="a language model needs text; allowed are shakespeare, sst2"):
        lora_phones(seed=0, model=str(tmp_path), task=TaskSettings(dataset="har"))
    with pytest.raises(ScenarioError, match="allowed is one tokenizer"):
        lora_phones(seed=0, model=str(tmp_path / "none.bin"))
