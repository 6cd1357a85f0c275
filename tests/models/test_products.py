"""Products by oneDNN: right in every layout that is routed, and chosen once per machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from airloom.models import products, zoo
from airloom.models.batch import Batches
from airloom.models.fast import Fast
from airloom.models.lora import lora
from airloom.models.train import train

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


def factors(layout: str) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(64, 96, generator=g), torch.randn(96, 80, generator=g)
    return (a.t().contiguous().t() if layout == "tn" else a), (b.t().contiguous().t() if layout == "nt" else b)


@needs_onednn
@pytest.mark.parametrize("layout", ["nt", "nn", "tn"])
def test_products_are_right(layout: str) -> None:
    a, b = factors(layout)
    assert products.layout(a, b) == layout
    bias = torch.arange(80.0)
    error = 96 * torch.finfo(torch.float32).eps * float((a.abs() @ b.abs()).max())  # of a sum of 96 products, at most
    assert float((products.product(a, b).double() - a.double() @ b.double()).abs().max()) <= error
    assert float((products.affine(bias, a, b).double() - (a.double() @ b.double() + bias)).abs().max()) <= error + 80 * 1e-6


def test_what_stays_with_torch() -> None:
    a, b = factors("nn")
    assert products.layout(a[:2, :2].contiguous(), b[:2]) is None  # small
    assert products.layout(a.double(), b.double()) is None
    assert products.layout(a[:, ::2], b[::2]) is None  # gaps


@needs_onednn
def test_a_step_with_all_products_routed_agrees_with_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "routed", lambda: frozenset({"nt", "nn", "tn"}))
    monkeypatch.setattr(products, "LEAST", 0)
    spec = lora(zoo.mlp(inputs=33, hidden=(40, 24), classes=5), rank=3)
    g = torch.Generator().manual_seed(0)
    batches = Batches(torch.randn(4, 16, 33, generator=g), torch.randint(0, 5, (4, 16), generator=g), classes=5)
    called: list[int] = []
    plain = products.affine
    monkeypatch.setattr(products, "affine", lambda *given: called.append(1) or plain(*given))
    x, fast = spec.initial(0), Fast("replay")
    got, want = train(x, batches, lr=0.1, trainer=fast)[0], train(x, batches, lr=0.1)[0]
    assert called and not fast.fallbacks
    change = float((want.flat - x.flat).abs().max())
    assert float((got.flat - want.flat).abs().max()) <= 2e-6 * change + 8 * torch.finfo(torch.float32).eps * float(want.flat.abs().max())


def test_the_choice_is_made_once_per_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(tmp_path))
    monkeypatch.setattr(products, "measured", lambda: frozenset({"nt"}))
    products.routed.cache_clear()
    try:
        assert products.routed() == {"nt"}
        (kept,) = tmp_path.glob("products-*.json")
        assert json.loads(kept.read_text()) == ["nt"]
        monkeypatch.setattr(products, "measured", frozenset)
        products.routed.cache_clear()
        assert products.routed() == {"nt"}  # read, not measured again
        kept.write_text("{")
        products.routed.cache_clear()
        assert products.routed() == frozenset()  # a broken file is measured again, and mended
        assert json.loads(kept.read_text()) == []

        def link(source: str, target: Path) -> None:
            target.write_text('["nn"]')  # another process was first
            raise FileExistsError

        kept.unlink()
        monkeypatch.setattr("os.link", link)
        products.routed.cache_clear()
        assert products.routed() == {"nn"}
    finally:
        products.routed.cache_clear()


@needs_onednn
def test_a_layout_is_routed_if_it_gains_at_every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    gains = {("nt", 32): 1.6, ("nt", 256): 0.9, ("nn", 32): 1.3, ("nn", 256): 1.2, ("tn", 32): 1.1, ("tn", 256): 1.1}  # the last two are noise
    monkeypatch.setattr(products, "_gain", lambda name, rows, inputs, outputs: gains[name, rows])
    assert products.measured() == {"nn"}


@needs_onednn
def test_a_gain_is_own_seconds_over_those_of_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([t for _ in range(12) for t in (0.0, 3.0, 10.0, 12.0)])  # begin and end of torch's own, then of oneDNN
    monkeypatch.setattr("time.perf_counter", lambda: next(readings))
    assert products._gain("nn", 4, 4, 4) == 1.5
