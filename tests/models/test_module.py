"""Specs of any nn.Module: leaves, keys, initial values, skeletons."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from airloom.errors import ScenarioError
from airloom.models import zoo
from airloom.models.batch import Batches
from airloom.models.lora import lora
from airloom.models.module import ModelSpec, model
from airloom.models.objective import MeanSquaredError
from airloom.models.submodel import Axis, components, layers, ranks, width
from airloom.models.train import forward, grad, train


class Tied(nn.Module):
    """Embedding and output share their weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.out = nn.Linear(3, 5, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(self.embed(ids))


class Everything(nn.Module):
    """Trainable and frozen parameters, persistent, non-persistent and integer buffers."""

    table: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.frozen = nn.Parameter(torch.rand(4), requires_grad=False)
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("table", torch.arange(4.0), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x * self.scale + self.frozen + self.table)


def test_the_vector_holds_trainable_parameters_then_float_buffers() -> None:
    spec = model(Everything)
    assert [(leaf.name, leaf.is_buffer) for leaf in spec.leaves] == [
        ("scale", False),
        ("norm.weight", False),
        ("norm.bias", False),
        ("norm.running_mean", True),
        ("norm.running_var", True),
    ]
    assert (spec.size, spec.trainable_size, spec.nbytes, spec.frozen_bytes) == (17, 9, 68, 16)
    assert spec.initial(0).named()["norm.running_var"].tolist() == [1.0] * 4
    assert "norm" in spec and "frozen" not in spec and repr(spec).startswith("Everything[17]#")


def test_frozen_values_come_from_seed_0_whatever_the_initial_seed() -> None:
    spec = model(Everything)
    x = torch.zeros(2, 4)
    assert torch.equal(forward(spec.initial(0), x), forward(spec.initial(7), x))


def test_running_statistics_move_in_training_and_integer_buffers_start_anew() -> None:
    spec = model(Everything)
    x = spec.initial(0)
    data = Batches(torch.randn(3, 8, 4, generator=torch.Generator().manual_seed(0)) + 5, torch.zeros(3, 8, 4))
    first, _ = train(x, data, lr=0.1, objective=MeanSquaredError())
    again, _ = train(x, data, lr=0.1, objective=MeanSquaredError())
    assert first.digest() == again.digest() and (first.named()["norm.running_mean"] > 1).all()
    g, _ = grad(x, data[0], objective=MeanSquaredError())
    assert g.flat[spec.trainable_size :].abs().max() == 0
    assert torch.equal(x.flat, spec.initial(0).flat)


def test_tied_weights_are_one_leaf_and_stay_tied_in_every_slice() -> None:
    spec = model(Tied, axes={"embed.weight": (None, "embed")})
    assert [leaf.name for leaf in spec.leaves] == ["embed.weight"] and spec.size == 15
    x = spec.initial(0)
    w = x.named()["embed.weight"]
    ids = torch.tensor([0, 3])
    torch.testing.assert_close(forward(x, ids), w[ids] @ w.T)
    half = x[width(0.5)].named()["embed.weight"]
    torch.testing.assert_close(forward(x[width(0.5)], ids), half[ids] @ half.T)


def test_initial_values_depend_on_the_seed_alone() -> None:
    spec = zoo.mlp(inputs=3, hidden=(4,), classes=2)
    torch.manual_seed(1)
    a = spec.initial(5)
    before = torch.get_rng_state()
    b = spec.initial(5)
    assert torch.equal(before, torch.get_rng_state())  # the global stream is left alone
    assert a.digest() == b.digest() != spec.initial(6).digest() and spec.initial(2**63 + 5).digest() == a.digest()
    torch.manual_seed(5)
    plain = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    assert torch.equal(a.flat, torch.cat([p.detach().flatten() for p in plain.parameters()]))


def test_slices_of_initial_values() -> None:
    spec = zoo.mlp(inputs=3, hidden=(4,), classes=2)
    assert spec.slice(width(0.5)).initial(3).digest() == spec.initial(3)[width(0.5)].digest()


PROBE = """
import torch
from airloom.models import zoo
from airloom.models.lora import lora
from airloom.models.submodel import width, ranks, rows
from airloom.models.batch import Batches
from airloom.models.train import train
spec = zoo.cnn(size=8, widths=(4, 8), hidden=6)
small = spec.slice(width(0.5) & rows("out", [1, 2]))
adapters = lora(zoo.transformer(vocabulary=7, width=8, heads=2, blocks=1, context=5), rank=4)
x = small.initial(3)
g = torch.Generator().manual_seed(0)
new, log = train(x, Batches(torch.randn(3, 4, 1, 8, 8, generator=g), torch.randint(0, 2, (3, 4), generator=g)), lr=0.1)
print(spec.key, spec.form, small.key, small.form, adapters.key, adapters.slice(ranks([2, 0], 2.0)).key, x.digest(), new.digest(), log.loss)
"""


def test_keys_values_and_training_are_the_same_in_other_processes(capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(__file__).resolve().parents[2]
    env = {"PYTHONPATH": str(root), "PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1"}
    there = subprocess.run([sys.executable, "-c", PROBE], env=env, cwd=root, capture_output=True, text=True, check=True).stdout
    exec(PROBE, {})
    assert capsys.readouterr().out == there


def test_keys_differ_with_structure_settings_code_dtype_and_frozen_values() -> None:
    class Net(nn.Module):
        def __init__(self, slope: float) -> None:
            super().__init__()
            self.slope = slope
            self.linear = nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.leaky_relu(self.linear(x), self.slope)

    specs = [
        model(lambda: Net(0.1)),
        model(lambda: Net(0.2)),
        model(lambda: nn.Linear(2, 2)),
        model(lambda: nn.Sequential(nn.Linear(2, 2), nn.ReLU())),
        model(lambda: nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1))),
        model(lambda: nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.2))),
        model(lambda: nn.Linear(2, 2), dtype=torch.float64),
        model(lambda: nn.Linear(2, 2), axes={"bias": ("a",)}),
        model(Everything),
        lora(zoo.mlp(inputs=2, hidden=(3,), classes=2), rank=1, seed=0),
        lora(zoo.mlp(inputs=2, hidden=(3,), classes=2), rank=1, seed=1),
    ]
    assert len({s.key for s in specs}) == len(specs)
    assert model(lambda: Net(0.1)) == specs[0] and model(Everything) == specs[8]


def test_slices_of_equal_shape_share_a_form_and_a_skeleton_but_not_a_key() -> None:
    spec = lora(zoo.mlp(inputs=4, hidden=(6,), classes=3), rank=4)
    a, b = spec.slice(ranks([0, 1])), spec.slice(ranks([1, 3]))
    assert a.form == b.form and a.key != b.key and a != b
    with a.skeleton("cpu") as first:
        pass
    with b.skeleton("cpu") as second:
        assert second is first
        with b.skeleton("cpu") as nested:  # in use: another copy
            assert nested is not first
    assert spec.slice(ranks([1, 3])) is b  # resolved once


def test_skeleton_parameters_and_gradients_are_views_into_flat_vectors() -> None:
    spec = zoo.cnn(channels=2, size=8, widths=(4,), hidden=5)
    x = spec.initial(0)
    with spec.skeleton("cpu") as skeleton:
        skeleton.load(x.flat)
        for name, p in skeleton.parameters.items():
            assert torch.equal(p, x.named()[name]) and p.grad is not None
            assert p.untyped_storage().data_ptr() == skeleton.values.untyped_storage().data_ptr()
            assert p.grad.untyped_storage().data_ptr() == skeleton.gradient.untyped_storage().data_ptr()
        assert torch.equal(skeleton.restored(), x.flat) and not torch.equal(skeleton.values, x.flat)  # convolutions lie channels last
        assert torch.equal(skeleton.arranged(x.flat), skeleton.values)
        weight = skeleton.parameters["block1.conv.weight"]
        assert weight.is_contiguous(memory_format=torch.channels_last)


def test_frozen_tensors_are_shared_by_all_skeletons() -> None:
    spec = lora(zoo.mlp(inputs=4, hidden=(6,), classes=3), rank=2)
    with spec.skeleton("cpu") as a, spec.skeleton("cpu") as b:
        frozen = [dict(s.module.named_parameters())["hidden1.weight"] for s in (a, b)]
        assert frozen[0] is frozen[1] and not frozen[0].requires_grad


def test_group_norm_keeps_a_divisor_of_its_groups_in_slices() -> None:
    spec = zoo.cnn(size=8, widths=(12,), hidden=4, groups=4)
    module = spec.slice(width(0.5)).module()
    assert module.get_submodule("block1.norm").num_groups == 2  # gcd(4, 6)


def test_standard_layers_say_what_their_slices_are() -> None:
    def build() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4), nn.Flatten(2), nn.LSTM(4, 6, batch_first=True)
        )

    names = {"0.weight": ("c", None, None, None), "0.bias": ("c",), "1.weight": ("c", None, None, None), "1.bias": ("c",)}
    names |= {f"2.{n}": ("c",) for n in ("weight", "bias", "running_mean", "running_var")}
    names |= {f"4.weight_{n}_l0": (("h", 4, 1), "c" if n == "ih" else "h") for n in ("ih", "hh")} | {
        f"4.bias_{n}_l0": (("h", 4, 1),) for n in ("ih", "hh")
    }
    spec = model(build, axes=names)
    module = spec.slice(width(0.5)).module()
    assert module[1].groups == module[1].in_channels == 2 and module[2].num_features == 2  # type: ignore[index]
    lstm = module[4]  # type: ignore[index]
    assert (lstm.input_size, lstm.hidden_size) == (2, 3)
    out, _ = lstm(torch.zeros(1, 5, 2))
    assert out.shape == (1, 5, 3)
    x = spec.initial(0)
    assert (x | x[width(0.5)]).digest() == x.digest()
    assert forward(x[width(0.5)][layers(0, 3)], torch.zeros(1, 2, 6, 6)).shape == (1, 2, 16)


def test_declared_components_and_leaf_paths() -> None:
    spec = model(lambda: nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 3), nn.Linear(3, 1)), components={"body": ["0", "2"]})
    assert spec.components == {"0": ("0",), "2": ("2",), "3": ("3",), "body": ("0", "2")} and spec.layers == ("0", "2", "3")
    assert [leaf.name for leaf in spec.slice(components("body")).leaves] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert isinstance(spec.slice(components("body")).module()[1], nn.ReLU)  # type: ignore[index]


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: model(lambda: 3), "an nn.Module"),  # type: ignore[arg-type, return-value]
        (lambda: model(lambda: nn.Linear(2, 2), axes={"weigth": (None, None)}), "unknown leaves"),
        (lambda: model(lambda: nn.Linear(2, 2), axes={"weight": (None,)}), "one per dimension"),
        (lambda: model(lambda: nn.Linear(2, 3), axes={"weight": ("a", "a")}), "one length per name"),
        (lambda: model(lambda: nn.Linear(2, 3), axes={"weight": (Axis("a", 2), None)}), "one length per name"),
        (lambda: model(lambda: nn.Linear(2, 3), components={"x": ["nothing"]}), "module paths"),
        (lambda: zoo.mlp().rank, "LoRA pairs"),
    ],
)
def test_bad_models_are_refused(make: object, what: str) -> None:
    with pytest.raises(ScenarioError, match=what):
        make()  # type: ignore[operator]


def test_a_recipe_of_a_whole_model_is_its_key() -> None:
    spec = zoo.mlp()
    assert ModelSpec.from_recipe(spec.recipe(), {spec.key: spec}) is spec
