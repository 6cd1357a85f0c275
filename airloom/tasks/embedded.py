"""The pretrained model that comes without any folder: a small transformer, trained from scratch on the digits 0 to 4 when it is first asked for."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from airloom.clock.rng import generator, seed_of
from airloom.models import zoo
from airloom.models.batch import Batches
from airloom.models.module import ModelSpec
from airloom.models.params import Params
from airloom.models.train import AdamW, train
from airloom.tasks.datasets import load

# ours: chosen so that it takes about two seconds of one core and knows its five digits
KNOWN_CLASSES = 5
STEPS, BATCH, LR = 150, 48, 3e-3
EMBEDDED = f"embedded: a patch transformer of 26,474 values, trained here on the digits 0 to {KNOWN_CLASSES - 1}"


@lru_cache(maxsize=4)
def pretrained(spec: ModelSpec) -> Params:
    """Return the values of a model of digits after training on the training rows with labels 0 to 4.

    The same values in every process of one machine; the other five digits are left to whoever fine-tunes it.
    """
    data = load("digits")
    rows = np.flatnonzero(data.y_train < KNOWN_CLASSES)
    chosen = torch.from_numpy(generator("embedded", "batches").choice(rows, (STEPS, BATCH)))
    batches = Batches.of(torch.from_numpy(data.x_train.copy()), torch.from_numpy(data.y_train.copy()), chosen)
    rates = [LR * min(1.0, 2.0 * (1.0 - k / STEPS)) for k in range(STEPS)]  # constant, then falling to zero
    x, _ = train(spec.initial(seed_of("embedded", "initial")), batches, lr=rates, optimizer=AdamW())
    return x


def embedded() -> Params:
    """Return the embedded model: `zoo.patch_transformer()`, pretrained."""
    return pretrained(zoo.patch_transformer())
