"""SplitFrozen: the frozen part and the bytes, equality with training the top on the union, caching, the pipeline against the flow-shop recursion."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from airloom.errors import ScenarioError
from airloom.methods.splitfrozen import SplitFrozen
from airloom.models import zoo
from airloom.models.batch import Batch, first_tensor
from airloom.models.hf import hf_lora
from airloom.models.lora import lora
from airloom.models.objective import CrossEntropy, NextToken
from airloom.models.price import forward_flops, gradient_flops
from airloom.models.step import SGD, AdamW
from airloom.models.submodel import layers
from airloom.models.train import grad
from airloom.network.network import Network
from airloom.plans.pipe import makespan_s, pipe_ends_s
from airloom.tasks import Dataset, TaskSettings, make_task
from airloom.tasks.metrics import IGNORE
from airloom.tasks.task import Task
from tests.methods.hand import away, star
from tests.methods.quadratic import Course, run
from tests.worlds import device, play, world

NAMES = list("abc")
FIELDS: dict[str, Any] = {"cut": 1, "lr": 0.05, "batch_size": 8, "optimizer": SGD()}


def adapted(names: list[str] = NAMES, limit: int = 72, hidden: tuple[int, ...] = (12, 8), targets: list[str] | None = None) -> Task:
    """Digits for 64-12-8-10 with pairs of rank 2, in float64; every client has as many rows as the others."""
    base = zoo.mlp(inputs=64, hidden=hidden, classes=10, dtype=torch.float64)
    spec = lora(base, rank=2, values=base.initial(0), targets=targets)
    return make_task(TaskSettings(partition="iid", limit=limit), names, 0, model=spec)


TASK = adapted()


def plain(**changes: Any) -> Network:
    return star(dict.fromkeys(NAMES, 1e6), rate=1e6, **changes)


def played(rounds: int, network: Network | None = None, task: Task = TASK, **fields: Any) -> Course:
    return run(network or plain(), task, SplitFrozen(**{**FIELDS, **fields}), rounds)


# --- what stays, what moves ------------------------------------------------------------------------------------------------------------------


def test_the_device_side_never_changes_and_nothing_comes_down_after_the_start() -> None:
    course = played(3)
    bottom = TASK.model.slice(layers(0, 1))
    for s in course.states[1:]:
        assert torch.equal(s["x"][layers(0, 1)].flat, course.states[0]["x"][layers(0, 1)].flat)
        assert not torch.equal(s["x"][layers(1, 3)].flat, course.states[0]["x"][layers(1, 3)].flat)
    # each device once the pairs of the layers below the cut (the base is there); 24 rows of 12 values of 8 bytes, one byte of label each
    assert [course.spent(t)["bytes_down"] for t in range(3)] == [3 * 8 * bottom.size, 0, 0]
    assert [course.spent(t)["bytes_up"] for t in range(3)] == [3 * 24 * (12 * 8 + 1), 0, 0]


def test_without_the_cache_the_same_is_sent_in_every_epoch_and_learned() -> None:
    kept, again = played(3), played(3, is_cached=False)
    assert torch.equal(kept.x, again.x)
    assert [again.spent(t)["bytes_up"] for t in range(3)] == [3 * 24 * (12 * 8 + 1)] * 3
    busy = [sum(course.sim.sites["a"].meter.busy_s.values()) for course in (kept, again)]
    assert busy[1] == pytest.approx(3 * busy[0])


def test_activations_in_half_precision_weigh_a_fourth_of_float64() -> None:
    course = played(1, is_half=True)
    assert course.spent(0)["bytes_up"] == 3 * 24 * (12 * 2 + 1)
    np.testing.assert_allclose(course.x.numpy(), played(1).x.numpy(), atol=1e-3)


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_it_equals_training_the_top_on_the_union_with_a_frozen_bottom(cut: int) -> None:
    course = played(2, cut=cut)
    # the batches by hand: rows j of every device side by side, in the order that the server drew
    x, top = course.states[0]["x"], layers(cut, 3)
    data = {n: TASK.data(n).all() for n in NAMES}
    for t in range(2):
        for j in orders(t):
            rows = [data[n].rows(torch.arange(8 * j, 8 * j + 8)) for n in NAMES]
            batch = Batch(torch.cat([first_tensor(b.x) for b in rows]), torch.cat([b.y for b in rows]))
            g, _ = grad(x, batch, objective=CrossEntropy())
            x = x | (x[top] - 0.05 * g[top])
    np.testing.assert_allclose(course.x.numpy(), x.flat.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_a_language_model_is_cut_between_its_blocks(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("peft")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "vocab_size": 40}
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).save_pretrained(tmp_path)
    spec = hf_lora(tmp_path, rank=2, head="classification", classes=2)
    rng = np.random.default_rng(0)
    x, y = rng.integers(3, 40, (24, 6)), rng.integers(2, size=24)
    x[::3, 4:] = 0  # padding
    data = Dataset(name="ids", x_train=x, y_train=y, x_validation=x, y_validation=y, x_test=x, y_test=y, classes=2, kind="classification", source="")
    task = Task(name="ids", dataset=data, model=spec, shards={n: np.arange(8 * i, 8 * i + 8) for i, n in enumerate(NAMES)})
    course = played(2, task=task, cut=2)  # embedding and first block at the devices: 17 values a token, one of which says whether it is padding
    assert course.spent(0)["bytes_up"] == 3 * 8 * (6 * 17 * 4 + 1)
    union, top, w = Batch(torch.from_numpy(x), torch.from_numpy(y)), layers(2, 5), course.states[0]["x"]
    for _ in range(2):  # one batch of all rows per round
        g, _ = grad(w, union, objective=CrossEntropy())
        w = w | (w[top] - 0.05 * g[top])
    # float32: gradients of order 1 over 24 rows, two steps of 0.05: some 1e-7 apart
    np.testing.assert_allclose(course.x.numpy(), w.flat.numpy(), rtol=1e-4, atol=1e-5)


def sentences(vocabulary: int = 12) -> Task:
    """Four rows per client of six tokens, of which fewer and fewer count, for an adapted transformer of two blocks in float64."""
    base = zoo.transformer(vocabulary=vocabulary, width=8, heads=2, blocks=2, context=6, dtype=torch.float64)
    rng = np.random.default_rng(0)
    x, y = (rng.integers(vocabulary, size=(12, 6)) for _ in range(2))
    for i in range(12):
        y[i, : i % 6] = IGNORE
    data = Dataset(
        name="ids", x_train=x, y_train=y, x_validation=x, y_validation=y, x_test=x, y_test=y, classes=vocabulary, kind="next_token", source="made"
    )
    spec = lora(base, rank=2, values=base.initial(0), targets=["query", "value"])
    return Task(name="ids", dataset=data, model=spec, shards={n: np.arange(4 * i, 4 * i + 4) for i, n in enumerate(NAMES)})


@pytest.mark.parametrize(("vocabulary", "label_bytes"), [(12, 1), (200, 2)])
@pytest.mark.parametrize("micro", [1, 3])
def test_next_tokens_some_of_which_do_not_count(vocabulary: int, label_bytes: int, micro: int) -> None:
    # embedding and first block at the devices: 8 values of 8 bytes per token go up, with its label; a micro-batch weighs as many tokens as count
    task = sentences(vocabulary)
    course = played(2, task=task, cut=2, batch_size=4, micro=micro)
    assert course.spent(0)["bytes_up"] == 3 * 4 * 6 * (8 * 8 + label_bytes)
    w, top, union = course.states[0]["x"], layers(2, 5), Batch(torch.from_numpy(task.dataset.x_train), torch.from_numpy(task.dataset.y_train))
    for _ in range(2):
        g, _ = grad(w, union, objective=NextToken())
        w = w | (w[top] - 0.05 * g[top])
    assert not torch.equal(w.flat, course.states[0]["x"].flat)
    np.testing.assert_allclose(course.x.numpy(), w.flat.numpy(), rtol=1e-9, atol=1e-12)


def orders(t: int) -> list[int]:
    """The order in which the batches of an epoch are taken."""
    return play(plain(), lambda node: node.rng("order", t).permutation(3).tolist(), task=TASK).value


def test_micro_batches_and_split_backward_passes_change_nothing() -> None:
    whole = played(2)
    changes: list[dict[str, Any]] = [{"micro": 3}, {"is_decomposed": False}, {"micro": 5, "is_decomposed": False}]
    for fields in changes:
        np.testing.assert_allclose(played(2, **fields).x.numpy(), whole.x.numpy(), rtol=1e-9, atol=1e-12)
    with_state = [played(2, optimizer=AdamW(weight_decay=0.0), micro=m).x.numpy() for m in (1, 2)]
    np.testing.assert_allclose(with_state[1], with_state[0], rtol=1e-6, atol=1e-9)


def test_devices_with_fewer_layers_give_the_same_activations() -> None:
    # b runs one layer where the cut is two: the server runs the second, frozen, with the same values
    network = plain()
    places = [replace(p, facts={"cut": 1} if n == "b" else {}) for n, p in network.places.items()]
    mixed = played(2, Network.of(places, network.links.values()), cut=2)
    alike = played(2, cut=2)
    np.testing.assert_allclose(mixed.x.numpy(), alike.x.numpy(), rtol=1e-9, atol=1e-12)
    assert alike.spent(0)["bytes_up"] == 3 * 24 * (8 * 8 + 1)
    assert mixed.spent(0)["bytes_up"] == 24 * (2 * (8 * 8 + 1) + 12 * 8 + 1)


def test_adapters_above_the_cut_alone_leave_nothing_to_send_down() -> None:
    task = adapted(targets=["hidden2", "out"])
    assert played(1, task=task).spent(0)["bytes_down"] == 0


@pytest.mark.slow
def test_device_work_is_the_share_of_layers_times_a_half() -> None:
    # per layer and row, a forward pass being 1: LoRA 2 (no weight gradients of the frozen matrices), a device of SplitFrozen 1 below its cut; so
    # l / (2 L) of FedLoRA's, but for pairs, head and attention's own products, which are less than 5 % of it here
    depth, ids = 4, torch.zeros(1, 16, dtype=torch.int64, device="meta")
    base = zoo.text_classifier(width=128, heads=4, blocks=depth, context=16)
    spec = lora(base, rank=4, targets=("query", "value"), train=["classifier"])
    whole = gradient_flops(spec, Batch(ids, torch.zeros(1, dtype=torch.int64, device="meta")), CrossEntropy())
    for cut in range(1, depth + 1):  # the embedding is a layer of its own, which computes nothing
        assert forward_flops(spec.slice(layers(0, 1 + cut)), ids) / whole == pytest.approx(cut / (2 * depth), rel=0.05)


# --- the pipeline ----------------------------------------------------------------------------------------------------------------------------------

# One device, 24 rows: three batches of 8. Device forward: layer 64-12 with its pair, 2 * 8 * (768 + 2 * 76) FLOP; 8 * 97 bytes up; then the server.


def line(device_s: float, up_s: float, server_flops_per_s: float) -> Network:
    """One device whose forward pass of a batch takes `device_s`, on a link that takes `up_s` for its activations."""
    forward = 2 * 8 * (64 * 12 + 2 * (64 + 12))
    return world({("a", "hub"): 8 * 97 / up_s}, devices={"a": device(forward / device_s), "hub": device(server_flops_per_s)}, downlink="free")


def server_s(task: Task, speed: float) -> float:
    """What the server computes for one batch, from a run in which nothing else takes time."""
    course = run(line(1e-9, 1e-9, speed), task, SplitFrozen(**FIELDS), 1)
    return course.spent(0)["seconds"] / 3


@pytest.mark.parametrize(("device_s", "up_s", "speed"), [(3.0, 1.0, 1e5), (1.0, 4.0, 1e5), (0.1, 0.2, 1e4), (2.0, 2.0, 5e3)])
def test_the_clock_is_the_flow_shop_recursion(device_s: float, up_s: float, speed: float) -> None:
    task = adapted(["a"], limit=24)
    step_s = server_s(task, speed)
    durations = [[device_s, up_s, step_s]] * 3
    course = run(line(device_s, up_s, speed), task, SplitFrozen(**FIELDS), 2)
    spent = course.spent(0)["seconds"]
    assert spent == pytest.approx(makespan_s(durations), rel=1e-6)
    assert max(3 * device_s, 3 * up_s, 3 * step_s) <= spent * (1 + 1e-9)
    assert spent < 3 * (device_s + up_s + step_s)  # one after another
    # with the cache the second epoch is the server's alone
    assert course.spent(1)["seconds"] == pytest.approx(3 * step_s, rel=1e-6)


def stages(count: int, speed: float = 1e5, link: float = 1e12) -> Network:
    """A server and further places for stages, equally fast; devices and links next to nothing."""
    others = [f"gpu{k}" for k in range(1, count)]
    pairs: dict[tuple[str, str], Any] = {("a", "hub"): 1e12, **{(g, "hub"): link for g in others}}
    pairs |= {(b, a): link for a, b in pairwise(others)}
    devices = {"a": device(1e15), **{g: device(speed) for g in ["hub", *others]}}
    return world(pairs, devices=devices, parents={"a": "hub"}, downlink="free")


def test_stages_are_filled_by_micro_batches_as_the_recursion_says() -> None:
    # three equal layers of 16 over three stages, one per stage; a forward pass of a micro-batch takes p everywhere, backward passes B and W p each,
    # no B at the first stage. Forward passes: (M + 3 - 1) p by the recursion; then, from above, B: M p at the third stage, the second done p later,
    # and W fills what is idle
    base = zoo.mlp(inputs=16, hidden=(16, 16), classes=16, dtype=torch.float64)
    spec = lora(base, rank=2, values=base.initial(0))
    data = make_task(TaskSettings(partition="iid", limit=24), ["a"], 0, model=zoo.mlp(inputs=64, hidden=(8,))).dataset
    cut = {f"x_{part}": getattr(data, f"x_{part}").reshape(-1, 64)[:, :16] for part in ("train", "validation", "test")}
    small = replace(data, **cut)
    task = Task(name="small", dataset=small, model=spec, shards={"a": np.arange(24)})
    seconds = {}
    for count, micro in ((1, 1), (3, 1), (3, 4), (3, 8)):
        method = SplitFrozen(cut=0, stages=count, micro=micro, batch_size=24, lr=0.05, optimizer=SGD())
        course = run(stages(count), task, method, 1)
        seconds[count, micro] = course.spent(0)["seconds"]
        busy = sum(sum(course.sim.sites[n].meter.busy_s.values()) for n in course.sim.sites if n != "a")
        assert course.spent(0)["seconds"] >= busy / count * (1 - 1e-9)
        np.testing.assert_allclose(course.x.numpy(), run(stages(1), task, replace(method, stages=1, micro=1), 1).x.numpy(), rtol=1e-9, atol=1e-12)
    # forward FLOPs of a stage and a row: 2 * (16 * 16 + 2 * 2 * 16); one stage does F of 3 and W of 3 with B inside
    p = 2 * 24 * (256 + 64) / 1e5
    assert seconds[3, 1] > seconds[3, 4] > seconds[3, 8]
    forward = [makespan_s([[p / m] * 3] * m) for m in (1, 4, 8)]
    assert forward == pytest.approx([3 * p, 6 / 4 * p, 10 / 8 * p])
    assert all(seconds[3, m] > f for m, f in zip((1, 4, 8), forward, strict=True))


def test_recursion_by_hand() -> None:
    assert pipe_ends_s([[3, 1, 2]] * 3)[-1].tolist() == [9.0, 10.0, 12.0]


# --- loss, bad input -------------------------------------------------------------------------------------------------------------------------------


def test_who_was_away_is_asked_in_the_next_epoch() -> None:
    course = played(3, plain(churn=away(b=(0.0, 1e-3))))
    who = [sorted(course.states[t]["cache"]["0"]["who"]) for t in (1, 2, 3)]
    assert who[0] == ["a", "c"] and who[-1] == NAMES


def test_nobody_there_keeps_the_model() -> None:
    course = played(1, plain(churn=away(a=(0.0,), b=(0.0,), c=(0.0,))))
    assert torch.equal(course.x, course.states[0]["x"].flat)


def test_bad_input() -> None:
    with pytest.raises(ScenarioError, match=r"SplitFrozen\(cut=3, stages=1\) of .*: allowed is a layer per stage above the cut, of 3"):
        played(1, cut=3)
    with pytest.raises(ScenarioError, match=r"SplitFrozen\(cut=1, stages=2\) of .* a place per stage, of \['hub'\]"):
        played(1, stages=2)
    network = plain()
    places = [replace(p, facts={"cut": 2} if n == "b" else {}) for n, p in network.places.items()]
    with pytest.raises(ScenarioError, match=r"fact 'cut' of 'b': got 2; allowed is an integer from 0 to SplitFrozen\.cut = 1"):
        played(1, Network.of(places, network.links.values()))
    with pytest.raises(ScenarioError, match=r"SplitFrozen\.micro"):
        SplitFrozen(micro=0)
