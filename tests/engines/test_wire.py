"""The codec of real machines: what goes in comes out, and nothing that a stranger writes does harm."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from airloom.engines.wire import DTYPES, MAGIC, Functions, Limits, Wire
from airloom.errors import ScenarioError, Unsupported, WireError
from airloom.methods.fedavg import FedAvg
from airloom.methods.fedopt import FedOpt
from airloom.models import submodel, zoo
from airloom.models.batch import Batch
from airloom.models.lora import base_weights, lora, thaw
from airloom.models.params import Params
from airloom.parts.select import Oort, Uniform
from airloom.program.ref import Ref

SPEC = zoo.mlp(inputs=4, hidden=(6,), classes=3)
METHOD = FedAvg()
WIRE = Wire(METHOD, [SPEC])
ADAPTED = lora(SPEC, rank=2)
PARENT: Any = type(METHOD).client.__module__


def helper(here: Any) -> None:
    """A function that no method is made of."""


class Name(Ref):
    """A Ref as another engine would have it."""

    place = "a"  # type: ignore[assignment]
    started_s = made_s = arrived_s = None  # type: ignore[assignment]

    def __getitem__(self, key: Any) -> Ref:
        return self


def same(a: Any, b: Any) -> bool:
    """Whether two trees are equal in type and to the last bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, Params):
        return a.spec.key == b.spec.key and same(a.flat, b.flat)
    if isinstance(a, torch.Tensor):
        return (
            a.dtype == b.dtype and a.shape == b.shape and a.contiguous().view(torch.uint8).equal(b.contiguous().view(torch.uint8))
            if a.dim()
            else a.equal(b)
        )
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, float | np.floating):
        return a == b or (math.isnan(a) and math.isnan(b))
    return bool(a == b)


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.integers(-9, 9).map(np.int64), st.floats(width=32).map(np.float32)
)
keys = st.one_of(st.text(max_size=5), st.integers(), st.booleans(), st.tuples(st.text(max_size=2), st.integers(0, 3)))
shapes = st.lists(st.integers(0, 4), max_size=3)
tensors = st.builds(
    lambda shape, dtype, seed: torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed)).to(DTYPES[dtype]),
    shapes, st.sampled_from(sorted(DTYPES)), st.integers(0, 99),
)  # fmt: skip
models = st.builds(lambda seed, width: SPEC.initial(seed)[submodel.width(width)], st.integers(0, 5), st.sampled_from([0.5, 1.0]))
arrays = tensors.filter(lambda t: t.dtype != torch.bfloat16).map(lambda t: t.numpy())
frozen = st.sampled_from([Uniform(), Oort(), submodel.width(0.5)])
trees = st.recursive(
    st.one_of(scalars, tensors, arrays, models, frozen),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.lists(inner, max_size=4).map(tuple), st.dictionaries(keys, inner, max_size=4)),
    max_leaves=12,
)


@given(trees)
@settings(max_examples=150, deadline=None)
def test_what_goes_in_comes_out(tree: Any) -> None:
    assert same(WIRE.decode(WIRE.encode(tree)), tree)


def test_a_thawed_model_travels_as_the_model_that_all_places_know() -> None:
    wire = Wire(METHOD, [ADAPTED])
    w = thaw(ADAPTED.initial(0))
    for part in (w, w[submodel.ranks(1)], w[base_weights(w.spec)]):
        assert same(wire.decode(wire.encode(part)), part)
    with pytest.raises(Unsupported, match="which no node holds"):
        WIRE.encode(w)


@given(st.binary(max_size=400))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    for message in (raw, MAGIC + raw, MAGIC + len(raw).to_bytes(4, "little") + raw):
        with pytest.raises(WireError):
            WIRE.decode(message)


json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.sampled_from([*"dltpTasfinrFv", "all", "airloom.models.batch", "Batch", "float32", "0"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(["base", "leaves", "kept", "scale", "width", "flat", "from", "to", "x"]), inner, max_size=5),
        st.tuples(st.sampled_from("dltpTasfinrFv"), inner).map(list),
        st.tuples(st.sampled_from("pnF"), inner, inner).map(list),
        st.tuples(st.just("v"), st.just("airloom.models.batch"), st.just("Batch"), inner).map(list),
    ),
    max_leaves=15,
)


@given(json_values, st.lists(json_values, max_size=2))
@settings(max_examples=300, deadline=None)
def test_any_json_is_read_or_refused(tree: Any, recipes: list[Any]) -> None:
    with contextlib.suppress(WireError):
        WIRE.decode(message_of(tree, recipes))


def message_of(tree: Any, recipes: Any = (), tensors: dict[str, torch.Tensor] | None = None) -> bytes:
    """A message with this JSON, whatever it says."""
    text = json.dumps({"tree": tree, "specs": recipes}).encode()
    return MAGIC + len(text).to_bytes(4, "little") + text + (save(tensors) if tensors else b"")


@given(trees, st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_message_is_read_or_refused(tree: Any, data: st.DataObject) -> None:
    raw = bytearray(WIRE.encode(tree))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        WIRE.decode(bytes(raw[: data.draw(st.integers(0, len(raw)))]))
    except WireError:
        return


def test_one_vector_travels_once_and_arrives_as_one() -> None:
    x = SPEC.initial(0)
    raw = WIRE.encode([x, x, Params(x.spec, x.flat)])
    a, b, c = WIRE.decode(raw)
    assert a.flat is b.flat is c.flat
    assert len(raw) < 2 * x.nbytes + 300
    y, z = WIRE.decode(WIRE.encode([x.flat[:5], x.flat[5:]]))  # two views of one memory are two arrays
    assert torch.equal(torch.cat([y, z]), x.flat[: len(x.flat)])


def test_a_batch_travels() -> None:
    batch = Batch(torch.ones(2, 4), torch.tensor([0, 1]), classes=3)
    found = WIRE.decode(WIRE.encode(batch))
    assert type(found) is Batch and same(found.x, batch.x) and same(found.y, batch.y) and found.classes == 3


def test_functions_travel_by_name_and_owner() -> None:
    other = FedAvg(lr=0.3)
    assert Wire(other, [SPEC]).decode(WIRE.encode(METHOD.client)) == other.client  # the node's own method, with its fields
    name = f"{PARENT}:FedAvg.client"
    assert Functions(METHOD).name_of(METHOD.client) == (name, "")
    part = FedOpt().server
    assert Functions(FedOpt()).name_of(part.step) == ("airloom.parts.optimizer:_Adaptive.step", "server")


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        (f"{PARENT}:FedAvg.round", ""),  # the root's text
        (f"{PARENT}:FedAvg.__init__", ""),
        (f"{PARENT}:FedAvg.nothing", ""),
        (f"{PARENT}:FedAvg.client", "select"),
        (f"{PARENT}:FedAvg.client", None),
        ("airloom.methods.scaffold:Scaffold.client", ""),
        ("os:system", None),
        ("builtins:eval", None),
        ("airloom.program.method:Method.predict", ""),
        (3, ""),
        (f"{PARENT}:FedAvg.client", [1]),
    ],
)
def test_a_function_that_the_node_was_not_started_with_is_refused(name: Any, owner: Any) -> None:
    with pytest.raises(WireError, match="only functions of the method it was started with"):
        WIRE.decode(message_of(["F", name, owner]))


@pytest.mark.parametrize("fn", [helper, FedAvg(lr=0.2).client, len, torch.add])
def test_a_function_that_no_node_knows_does_not_leave(fn: Any) -> None:
    with pytest.raises((Unsupported, ScenarioError)):
        WIRE.encode(fn)


def recipe(**changes: Any) -> dict[str, Any]:
    part = SPEC.initial(0)[submodel.width(0.5)].spec.recipe()
    return json.loads(json.dumps({**part, **changes}))


LEAF = SPEC.leaves[0].name


@pytest.mark.parametrize(
    ("tree", "recipes", "tensors"),
    [
        (["p", 0, "0"], [{"base": SPEC.key}], {"0": torch.zeros(SPEC.size + 1)}),  # length
        (["p", 0, "0"], [{"base": SPEC.key}], {"0": torch.zeros(SPEC.size, dtype=torch.float64)}),  # dtype
        (["p", 0, "0"], [{"base": SPEC.key}], {"0": torch.full((SPEC.size,), math.nan)}),
        (["T", "0"], [], {"0": torch.tensor([1.0, math.inf])}),
        (["T", "1"], [], {"0": torch.zeros(1)}),
        (["T", "0"], [], {"0": torch.zeros(1, dtype=torch.complex64)}),
        (["p", 0, "0"], [{"base": "another"}], {"0": torch.zeros(SPEC.size)}),
        (["p", -1, "0"], [{"base": SPEC.key}], {"0": torch.zeros(SPEC.size)}),
        (["s", 0], [recipe(leaves={LEAF: [{"from": 0, "to": 10**15}, None]})], None),  # would be a very long range
        (["s", 0], [recipe(leaves={LEAF: {"flat": [5, 5]}})], None),
        (["s", 0], [recipe(leaves={LEAF: {"flat": [-1]}})], None),
        (["s", 0], [recipe(leaves={LEAF: [None]})], None),
        (["s", 0], [recipe(leaves={"nothing": "all"})], None),
        (["s", 0], [recipe(scale={"nothing": 1.0})], None),
        (["s", 0], [recipe(width=True)], None),
        (["s", 0], [recipe(kept=[1])], None),
        (["s", 0], [recipe(is_thawed=True)], None),  # a model without pairs
        (["s", 0], [{"base": SPEC.key, "is_thawed": 1}], None),
        (["v", "airloom.parts.select", "Uniform", {"nothing": 1}], [], None),
        (["v", "airloom.engines.wire", "Limits", {}], [], None),
        (["v", "airloom.methods.fedavg", "FedAvg", {}], [], None),
        (["v", "subprocess", "Popen", {"args": "ls"}], [], None),
        (["v", "airloom.models.batch", "Batch", {"x": 1}], [], None),  # a field is missing
        (["n", "float64", "1"], [], None),
        (["n", "object", 1], [], None),
        (["n", "int8", 300], [], None),
        (["d", [[["l", []], 1]]], [], None),
        (["d", [[1]]], [], None),
        (["r", 1], [], None),
        ({"a": 1}, [], None),
        (["l", [1], 2], [], None),
        (["p"], [], None),
        ([], [], None),
        (math.inf, [], None),
    ],
)  # fmt: skip
def test_what_the_model_does_not_allow_is_refused(tree: Any, recipes: Any, tensors: dict[str, torch.Tensor] | None) -> None:
    with pytest.raises(WireError):
        WIRE.decode(message_of(tree, recipes, tensors))


@pytest.mark.parametrize("tree", [object(), {1, 2}, b"bytes", type, zoo.softmax_regression(inputs=4, classes=2).initial(0), SPEC.meta()])
def test_what_has_no_form_does_not_leave(tree: Any) -> None:
    with pytest.raises((Unsupported, WireError)):
        WIRE.encode(tree)


def test_limits_hold_on_both_sides() -> None:
    small = Wire(METHOD, [SPEC], Limits(message_bytes=400, tree_bytes=100, depth=3, tensors=2))
    with pytest.raises(ScenarioError, match="allowed are 100"):
        small.encode("a" * 200)
    with pytest.raises(ScenarioError, match="allowed are 400"):
        small.encode(torch.zeros(200))
    with pytest.raises(Unsupported, match="3 levels"):
        small.encode([[[[[1]]]]])
    for tree, words in (
        (torch.zeros(200), "400"),
        ("a" * 200, "100"),
        ([[[[[1]]]]], "3 levels"),
        ([torch.zeros(1), torch.ones(1), torch.zeros(2)], "arrays"),
    ):
        with pytest.raises(WireError, match=words):
            small.decode(WIRE.encode(tree))
    with pytest.raises(ScenarioError, match=r"Limits\.depth"):
        Limits(depth=0)


def test_a_deep_or_long_message_takes_no_more_than_its_size_allows() -> None:
    tracemalloc.start()
    try:
        deep = b'{"specs":[],"tree":' + b'["l",[' * 200_000
        for text in (deep, b"[" * 1_000_000, b'{"specs":[],"tree":["l",[' + b"[]," * 1_000_000 + b"[]]]}", b"9" * 1_000_000):
            with pytest.raises(WireError):
                WIRE.decode(MAGIC + len(text).to_bytes(4, "little") + text)
        header = json.dumps({"x": {"dtype": "F32", "shape": [1 << 50], "data_offsets": [0, 4]}}).encode()
        with pytest.raises(WireError):
            WIRE.decode(message_of(None) + len(header).to_bytes(8, "little") + header + bytes(4))
        assert tracemalloc.get_traced_memory()[1] < 40 * Limits().tree_bytes
    finally:
        tracemalloc.stop()


def test_refs_travel_where_the_engine_gives_them_names() -> None:
    wire = Wire(METHOD, [SPEC], write_ref=lambda ref: {"place": ref.place}, read_ref=lambda tree: (tree["place"],))  # type: ignore[arg-type,return-value]
    assert wire.decode(wire.encode([Name()])) == [("a",)]
    with pytest.raises(Unsupported):
        WIRE.encode([Name()])


@pytest.mark.slow
def test_a_coverage_guided_fuzzer_finds_no_crash(tmp_path: Any) -> None:
    pytest.importorskip("atheris", reason="atheris is not installed")
    ran = subprocess.run(
        [sys.executable, "benchmarks/fuzz/wire.py", "-max_total_time=20", "-max_len=4096", "-rss_limit_mb=2048", "-timeout=5", str(tmp_path)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
