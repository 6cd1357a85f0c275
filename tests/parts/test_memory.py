"""Which features are kept, and how they are carried over to another extractor."""

from __future__ import annotations

import torch

from airloom.parts.memory import class_means, drift, nearest_to_means


def test_compensation_is_exact_for_a_constant_shift_per_class() -> None:
    # features of another extractor that differ by a constant per class: remembered ones plus the drift are what the new one gives
    g = torch.Generator().manual_seed(0)
    old, c = torch.randn(40, 5, generator=g, dtype=torch.float64), torch.arange(40) % 4
    shift = torch.randn(4, 5, generator=g, dtype=torch.float64)
    new = old + shift[c]
    kept, now = torch.arange(0, 20), torch.arange(20, 40)
    assert (old[kept] + drift(old[now], new[now], c[now], 4)[c[kept]] - new[kept]).abs().max() < 1e-12
    # class 3 is absent now: zero, or the mean of the others
    now = now[c[now] < 3]
    assert drift(old[now], new[now], c[now], 4)[3].abs().max() == 0
    assert (drift(old[now], new[now], c[now], 4, absent="mean")[3] - shift[:3].mean(0)).abs().max() < 1e-12
    assert drift(old, old, c, 4).abs().max() == 0


def test_what_is_kept_lies_nearest_to_its_class() -> None:
    g = torch.Generator().manual_seed(1)
    z, c = torch.randn(30, 3, generator=g), torch.tensor([0] * 24 + [1] * 4 + [3] * 2)
    means, counts = class_means(z, c, 5)
    assert counts.tolist() == [24, 4, 0, 2, 0]
    far = (z - means[c]).norm(dim=1)
    kept = nearest_to_means(z, c, 5, 10, per_class=False)
    assert far[kept].max() <= min(far[i] for i in range(30) if i not in kept.tolist())
    # in turn: three of each class, as long as it has some: 0 1 3 | 0 1 3 | 0 1 | 0 1 (3 has two)
    kept = nearest_to_means(z, c, 5, 10)
    assert torch.bincount(c[kept], minlength=4).tolist() == [4, 4, 0, 2]
    own = kept[c[kept] == 0]
    assert far[own].max() <= min(far[i] for i in range(24) if i not in own.tolist())
    assert len(nearest_to_means(z, c, 5, 99)) == 30
    assert nearest_to_means(z.to("meta"), c.to("meta"), 5, 10).shape == (10,)  # it has a price before it has contents
