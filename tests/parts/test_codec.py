"""Codecs: what they keep, what they weigh, that chance is fair, and what a client and a server make of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from airloom.engines.simnode import SimNode
from airloom.errors import ScenarioError, Unsupported
from airloom.methods.fedavg import FedAvg
from airloom.methods.fedopt import FedOpt
from airloom.methods.local_only import LocalOnly
from airloom.methods.sequential_fl import SequentialFL
from airloom.models.params import Params
from airloom.network.cell import Cell
from airloom.parts.codec import CODECS, QSGD, Half, RandomK, TopK, codec
from airloom.program.codec import Codec
from airloom.program.here import Here
from airloom.program.method import Method, State
from airloom.program.reducer import air_sum
from airloom.runner import Options, Runner, describe_method
from airloom.scenarios.scenario import Scenario
from tests.methods.hand import star, targets
from tests.methods.quadratic import least_squares, random_rows, run
from tests.worlds import play, task_for, world

EVERY: list[Codec] = [
    Half(), Half(form="bfloat16"), QSGD(bits=8), QSGD(bits=2, bucket=7), QSGD(bits=5, norm="max"), TopK(share=0.1), TopK(share=0.3, feedback=False),
    RandomK(share=0.1), RandomK(share=0.5, feedback=False),
]  # fmt: skip


def there_and_back(c: Codec, u: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return c.decode(c.encode(u, np.random.default_rng(seed)), len(u), u.dtype)


# --- vectors -----------------------------------------------------------------------------------------------------------------------------


@given(n=st.integers(1, 700), which=st.integers(0, len(EVERY) - 1), double=st.booleans(), seed=st.integers(0, 9))
@settings(max_examples=120, deadline=None)
def test_what_is_said_to_be_sent_is_sent(n: int, which: int, double: bool, seed: int) -> None:
    c = EVERY[which]
    u = torch.from_numpy(np.random.default_rng(seed).normal(size=n)).to(torch.float64 if double else torch.float32)
    payload = c.encode(u, np.random.default_rng(seed))
    assert sum(t.numel() * t.element_size() for t in payload.values()) == c.size_bytes(n, u.element_size())
    back = c.decode(payload, n, u.dtype)
    assert (back.shape, back.dtype) == (u.shape, u.dtype)
    assert bool(torch.isfinite(back).all())


def test_half_rounds_and_cuts() -> None:
    # 11 bits of precision: 1 + 2^-11 is half way to the next value and goes to the even one; 1e6 is beyond the range
    u = torch.tensor([0.5, 1.0 + 2.0**-11, -1e6])
    assert there_and_back(Half(), u).tolist() == [0.5, 1.0, -65504.0]
    assert there_and_back(Half(form="bfloat16"), u).tolist() == [0.5, 1.0, -999424.0]  # 8 bits: 1e6 = 122.07 * 2^13, rounded to 122 * 2^13


def test_levels_by_hand() -> None:
    # 3 bits: s = 3 levels. |u| = 5: 3/5 * 3 = 1.8 becomes 1 or 2 (5/3 or 10/3), -4/5 * 3 = -2.4 becomes -2 or -3 (-10/3 or -5), 0 stays
    u = torch.tensor([3.0, -4.0, 0.0])
    seen = torch.stack([there_and_back(QSGD(bits=3), u, seed) for seed in range(40)])
    for column, allowed in zip(seen.T, ([5 / 3, 10 / 3], [-5.0, -10 / 3], [0.0]), strict=True):
        assert sorted({round(v, 5) for v in column.tolist()}) == sorted(round(v, 5) for v in allowed)


@pytest.mark.parametrize("c", [QSGD(bits=3), QSGD(bits=2, bucket=16), QSGD(bits=3, norm="max"), RandomK(share=0.25, feedback=False)], ids=str)
def test_chance_is_fair_and_no_larger_than_the_paper_says(c: Codec) -> None:
    u = torch.from_numpy(np.random.default_rng(0).normal(size=40))
    seen = torch.stack([there_and_back(c, u, seed) for seed in range(3000)])
    spread = seen.std(0) / np.sqrt(len(seen))
    assert bool(((seen.mean(0) - u).abs() < 4.5 * spread + 1e-6).all())  # 160 comparisons
    error = float((seen - u).square().sum(1).mean())
    assert error > 0
    if isinstance(c, QSGD) and c.norm == "l2":
        s, bucket = 2 ** (c.bits - 1) - 1, min(c.bucket, 40)
        assert error <= min(bucket / s**2, np.sqrt(bucket) / s) * float(u.square().sum())  # Lemma 3.1, bucket by bucket
    if isinstance(c, RandomK):  # (n / k - 1) |u|^2 = 3 |u|^2
        assert error == pytest.approx(3 * float(u.square().sum()), rel=0.05)


def test_zeros_stay_zeros() -> None:
    for c in EVERY:
        assert there_and_back(c, torch.zeros(20)).tolist() == [0.0] * 20


def test_the_largest_values_are_kept() -> None:
    u = torch.tensor([0.1, -5.0, 0.2, 3.0, -0.3])
    assert there_and_back(TopK(share=0.4), u).tolist() == pytest.approx([0.0, -5.0, 0.0, 3.0, 0.0])
    assert len(there_and_back(TopK(share=0.01), u).nonzero()) == 1  # at least one


def test_random_places_are_others_each_time() -> None:
    u = torch.ones(100)
    first, again, other = (there_and_back(RandomK(share=0.1), u, seed) for seed in (0, 0, 1))
    assert int(first.sum()) == 10
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# --- on the wire -------------------------------------------------------------------------------------------------------------------------

STEP: dict[str, Any] = {"local_steps": 1, "lr": 1.0, "batch_size": 4, "weights": "equal"}
THREE = targets({"a": (1, 3.0)})


class OneOfTwo(Method):
    """Sends an update of two values; a call that keeps another one."""

    def init(self, node: Any, x: Params) -> State:
        return {"x": x, "got": []}

    def round(self, node: Any, s: State) -> State:
        ref = node.call(self.client, "a", s["x"])
        got = node.fetch(ref)
        kept = node.fetch(node.call(self.size, "a", ref))
        return {"x": s["x"], "got": [*s["got"], (got.flat.tolist(), kept)]}

    def client(self, here: Here, x: Params) -> Params:
        here.cost(seconds=1.0)
        return x if x.is_meta else Params(x.spec, torch.tensor([3.0, 2.0], dtype=torch.float64))

    def size(self, here: Here, v: Params) -> float:
        here.cost(seconds=0.0)
        return float(v.flat.sum())


def two_values() -> Any:
    return least_squares({"a": (np.eye(2), np.zeros(2))})


def test_error_feedback_by_hand() -> None:
    # k = 1 of 2. The update is (3, 2) each round, against a model of zeros.
    # e = (0, 0): (3, 0) goes, e = (0, 2).   (3, 4): (0, 4) goes, e = (3, 0).   (6, 2): (6, 0) goes, e = (0, 2)
    course = run(star({"a": 1.0}), two_values(), OneOfTwo(codec=TopK(share=0.5)), 3, start=[0.0, 0.0])
    assert [got for got, _ in course.states[-1]["got"]] == [[3.0, 0.0], [0.0, 4.0], [6.0, 0.0]]
    assert course.state("a", "codec/client/memory").tolist() == [0.0, 2.0]
    # without it the first value goes each time
    course = run(star({"a": 1.0}), two_values(), OneOfTwo(codec=TopK(share=0.5, feedback=False)), 3, start=[0.0, 0.0])
    assert [got for got, _ in course.states[-1]["got"]] == [[3.0, 0.0]] * 3


def test_a_value_that_stays_is_exact() -> None:
    course = run(star({"a": 1.0}), two_values(), OneOfTwo(codec=TopK(share=0.5)), 2, start=[0.0, 0.0])
    assert [kept for _, kept in course.states[-1]["got"]] == [5.0, 5.0]  # 3 + 2, at the device


def test_models_go_as_differences_and_updates_as_they_are() -> None:
    # from w = 7 a step of FedAvg ends at the target 3: the model is coded as 3 - 7. FedOpt sends the update -4, which is shorter than -4 - 7
    for method in (FedAvg(**STEP, codec=QSGD(bits=2)), FedOpt(server=_sgd(), **STEP, codec=QSGD(bits=2))):
        course = run(star({"a": 1.0}), THREE, method, 1, start=[7.0])
        assert course.x.item() == pytest.approx(3.0)  # one value is its own norm: exact


def _sgd() -> Any:
    from airloom.parts.optimizer import ServerSGD

    return ServerSGD()


def test_bytes_seconds_and_energy_follow() -> None:
    # d = 3 values of 8 bytes, 8 byte/s: plain 24 bytes and a loss of 8; topk 1 place and value and a flag of 1: 4 + 8 + 1 and 8
    task = least_squares(random_rows(["a"]))
    fields: dict[str, Any] = {**STEP, "lr": 0.1}
    plain, coded = (run(star({"a": 1e9}, rate=8.0), task, FedAvg(**fields, codec=c), 2, start=[1.0, 2.0, 3.0]) for c in (None, TopK(share=0.3)))
    assert [c.spent(1)["bytes_up"] for c in (plain, coded)] == [24 + 8, 13 + 8]
    assert [c.spent(1)["bytes_down"] for c in (plain, coded)] == [24, 24]
    assert coded.spent(1)["seconds"] == pytest.approx(plain.spent(1)["seconds"] - 11 / 8)


def test_what_is_estimated_is_what_is_sent() -> None:
    network = star({"a": 1e9}, rate=8.0)
    method = FedAvg(**STEP, codec=Half())

    def text(node: SimNode) -> float:
        return node.estimate(method.client, "a", node.sim.task.model.zeros()).bytes_up

    # three halves, the flag of the code, and the loss beside the model, a number of 8 bytes
    assert play(network, text, task=least_squares(random_rows(["a"]))).value == 2 * 3 + 1 + 8


@pytest.mark.parametrize("c", [Half(), QSGD(bits=4), TopK(share=0.4), RandomK(share=0.4)], ids=str)
def test_rounds_still_find_the_optimum(c: Codec) -> None:
    # one client, full gradients: differences shrink to nothing, and so do the errors of all four
    rows = random_rows(["a"], d=5, n=8)
    A, b = rows["a"]
    best = np.linalg.lstsq(A, b, rcond=None)[0]
    fields: dict[str, Any] = {"local_steps": 2, "lr": 0.3, "batch_size": 8}
    course = run(star({"a": 1e9}), least_squares(rows), FedAvg(**fields, codec=c), 150, start=[0.0] * 5)
    assert np.abs(course.x.numpy() - best).max() < 0.02 * np.abs(best).max()


@pytest.mark.parametrize("c", [QSGD(bits=4), TopK(share=0.1)], ids=str)
def test_loop_and_pool_agree_and_a_checkpoint_goes_on(c: Codec, tmp_path: Any) -> None:
    from airloom.records import checkpoint

    network = world({("a", "hub"): 1e4, ("b", "hub"): 1e4})
    task = task_for(network)
    scenario = Scenario(name="two", network=network, task=task)
    method = FedAvg(local_steps=2, codec=c)

    def go(executor: str, rounds: int, out: Any = None, frozen: Any = None) -> Any:
        options = Options(budget={"rounds": rounds}, executor=executor, workers=2, checkpoint_every_s=0.0 if out else None)
        return Runner(scenario, method, 0, options, out, {"method": "fedavg"}, None).run(frozen)

    whole = go("loop", 4)
    assert go("pool", 4).summary["digest"] == whole.summary["digest"]
    go("loop", 2, tmp_path / "half")
    rest = go("loop", 4, frozen=checkpoint.load(tmp_path / "half" / "checkpoint.safetensors"))
    assert rest.summary["digest"] == whole.summary["digest"]


def test_personal_models_that_are_never_sent_stay_exact() -> None:
    fields: dict[str, Any] = {"local_steps": 2, "lr": 0.3, "batch_size": 4}
    task = least_squares(random_rows(["a"]))
    plain, coded = (run(star({"a": 1e9}), task, LocalOnly(**fields, codec=c), 2, start=[0.0] * 3) for c in (None, TopK(share=0.3)))
    mine, theirs = (c.sim.numerics.value(c.states[-1]["own"]["a"]).flat for c in (coded, plain))
    assert torch.equal(mine, theirs)
    assert float(theirs.abs().sum()) > 0


def test_a_chain_passes_codes_that_need_no_reference() -> None:
    # 8 bytes of a value become 2 and a flag on each of the four hops up and down over the hub, but for the first call's model
    course = run(star({"a": 1.0, "b": 1.0}), targets({"a": (1, 3.0), "b": (1, 5.0)}), SequentialFL(local_steps=1, codec=Half()), 1, start=[1.0])
    plain = run(star({"a": 1.0, "b": 1.0}), targets({"a": (1, 3.0), "b": (1, 5.0)}), SequentialFL(local_steps=1), 1, start=[1.0])
    assert course.stamps[-1]["bytes_up"] == pytest.approx(plain.stamps[-1]["bytes_up"] * 3 / 8)
    assert course.x.item() == pytest.approx(plain.x.item(), rel=1e-3)


class Across(Method):
    """Hands a value from client to client, in a star."""

    def init(self, node: Any, x: Params) -> State:
        return {"x": x}

    def round(self, node: Any, s: State) -> State:
        return {"x": node.fetch(node.call(self.client, "b", node.call(self.client, "a", s["x"])))}

    def client(self, here: Here, x: Params) -> Params:
        here.cost(seconds=1.0)
        return x


def test_codes_are_refused_where_nobody_could_read_them() -> None:
    two = targets({"a": (1, 3.0), "b": (1, 5.0)})
    with pytest.raises(Unsupported, match=r"at 'b': got a value of 'a' that is encoded by Half.*fetch it and send it on, or use codec=none"):
        run(star({"a": 1.0, "b": 1.0}), two, Across(codec=Half()), 1, start=[1.0])
    cell = world({("a", "hub"): Cell(name="cell", bandwidth_hz=1.0, sharing="tdma")})
    method = OneOfTwo(codec=Half())

    def text(node: SimNode) -> Any:
        return node.reduce([node.call(method.client, "a", node.sim.task.model.zeros())], over=air_sum(0.0))

    with pytest.raises(Unsupported, match="adds values up, not codes; use codec=none"):
        play(cell, text, task=two_values())


# --- names -------------------------------------------------------------------------------------------------------------------------------


def test_every_method_has_the_field_and_records_name_it_only_where_it_is_used() -> None:
    assert "codec" not in describe_method(FedAvg())["fields"]
    assert describe_method(FedAvg(codec=Half()))["fields"]["codec"] == "Half(form='float16')"


def test_names() -> None:
    assert {name: type(codec(text)) for name, text in (("half", "half"), ("qsgd", "qsgd"), ("topk", "topk"), ("randk", "randk"))} == CODECS
    with pytest.raises(ScenarioError, match="codec='zip': unknown; allowed: half, qsgd, randk, topk"):
        codec("zip")
    for bad in ("qsgd(bits=1)", "topk(share=0.0)", "randk(share=1.5)", "qsgd(bucket=0)"):
        with pytest.raises(ScenarioError, match=r"got .* allowed is"):
            codec(bad)
