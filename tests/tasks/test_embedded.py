"""The embedded model: it knows its five digits, not the others, and is the same each time."""

from __future__ import annotations

import torch

from airloom.models import zoo
from airloom.models.train import forward
from airloom.tasks.datasets import load
from airloom.tasks.embedded import KNOWN_CLASSES, embedded, pretrained


def test_it_knows_the_first_five_digits_alone() -> None:
    x, data = embedded(), load("digits")
    hit = forward(x, torch.tensor(data.x_test)).argmax(1).numpy() == data.y_test
    known = data.y_test < KNOWN_CLASSES
    assert hit[known].mean() > 0.85 and hit[~known].mean() == 0.0


def test_it_is_the_same_each_time() -> None:
    again = pretrained.__wrapped__(zoo.patch_transformer())
    assert again.digest() == embedded().digest() and again is not embedded()
