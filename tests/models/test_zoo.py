"""The shipped models: parameter counts, shapes, width slices, causality."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from airloom.errors import ScenarioError
from airloom.models import zoo
from airloom.models.module import ModelSpec
from airloom.models.submodel import width
from airloom.models.train import forward

COUNTS = [
    (zoo.softmax_regression(), 10 * 785),
    (zoo.mlp(), 785 * 128 + 129 * 10),
    (zoo.mlp(hidden=(64, 32)), 785 * 64 + 65 * 32 + 33 * 10),
    (zoo.mlp(hidden=()), 7850),
    (zoo.cnn(), 9 * 32 + 64 + 9 * 32 * 64 + 128 + (64 * 49 + 1) * 128 + 129 * 10),
    (zoo.resnet18(), 11_173_962),
    (zoo.lstm(), 80 * 8 + 4 * 256 * (8 + 256 + 1) + 4 * 256 * (256 + 256 + 1) + 257 * 80),
    (zoo.transformer(), (80 + 64) * 64 + 2 * (12 * 64**2 + 13 * 64) + 2 * 64 + 65 * 80),
]


@pytest.mark.parametrize(("spec", "count"), COUNTS, ids=lambda v: getattr(v, "name", ""))
def test_parameter_counts(spec: ModelSpec, count: int) -> None:
    assert spec.size == spec.trainable_size == count


def test_counts_in_the_docstrings() -> None:
    for make in (zoo.softmax_regression, zoo.mlp, zoo.cnn, zoo.resnet18, zoo.lstm, zoo.transformer):
        assert f"{make().size:,}" in (make.__doc__ or "")


def test_shapes_of_outputs() -> None:
    images, ids = torch.zeros(2, 3, 16, 16), torch.zeros(2, 9, dtype=torch.long)
    assert forward(zoo.softmax_regression(inputs=768).initial(0), images).shape == (2, 10)
    assert forward(zoo.cnn(channels=3, size=16, classes=4).initial(0), images).shape == (2, 4)
    assert forward(zoo.resnet18(width=8).initial(0), images).shape == (2, 10)
    assert forward(zoo.lstm(hidden=(6,)).initial(0), ids).shape == (2, 9, 80)
    assert forward(zoo.transformer(width=8, blocks=1).initial(0), ids).shape == (2, 9, 80)


def test_resnet_shrinks_with_the_square_of_the_width_inside() -> None:
    spec = zoo.resnet18(width=16)
    half = {leaf.name: leaf.shape for leaf in spec.slice(width(0.5)).leaves}
    for leaf in spec.leaves:
        if "conv" in leaf.name and not leaf.name.startswith("stem"):
            assert half[leaf.name][:2] == tuple(n // 2 for n in leaf.shape[:2])
    assert half["stem.conv.weight"] == (8, 3, 3, 3) and half["out.weight"] == (10, 64) and half["out.bias"] == (10,)
    assert forward(spec.initial(0)[width(1 / 16)], torch.zeros(2, 3, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("spec", [zoo.lstm(vocabulary=7, hidden=(6, 5)), zoo.transformer(vocabulary=7, width=8, heads=2, blocks=2)])
def test_a_character_sees_none_after_it(spec: ModelSpec) -> None:
    x = spec.initial(0) * 3
    a = torch.tensor([[1, 2, 3, 4, 5, 6]])
    b = torch.tensor([[1, 2, 3, 6, 5, 4]])
    torch.testing.assert_close(forward(x, a)[:, :3], forward(x, b)[:, :3])
    assert (forward(x, a)[:, 3] - forward(x, b)[:, 3]).abs().max() > 1e-4


def test_lstm_is_that_of_torch() -> None:
    spec = zoo.lstm(vocabulary=7, embed=3, hidden=(4,), dtype=torch.float64)
    p = spec.initial(0).named()
    theirs = nn.LSTM(3, 4, batch_first=True, dtype=torch.float64)
    at = torch.cat([torch.arange(0, 8), torch.arange(12, 16), torch.arange(8, 12)])  # torch stacks input, forget, candidate, output
    theirs.load_state_dict(
        {
            "weight_ih_l0": p["lstm1.from_input"][at],
            "weight_hh_l0": p["lstm1.from_hidden"][at],
            "bias_ih_l0": p["lstm1.bias"][at],
            "bias_hh_l0": torch.zeros(16),
        }
    )
    ids = torch.tensor([[1, 2, 3, 4], [6, 5, 0, 1]])
    want, _ = theirs(p["embed.token.weight"][ids])
    torch.testing.assert_close(forward(spec.initial(0), ids, until="lstm1"), want.detach())


def test_dropout_is_an_option() -> None:
    kinds = [type(m).__name__ for m in zoo.mlp(hidden=(4, 4), dropout=0.5).module().modules()]
    assert kinds.count("Dropout") == 2 and "Dropout" not in [type(m).__name__ for m in zoo.mlp().module().modules()]
    assert forward(zoo.transformer(width=8, blocks=1, dropout=0.5).initial(0), torch.zeros(1, 3, dtype=torch.long)).shape == (1, 3, 80)


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(ScenarioError, match="4 pixels"):
        zoo.cnn(size=3)
    with pytest.raises(ScenarioError, match="heads divide"):
        zoo.transformer(width=10, heads=4)
