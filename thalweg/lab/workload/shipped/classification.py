"""What workloads share that sort examples into classes: order of training, loss, accuracy."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from thalweg.lab.workload.contract import Evaluation, Split, Workload, device_of

EVALUATION_BATCH = 500
"""Examples evaluated at once, which bounds memory; the result does not depend on it."""

Batch = tuple[Any, Tensor]
"""What the model is called with, and the classes: int64 of shape (n,)."""


class Classification(Workload):
    """A workload whose metric is accuracy in percent and whose loss is cross-entropy in nats.

    A subclass sets `rows` and says with `batch` what a selection of rows looks like to its model.
    """

    metric = "accuracy"
    unit = "%"
    difference_unit = "points"
    higher_is_better = True

    rows: dict[str, np.ndarray]
    """The rows of the data that each part holds, ``train``, ``validation`` and ``test``: disjoint."""

    def batch(self, rows: np.ndarray) -> Batch:
        """These rows as the model takes them, on the CPU."""
        raise NotImplementedError

    def batches(self, seed: int) -> Iterator[Batch]:
        """A new random order each epoch; rows that do not fill a batch are left out of that epoch."""
        for rows in shuffled(self.rows["train"], self.batch_size, self.steps, seed):
            yield self.batch(rows)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean cross-entropy in nats."""
        inputs, classes = batch
        return functional.cross_entropy(model(inputs), classes)

    def evaluate(self, model: nn.Module, split: Split) -> Evaluation:
        """Accuracy in percent and mean cross-entropy in nats."""
        device, rows = device_of(model), self.rows[split]
        correct, total = 0, 0.0
        for start in range(0, len(rows), EVALUATION_BATCH):
            inputs, classes = moved(self.batch(rows[start : start + EVALUATION_BATCH]), device)
            logits = model(inputs)
            correct += int((logits.argmax(dim=1) == classes).sum())
            total += functional.cross_entropy(logits, classes, reduction="sum").item()
        return Evaluation(metric=100 * correct / len(rows), loss=total / len(rows))


def stratified(classes: np.ndarray, train: int, validation: int, seed: int) -> dict[str, np.ndarray]:
    """The rows of each part, of which test is what is left, each part with the same share of every class."""
    # Imported here because worker processes receive the arrays and need no scikit-learn.
    from sklearn.model_selection import train_test_split

    rows = np.arange(len(classes))
    first, held_out = train_test_split(rows, train_size=train, stratify=classes, random_state=seed)
    second, test = train_test_split(
        held_out, train_size=validation, stratify=classes[held_out], random_state=seed
    )
    return {"train": first, "validation": second, "test": test}


def shuffled(rows: np.ndarray, batch_size: int, steps: int, seed: int) -> Iterator[np.ndarray]:
    """The rows of `steps` batches, in a new random order each epoch."""
    generator = np.random.default_rng(seed)
    whole = len(rows) // batch_size
    for step in range(steps):
        if step % whole == 0:
            order = generator.permutation(rows)
        start = step % whole * batch_size
        yield order[start : start + batch_size]


def moved(value: Any, device: Any) -> Any:
    """A tensor, or tuples of them, on that device."""
    if isinstance(value, tuple):
        return tuple(moved(part, device) for part in value)
    return value.to(device)


def parameters(model: nn.Module) -> int:
    """How many numbers a model learns."""
    return sum(parameter.numel() for parameter in model.parameters())
