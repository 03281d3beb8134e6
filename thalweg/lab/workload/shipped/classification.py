"""What workloads share that sort examples into classes: order of training, loss, accuracy."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg.lab.workload.contract import Evaluation, Split, Workload, device_of
from thalweg.lab.workload.shipped import options

EVALUATION_BATCH = 500
"""Examples evaluated at once, which bounds memory; the result does not depend on it."""

Batch = tuple[Any, Tensor]
"""What the model is called with, and the classes: int64 of shape (n,)."""

OPTIONS = ("examples", "label_noise", "outliers", "outlier_scale")
"""What every workload of this kind can be given; see `Classification`."""

LABEL_SEED = 1
"""Of the labels that are wrong: the same in all runs."""


class Classification(Workload):
    """A workload whose metric is accuracy in percent and whose loss is cross-entropy in nats.

    A subclass sets `rows` and says with `batch` what a selection of rows looks like to its model.

    Attributes:
        examples: how many of the training rows train, the first; None for all.
        label_noise: the share of training labels that are replaced by another class, drawn evenly; the same
            in all runs.
        outliers: the share of training batches, drawn anew for each seed, whose loss and therefore gradient
            is `outlier_scale` times what it is: noise with a heavy tail.
        outlier_scale: by which factor.
    """

    metric = "accuracy"
    unit = "%"
    difference_unit = "points"
    higher_is_better = True

    classes: int = 10
    examples: int | None = None
    label_noise: float = 0.0
    outliers: float = 0.0
    outlier_scale: float = 100.0

    rows: dict[str, np.ndarray]
    """The rows of the data that each part holds, ``train``, ``validation`` and ``test``: disjoint."""

    def batch(self, rows: np.ndarray) -> Batch:
        """These rows as the model takes them, on the CPU."""
        raise NotImplementedError

    def taken(self, given: Mapping[str, Any], own: tuple[str, ...] = ()) -> None:
        """Takes options.

        Raises:
            TypeError: one is none of this workload's.
            ValueError: one has a value that is not allowed.
        """
        options.take(self, (*own, *OPTIONS), given)
        if self.examples is not None:
            options.count("examples", self.examples)
        for name in ("label_noise", "outliers"):
            options.share(name, getattr(self, name))

    def training_rows(self) -> np.ndarray:
        """The rows that train."""
        return self.rows["train"][: self.examples]

    def training_batch(self, rows: np.ndarray) -> Batch:
        """These rows as they are trained on: with labels that may be wrong."""
        inputs, classes = self.batch(rows)
        if not self.label_noise:
            return inputs, classes
        offsets = torch.from_numpy(
            _offsets(self.label_noise, self.classes, int(self.rows["train"].max()))[rows]
        )
        return inputs, (classes + offsets) % self.classes

    def batches(self, seed: int) -> Iterator[Any]:
        """A new random order each epoch; rows that do not fill a batch are left out of that epoch.

        With `outliers`, each batch has a factor on its loss as a third part.
        """
        factors = np.random.default_rng([seed, 2])
        for rows in shuffled(self.training_rows(), self.batch_size, self.steps, seed):
            batch = self.training_batch(rows)
            if not self.outliers:
                yield batch
                continue
            factor = self.outlier_scale if factors.random() < self.outliers else 1.0
            yield *batch, torch.tensor(factor)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Mean cross-entropy in nats."""
        inputs, classes, *factor = batch
        loss = functional.cross_entropy(model(inputs), classes)
        return loss * factor[0] if factor else loss

    def evaluate(self, model: nn.Module, split: Split) -> Evaluation:
        """Accuracy in percent and mean cross-entropy in nats."""
        device = device_of(model)
        rows, batch = self.rows[split], self.batch
        if split == "train":
            rows, batch = self.training_rows(), self.training_batch
        correct, total = 0, 0.0
        for start in range(0, len(rows), EVALUATION_BATCH):
            inputs, classes = moved(batch(rows[start : start + EVALUATION_BATCH]), device)
            logits = model(inputs)
            correct += int((logits.argmax(dim=1) == classes).sum())
            total += functional.cross_entropy(logits, classes, reduction="sum").item()
        return Evaluation(metric=100 * correct / len(rows), loss=total / len(rows))


@lru_cache(maxsize=4)
def _offsets(share: float, classes: int, last: int) -> np.ndarray:
    """What is added to the class of each row, modulo the number of classes: 0 where the label is right."""
    generator = np.random.default_rng(LABEL_SEED)
    wrong = generator.random(last + 1) < share
    return np.where(wrong, generator.integers(1, classes, last + 1), 0)


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
