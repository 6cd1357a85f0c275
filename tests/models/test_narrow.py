"""Compiled products with a narrow factor: against float64 on odd sizes, which products are taken, and whole steps of adapters."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from airloom.errors import ScenarioError
from airloom.models import narrow
from airloom.models.batch import Batches
from airloom.models.dense import NoKernel
from airloom.models.fast import Fast
from airloom.models.lora import lora
from airloom.models.module import model
from airloom.models.train import train


def has_library() -> bool:
    try:
        return narrow.library() is not None
    except NoKernel:
        return False


needs_library = pytest.mark.skipif(not has_library(), reason="this machine has no C compiler, or its processor has no AVX-512")
ROUNDING = 64 * float(torch.finfo(torch.float32).eps)  # of sums of some hundred terms of size one, which grow as the square root of their number


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gap(got: Tensor, want: Tensor) -> float:
    return float((got - want).abs().max() / want.abs().max())


@needs_library
@pytest.mark.parametrize("long", [1, 2, 3, 7, 8, 64, 193, 400])
@pytest.mark.parametrize("wide", [16, 32, 48, 128])
@pytest.mark.parametrize("columns", [3, 4, 5, 8])
def test_the_forms_agree_with_float64(long: int, wide: int, columns: int) -> None:
    a, b, c, bias = drawn(long, wide), drawn(wide, columns), drawn(long, columns), drawn(wide)
    assert gap(narrow.rows(a, b), a.double() @ b.double()) < ROUNDING
    assert torch.equal(narrow.rows(a, b.t().contiguous().t()), narrow.rows(a, b))  # however the narrow factor lies
    assert gap(narrow.columns(a.t(), c), a.double().t() @ c.double()) < ROUNDING
    out = torch.full((wide, columns), torch.nan)
    assert narrow.columns(a.t(), c, out=out) is out
    assert torch.equal(out, narrow.columns(a.t(), c))
    assert gap(narrow.sums(c, b.t(), bias, 0.5), bias.double() + 0.5 * c.double() @ b.double().t()) < ROUNDING
    wider = drawn(long, wide + 5)[:, :wide]  # rows with a gap between them
    assert torch.equal(narrow.rows(wider, b), narrow.rows(wider.contiguous(), b))


def test_products_that_stay_with_torch() -> None:
    a, b = torch.empty(512, 128), torch.empty(128, 8)
    assert narrow.form(a, b) == "rows"
    assert narrow.form(a, torch.empty(8, 128).t()) == "rows"
    assert narrow.form(a.t(), torch.empty(512, 8)) == "columns"
    assert narrow.form(a, torch.empty(128, 9)) is None  # torch is as fast
    assert narrow.form(a, torch.empty(128, 2)) is None
    assert narrow.form(torch.empty(8, 128), b) is None  # too small
    assert narrow.form(torch.empty(512, 120), torch.empty(120, 8)) is None  # no whole vectors
    assert narrow.form(torch.empty(512, 8192), torch.empty(8192, 8)) is None  # no room
    assert narrow.form(torch.empty(512, 256)[:, ::2], b) is None  # gaps between values
    assert narrow.form(a.double(), b.double()) is None
    assert narrow.is_sum(torch.empty(512, 8), torch.empty(8, 128), torch.empty(128))
    assert not narrow.is_sum(torch.empty(512, 8), torch.empty(8, 120), torch.empty(120))
    assert not narrow.is_sum(torch.empty(512, 8), torch.empty(8, 128), torch.empty(512, 128))
    assert not narrow.is_sum(torch.empty(512, 9), torch.empty(9, 128), torch.empty(128))


class Mixed(nn.Module):
    """Linear layers, sums and nonlinearities in an order that is drawn."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        self.layers = nn.ModuleList([nn.Linear(32, 32, bias=k != 2) for k in range(5)])
        self.plan = [(int(rng.integers(3)), float(rng.random())) for _ in range(5)]

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for layer, (kind, place) in zip(self.layers, self.plan, strict=True):
            a = values[int(place * len(values))]
            y = layer(a)
            values.append(y if kind == 0 else torch.tanh(y) if kind == 1 else y.view(-1, 2, 32).flatten(0, 1) + values[-1])
        return values[-1] + values[-2]


@needs_library
@pytest.mark.parametrize("seed", range(8))
def test_steps_of_adapters_agree_with_float64(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    count: Counter[str] = Counter()

    def counted(name: str) -> None:
        function = getattr(narrow, name)

        def call(*given: Any, **named: Any) -> Any:
            count[name] += 1
            return function(*given, **named)

        monkeypatch.setattr(narrow, name, call)

    for name in ("rows", "columns", "sums"):
        counted(name)
    x_SBI, y_SB = drawn(3, 256, 32, seed=seed), torch.randint(0, 32, (3, 256), generator=torch.Generator().manual_seed(seed))
    base = model(lambda: Mixed(seed), name=f"mixed{seed}")
    exact = model(lambda: Mixed(seed).double(), dtype=torch.float64, name=f"exact{seed}")
    start = base.initial(0)
    spec, double = lora(base, rank=4, values=start), lora(exact, rank=4, values=exact.params(start.flat.double()))
    x = spec.params(0.3 * drawn(spec.size, seed=seed + 100))
    fast = Fast("kernel")
    got, _ = train(x, Batches(x_SBI, y_SB, classes=32), lr=0.5, shift=x * 0.01, trainer=fast)
    want, _ = train(double.params(x.flat.double()), Batches(x_SBI.double(), y_SB, classes=32), lr=0.5, shift=double.params(x.flat.double()) * 0.01)
    assert not fast.fallbacks
    assert min(count["rows"], count["columns"], count["sums"]) > 0
    assert gap(got.flat - x.flat, want.flat - x.flat.double()) < 1e-4  # rounding of values of size one against changes of some hundredths


def test_scripts_of_a_model_share_copies_of_frozen_weights() -> None:
    x = lora(model(lambda: Mixed(11), name="mixed11"), rank=4).initial(0)
    fast = Fast("replay")
    for rows in (64, 128):  # a script for each
        train(x, Batches(drawn(2, rows, 32), torch.randint(0, 32, (2, rows)), classes=32), lr=0.1, trainer=fast)
    assert not fast.fallbacks
    with x.spec.skeleton(x.flat.device) as skeleton:
        assert len(skeleton.scripts) == 2
        frozen = {p.data_ptr(): p for p in skeleton.module.parameters()}
        assert skeleton.straight and all(torch.equal(copy, frozen[at].t()) and copy.is_contiguous() for at, copy in skeleton.straight.items())


@needs_library
def test_on_replay_no_narrow_product_runs_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("rows", "columns", "sums"):
        monkeypatch.setattr(narrow, name, None)
    x = lora(model(lambda: Mixed(0), name="mixed0"), rank=4).initial(0)
    fast = Fast("replay")
    train(x, Batches(drawn(2, 256, 32), torch.randint(0, 32, (2, 256)), classes=32), lr=0.1, trainer=fast)
    assert not fast.fallbacks


@needs_library
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("sum[r * GROUP + j] += x[r] * w", "sum[r * GROUP + j] -= x[r] * w"),
        ("sum[g * V + v] += b[m * GROUP + g] * x[v]", "sum[g * V + v] -= b[m * GROUP + g] * x[v]"),
        ("sum[r * V + v] += a[r * am + j * aj] * x[v]", "sum[r * V + v] -= a[r * am + j * aj] * x[v]"),
    ],
)
def test_a_library_that_is_wrong_is_refused(right: str, wrong: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = Path(narrow.__file__).with_suffix(".c").read_text()
    assert text.count(right) == 1
    (tmp_path / "narrow.c").write_text(text.replace(right, wrong))
    monkeypatch.setattr(narrow, "__file__", str(tmp_path / "narrow.py"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    narrow.library.cache_clear()
    try:
        with pytest.raises(ScenarioError, match="no kernel: what the compiler built differs from float64"):
            Fast("kernel")
        assert Fast("auto").name == "replay"
    finally:
        narrow.library.cache_clear()
