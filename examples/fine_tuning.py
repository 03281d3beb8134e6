"""Which optimizer for fine-tuning? A network that knows the digits 0 to 4 learns 5 to 9 from few images.

    thalweg compare examples/fine_tuning.py:few
    thalweg compare examples/fine_tuning.py:many

One file holds two tasks: how many images there are to learn from may change the answer. Every run starts from
the same pretrained weights, made when the file is loaded; only the new last layer depends on the seed.
"""

from collections.abc import Iterator

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from thalweg.lab.workload import Evaluation, Split, Workload, device_of

DIGITS = load_digits()
IMAGES = torch.tensor(DIGITS.images / 16, dtype=torch.float32).flatten(1)
CLASSES = torch.tensor(DIGITS.target)


def network(classes: int) -> nn.Sequential:
    """Two hidden layers and one output for each class."""
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, classes))


def pretrained() -> dict[str, Tensor]:
    """The weights of the hidden layers after training on the digits 0 to 4."""
    rows = CLASSES < 5
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = network(5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(100):
        optimizer.zero_grad()
        functional.cross_entropy(model(IMAGES[rows]), CLASSES[rows]).backward()
        optimizer.step()
    return {name: value for name, value in model.state_dict().items() if not name.startswith("4.")}


class FineTuning(Workload):
    """The digits 5 to 9, of which `count` images train; see `thalweg.lab.workload.Workload`."""

    metric = "accuracy"
    unit = "%"
    difference_unit = "points"
    higher_is_better = True
    steps = 100
    batch_size = 20
    evaluate_every = 10

    def __init__(self, name: str, count: int) -> None:
        self.name = name
        self.title = f"fine-tuning to the digits 5 to 9 with {count} images"
        rows = np.flatnonzero(CLASSES.numpy() >= 5)
        rows = np.random.default_rng(0).permutation(rows)
        self.rows = {"train": rows[:count], "validation": rows[400:640], "test": rows[640:]}
        self.weights = pretrained()

    def model(self, seed: int) -> nn.Module:
        """The pretrained hidden layers and a new last layer."""
        model = network(5)
        model.load_state_dict(self.weights, strict=False)
        return model

    def batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Random images, each at most once in a batch."""
        generator = np.random.default_rng(seed)
        for _ in range(self.steps):
            yield self.examples(generator.choice(self.rows["train"], self.batch_size, replace=False))

    def examples(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Images, and their classes counted from 0."""
        return IMAGES[rows], CLASSES[rows] - 5

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Mean cross-entropy in nats."""
        images, classes = batch
        return functional.cross_entropy(model(images), classes)

    def evaluate(self, model: nn.Module, split: Split) -> Evaluation:
        """Accuracy in percent and mean cross-entropy in nats."""
        images, classes = (tensor.to(device_of(model)) for tensor in self.examples(self.rows[split]))
        logits = model(images)
        accuracy = (logits.argmax(dim=1) == classes).float().mean().item()
        return Evaluation(metric=100 * accuracy, loss=functional.cross_entropy(logits, classes).item())


def few() -> FineTuning:
    """40 images."""
    return FineTuning("fine-tuning-few", 40)


def many() -> FineTuning:
    """400 images."""
    return FineTuning("fine-tuning-many", 400)
