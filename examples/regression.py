"""How far does diabetes progress within a year? A small network that predicts a number.

    thalweg compare examples/regression.py
    thalweg compare examples/regression.py --optimizers adamw,asgd

The metric is a loss, of which less is better. An optimizer of torch that the lab has no search space for,
ASGD (averaged SGD), is made known to it.
"""

from collections.abc import Iterator

import numpy as np
import torch
from sklearn.datasets import load_diabetes
from torch import Tensor, nn
from torch.nn import functional

from thalweg.lab.spaces import SOME, Axis, Space
from thalweg.lab.workload import Evaluation, Split, Workload, device_of


class Diabetes(Workload):
    """442 patients, 10 measurements each; see `thalweg.lab.workload.Workload`."""

    name = "diabetes"
    title = "a small network with dropout on scikit-learn's diabetes patients"
    metric = "mean squared error"
    steps = 200
    batch_size = 32
    evaluate_every = 20
    clip_norm = 1.0
    spaces = (
        Space(
            "asgd",
            "torch.optim.ASGD",
            (Axis("lr", 1e-3, 1.0), Axis("lambd", 1e-6, 1e-2, 1e-4, trials=SOME)),
            source="around the defaults 0.01 and 1e-4",
        ),
    )

    def __init__(self) -> None:
        measurements, progress = load_diabetes(return_X_y=True)
        order = np.random.default_rng(0).permutation(len(progress))
        rows = {"train": order[:220], "validation": order[220:310], "test": order[310:]}
        train = progress[rows["train"]]
        inputs = torch.tensor(measurements / measurements[rows["train"]].std(axis=0), dtype=torch.float32)
        targets = torch.tensor((progress - train.mean()) / train.std(), dtype=torch.float32)[:, None]
        self.data = {part: (inputs[those], targets[those]) for part, those in rows.items()}

    def model(self, seed: int) -> nn.Module:
        """One hidden layer; the lab has seeded torch already."""
        return nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 1))

    def batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """A new random order each epoch."""
        inputs, targets = self.data["train"]
        generator = np.random.default_rng(seed)
        while True:
            for rows in np.array_split(generator.permutation(len(inputs)), len(inputs) // self.batch_size):
                yield inputs[rows], targets[rows]

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Mean squared error, in variances of the training targets."""
        inputs, targets = batch
        return functional.mse_loss(model(inputs), targets)

    def evaluate(self, model: nn.Module, split: Split) -> Evaluation:
        """The same on a whole part."""
        batch = tuple(tensor.to(device_of(model)) for tensor in self.data[split])
        loss = self.loss(model, (batch[0], batch[1])).item()
        return Evaluation(metric=loss, loss=loss)

    def facts(self) -> dict[str, str]:
        """What a reader must know to repeat the measurement."""
        return {
            "Data": "scikit-learn's diabetes: 442 patients, 10 measurements; progress in units of its "
            "standard deviation",
            "Split": "220 train, 90 validation, 132 test, split seed 0",
            "Model": "one hidden layer of 64 units, ReLU, dropout 0.2",
        }
