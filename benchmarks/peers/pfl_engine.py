"""pfl-research: its simulated backend and federated averaging, one process; a user of a round holds that round's rows in order."""

from __future__ import annotations

import numpy as np
import torch
from common import BATCH, CLIENTS, LR, ROUNDS, ROWS, START, Report, X, Y
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from torch import nn

torch.set_num_threads(1)


class Net(nn.Module):
    """The two-layer network with the loss that pfl asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))

    def forward(self, x):
        return self.net(x)

    def loss(self, x, y, is_eval=False):
        """Cross entropy."""
        return nn.functional.cross_entropy(self(x), y)

    def metrics(self, x, y, is_eval=True):
        """None."""
        return {}


class Stamp(TrainingProcessCallback):
    """Stamps rounds."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        self.report.round()
        return False, Metrics()


def main() -> None:
    """Run the rounds."""
    net = Net()
    with torch.no_grad():
        for p, v in zip(net.parameters(), START, strict=True):
            p.copy_(torch.from_numpy(v))

    def user(number):
        rows = ROWS[number // CLIENTS, number % CLIENTS].reshape(-1)
        return Dataset((torch.from_numpy(X[rows]), torch.from_numpy(Y[rows])), user_id=str(number))

    numbers = iter(range(ROUNDS * CLIENTS + CLIENTS))
    data = FederatedDataset(user, lambda: min(next(numbers), ROUNDS * CLIENTS - 1))
    model = PyTorchModel(net, torch.optim.SGD, torch.optim.SGD(net.parameters(), lr=1.0))
    report = Report()
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=ROUNDS, evaluation_frequency=10**6, train_cohort_size=CLIENTS, val_cohort_size=None
        ),
        backend=SimulatedBackend(training_data=data, val_data=None),
        model=model,
        model_train_params=NNTrainHyperParams(local_batch_size=BATCH, local_num_epochs=1, local_learning_rate=LR),
        model_eval_params=None,
        callbacks=[Stamp(report)],
    )
    report.end([p.detach().numpy().astype(np.float32) for p in net.parameters()])


if __name__ == "__main__":
    main()
