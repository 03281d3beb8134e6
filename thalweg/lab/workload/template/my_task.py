"""A task for the lab: your model, your data, your metric.

    thalweg compare my_task.py

finds out which optimizer trains this model best, and how to set it. As it stands, the file tells two spirals
of points from each other with a small network; one run takes about a second. Replace the parts one by one;
what the lab relies on is written in CAPITALS.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg.lab.workload import Evaluation, Split, Workload, device_of

# from thalweg.lab.spaces import Axis, Space


class MyTask(Workload):
    """Two spirals; whatever is not defined here has a default."""

    # REQUIRED. One run is `steps` optimizer steps; the learning rate climbs and falls over them. Choose the
    # number so that a run takes as long as you can afford some dozens of times.
    name = "my-task"
    steps = 400
    batch_size = 50
    evaluate_every = 40

    # OPTIONAL. The metric is what decides. Without these four lines it is a loss, of which less is better.
    title = "a small network on two spirals"
    metric = "accuracy"
    unit = "%"
    difference_unit = "points"
    higher_is_better = True

    # OPTIONAL. The smallest difference worth having, in the unit of the metric: below it the verdict is
    # "tie". By default 0.5 points of a metric in %, else 2 % of its best value.
    # margin = 1.0

    # OPTIONAL. A validation metric that counts as done, to compare the time it takes to get there.
    # target = 95.0

    # OPTIONAL. Gradients are clipped to this norm, for every optimizer alike.
    # clip_norm = 1.0

    # OPTIONAL. Optimizers that the lab does not know, and where to search for their hyperparameters:
    #     thalweg compare my_task.py --optimizers adamw,asgd
    # spaces = (Space("asgd", "torch.optim.ASGD", (Axis("lr", 1e-3, 1.0),)),)

    # MORE: schedules, accumulation, mixed precision, parameter groups, several optimizers, loops of your own
    # and named recipes are in docs/training.md.

    def __init__(self) -> None:
        # Load your data here, once: worker processes get a copy of this object. THREE DISJOINT PARTS: what
        # trains, what chooses (validation), what judges in the end (test).
        generator = np.random.default_rng(0)
        self.data = {
            "train": spirals(1000, generator),
            "validation": spirals(2000, generator),
            "test": spirals(4000, generator),
        }

    def model(self, seed: int) -> nn.Module:
        """A new model on the CPU: EQUAL SEEDS GIVE EQUAL WEIGHTS. The lab has seeded torch already."""
        return nn.Sequential(
            nn.Linear(2, 64),
            nn.ReLU(),
            nn.Linear(64, 64),
            nn.ReLU(),
            nn.Linear(64, 2),
        )

    def batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """AT LEAST `steps` batches, of any form: EQUAL SEEDS GIVE EQUAL BATCHES.

        So optimizers are compared on the same ones. The lab moves their tensors to where it trains.
        """
        points, classes = self.data["train"]
        generator = np.random.default_rng(seed)
        for _ in range(self.steps):
            rows = generator.choice(len(classes), self.batch_size, replace=False)
            yield points[rows], classes[rows]

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The training loss of one batch: A SCALAR TENSOR to differentiate."""
        points, classes = batch
        return functional.cross_entropy(model(points), classes)

    def evaluate(self, model: nn.Module, split: Split) -> Evaluation:
        """Metric and loss, TWO FLOATS, on the whole of `split`: "validation" or "test".

        The lab calls this without gradients and with the model in evaluation mode.
        """
        points, classes = (tensor.to(device_of(model)) for tensor in self.data[split])
        logits = model(points)
        accuracy = (logits.argmax(dim=1) == classes).float().mean().item()
        return Evaluation(metric=100 * accuracy, loss=functional.cross_entropy(logits, classes).item())

    def facts(self) -> dict[str, str]:
        """OPTIONAL. What a reader must know to repeat the measurement; the report shows it."""
        return {
            "Data": "two spirals of two turns, radius 0.2 to 1, noise of deviation 0.03",
            "Split": "1,000 train, 2,000 validation, 4,000 test points, seed 0",
            "Model": "two hidden layers of 64 units, ReLU: 4,482 parameters",
        }


def spirals(count: int, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Points, float32 of shape (count, 2), and which spiral each is on, int64 of shape (count,)."""
    classes = generator.integers(0, 2, count)
    radius = generator.uniform(0.2, 1.0, count)
    angle = 2 * np.pi * 2 * radius + np.pi * classes
    points = radius * np.stack([np.cos(angle), np.sin(angle)])
    points += generator.normal(0, 0.03, points.shape)
    return torch.tensor(points.T, dtype=torch.float32), torch.tensor(classes)
