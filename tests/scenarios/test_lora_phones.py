"""Phones with LoRA: three memory classes that bind, which model it is, the four methods on it, the pool, a language model of a folder."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import pytest

from airloom.engines.simnode import SimNode
from airloom.errors import DoesNotFit, ScenarioError
from airloom.methods.fedlora import FedLoRA
from airloom.methods.fslora import FSLoRA
from airloom.parts.rank import rank_budgets
from airloom.program.method import Method
from airloom.runner import Options, Run, Runner
from airloom.scenarios import lora_phones as module
from airloom.scenarios.lora_phones import lora_phones
from airloom.scenarios.scenario import Scenario
from airloom.tasks import TaskSettings
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


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="rank=2"):
        lora_phones(seed=0, rank=2)
    with pytest.raises(ScenarioError, match="the embedded model reads digits"):
        lora_phones(seed=0, task=TaskSettings(dataset="sst2"))
    with pytest.raises(ScenarioError, match="a language model needs text; allowed are shakespeare, sst2"):
        lora_phones(seed=0, model=str(tmp_path), task=TaskSettings(dataset="har"))
    with pytest.raises(ScenarioError, match="allowed is one tokenizer"):
        lora_phones(seed=0, model=str(tmp_path / "none.bin"))
