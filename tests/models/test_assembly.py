"""Models of several modalities and tasks: paths by name, slices that run, losses and teachers per task."""

from __future__ import annotations

from math import log

import pytest
import torch

from airloom.errors import ScenarioError
from airloom.models.assembly import Orthogonal, TaskLosses, assembly, path
from airloom.models.batch import Batch
from airloom.models.submodel import components
from airloom.models.train import forward, grad, loss

PAIRS = (("image", "digit"), ("image", "rebuild"), ("text", "digit"), ("text", "parity"))
SPEC = assembly(inputs={"image": 6, "text": 5}, outputs={"digit": 3, "rebuild": 6, "parity": 2}, pairs=PAIRS, width=4)
LOSSES = TaskLosses(pairs=PAIRS, rebuilds=(("rebuild", 6),))


def rows(*pair: int) -> Batch:
    g = torch.Generator().manual_seed(0)
    n = len(pair)
    x = {"image": torch.randn(n, 6, generator=g), "text": torch.randn(n, 5, generator=g), "pair": torch.tensor(pair)}
    return Batch(x, torch.arange(n) % 2)


def test_a_path_is_what_serves_the_client_and_the_task() -> None:
    assert path(SPEC, ["image"], "rebuild") == ("encoder.image", "expert.image.rebuild", "head.rebuild", "shared")
    assert path(SPEC, ["image", "text"], "digit") == (
        "encoder.image", "encoder.text", "expert.image.digit", "expert.text.digit", "head.digit", "shared",
    )  # fmt: skip


def test_a_slice_of_paths_computes_what_the_whole_model_does_on_its_rows() -> None:
    x, batch = SPEC.initial(0), rows(2, 3, 2)
    part = x[components(*path(SPEC, ["text"], "digit"), *path(SPEC, ["text"], "parity"))]
    # text: encoder 5 x 4 + 4, shared 4 x 4 + 4, two experts of 20, heads of 4 x 3 + 3 and 4 x 2 + 2
    assert len(part) == 24 + 20 + 40 + 15 + 10
    torch.testing.assert_close(forward(part, batch)[:, :3], forward(x, batch)[:, :3])


def test_a_row_gets_its_own_tasks_output() -> None:
    out = forward(SPEC.initial(0), rows(0, 3, 1))
    assert out.shape == (3, 6)  # as long as the longest, the picture
    assert (out[0, 3:] == -1e9).all()
    assert (out[1, 2:] == -1e9).all()
    assert (out[2] > -1e8).all()


def test_losses_are_shares_times_means_and_sum_to_the_mean() -> None:
    x, batch = SPEC.zeros(), rows(0, 0, 0, 3)
    found = LOSSES(forward(x, batch), batch)
    # zeros: the uniform distribution over 3 and over 2 classes; three rows in four, one in four
    assert {o: float(v) for o, v in found.items()} == pytest.approx({"digit": 0.75 * log(3), "rebuild": 0.0, "parity": 0.25 * log(2)})
    assert LOSSES.shares(batch) == {"digit": 0.75, "rebuild": 0.0, "parity": 0.25}
    assert loss(x, batch, objective=LOSSES) == pytest.approx(0.75 * log(3) + 0.25 * log(2))


def test_pictures_are_compared_value_by_value() -> None:
    batch = rows(1, 1)
    found = LOSSES(forward(SPEC.zeros(), batch), batch)["rebuild"]
    assert float(found) == pytest.approx(float(batch.x["image"].square().mean()))  # type: ignore[index]


def test_rows_of_a_task_move_its_path_alone() -> None:
    g, _ = grad(SPEC.initial(0), rows(3, 3), objective=LOSSES)
    on = set(path(SPEC, ["text"], "parity"))
    for name, value in g.named().items():
        component = name.rpartition(".")[0].replace("_", ".")
        assert (float(value.abs().sum()) > 0) == (component in on), name


def test_a_teacher_is_no_different_from_itself_and_pictures_are_no_distribution() -> None:
    x, batch = SPEC.initial(0), rows(0, 1, 2, 3)
    assert loss(x, batch, objective=LOSSES.towards(x)) == pytest.approx(0.0, abs=1e-6)
    only = rows(1)
    moved = x + 0.1
    want = (forward(x, only) - forward(moved, only)).square().mean()
    assert loss(moved, only, objective=LOSSES.towards(x)) == pytest.approx(float(want), rel=1e-5)


def test_squared_cosines_between_groups_by_hand() -> None:
    # rows 0 and 1 of expert 0 at (1, 0) and (3, 4); row 2 of expert 1 at (0, 2); expert 2 has no row; the shared layer makes (5, 0) of all.
    # cos^2: 0 and 1: 0 and 16/25, mean 0.32; 0 and shared: 1 and 9/25, mean 0.68; 1 and shared: 0. Mean of the three: 1/3
    own = [torch.tensor([[1.0, 0.0], [3.0, 4.0], [7.0, 7.0]]), torch.tensor([[9.0, 1.0], [1.0, 1.0], [0.0, 2.0]]), torch.ones(3, 2)]
    shared = torch.tensor([[5.0, 0.0]] * 3)
    batch = Batch({"pair": torch.tensor([0, 0, 1])}, torch.zeros(3, dtype=torch.int64))
    out = (torch.zeros(3, 2), [(k, shared, z) for k, z in enumerate(own)])
    assert float(Orthogonal()(out, batch)) == pytest.approx(1 / 3)
    with pytest.raises(ScenarioError, match="shows no hidden values"):
        Orthogonal()(out[0], batch)


def test_hidden_values_are_shown_while_it_trains_and_change_nothing_else() -> None:
    spec = assembly(inputs={"image": 6, "text": 5}, outputs={"digit": 3, "rebuild": 6, "parity": 2}, pairs=PAIRS, width=4, shows_hidden=True)
    x, batch = spec.initial(0), rows(0, 3, 1)
    assert torch.equal(forward(x, batch), forward(SPEC.initial(0), batch))
    assert torch.equal(grad(x, batch, objective=LOSSES)[0].flat, grad(SPEC.initial(0), batch, objective=LOSSES)[0].flat)
    for objective in (LOSSES.towards(x), Orthogonal()):
        assert grad(x + 0.1, batch, objective=objective)[0].norm() > 0.0


def test_bad_input() -> None:
    with pytest.raises(ScenarioError, match=r"assembly\(pairs\): got \('sound', 'digit'\); allowed: a modality of"):
        assembly(inputs={"image": 6}, outputs={"digit": 3}, pairs=[("sound", "digit")])
    with pytest.raises(ScenarioError, match="names without"):
        assembly(inputs={"a_b": 6}, outputs={"digit": 3}, pairs=[("a_b", "digit")])
    with pytest.raises(ScenarioError, match="allowed: a dict of modalities"):
        LOSSES.shares(Batch(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64)))
