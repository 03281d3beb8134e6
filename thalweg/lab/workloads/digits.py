"""A small convolutional network on scikit-learn's handwritten digits.

The data (1,797 grey images of 8 x 8 pixels, 10 classes) come inside scikit-learn: nothing is
downloaded. 40 % of the images train, 20 % validate and 40 % test, each part with the same share of
every class. So little is trained on so that test accuracy stays clear of 100 %, and so much is
tested on so that one image is worth only 0.14 points.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg.lab.workload import Evaluation, Split

SPLIT_SEED = 0
TRAIN, VALIDATION, TEST = 719, 359, 719
BATCH_SIZE = 32
EPOCHS = 16

Batch = tuple[Tensor, Tensor]
"""Images, float32 of shape (n, 1, 8, 8) from 0 to 1, and classes, int64 of shape (n,)."""


class Digits:
    """The digits, split and held as NumPy arrays; see `thalweg.lab.workload.Workload`."""

    name = "digits"
    title = "a small convolutional network on scikit-learn's 8 x 8 digits"
    metric = "accuracy"
    unit = "%"
    difference_unit = "points"
    higher_is_better = True
    margin = 0.5
    steps = EPOCHS * (TRAIN // BATCH_SIZE)
    evaluate_every = TRAIN // BATCH_SIZE

    def __init__(self) -> None:
        # Imported here because worker processes receive the arrays and need no scikit-learn.
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        self._images = (digits.images[:, None] / 16).astype(np.float32)
        self._classes = digits.target.astype(np.int64)
        train, held_out = train_test_split(
            np.arange(len(self._classes)),
            train_size=TRAIN,
            stratify=self._classes,
            random_state=SPLIT_SEED,
        )
        validation, test = train_test_split(
            held_out,
            train_size=VALIDATION,
            stratify=self._classes[held_out],
            random_state=SPLIT_SEED,
        )
        self.rows = {"train": train, "validation": validation, "test": test}
        """Which of the 1,797 images each part holds: disjoint arrays of row numbers."""

    def model(self, seed: int) -> nn.Module:
        """6,090 parameters: two 3 x 3 convolutions of 16 and 32 channels and stride 2, one linear layer."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return nn.Sequential(
                nn.Conv2d(1, 16, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.Conv2d(16, 32, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(128, 10),
            )

    def batches(self, seed: int) -> Iterator[Batch]:
        """A new random order each epoch; images that do not fill a batch wait for the next one."""
        order = np.random.default_rng(seed)
        for _ in range(EPOCHS):
            shuffled = order.permutation(self.rows["train"])
            for start in range(0, TRAIN - BATCH_SIZE + 1, BATCH_SIZE):
                yield self._batch(shuffled[start : start + BATCH_SIZE])

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean cross-entropy in nats."""
        images, classes = batch
        return functional.cross_entropy(model(images), classes)

    def evaluate(self, model: nn.Module, split: Split) -> Evaluation:
        """Accuracy in percent and mean cross-entropy in nats."""
        images, classes = self._batch(self.rows[split])
        logits = model(images)
        correct = int((logits.argmax(dim=1) == classes).sum())
        return Evaluation(
            metric=100 * correct / len(classes),
            loss=functional.cross_entropy(logits, classes).item(),
        )

    def facts(self) -> Mapping[str, str]:
        """See `thalweg.lab.workload.Workload`."""
        return {
            "Data": "scikit-learn's digits: 1,797 grey images of 8 x 8 pixels, 10 classes",
            "Split": f"{TRAIN} train, {VALIDATION} validation, {TEST} test images, "
            f"stratified by class, split seed {SPLIT_SEED}",
            "Model": "3 x 3 convolutions with 16 and 32 channels, each with stride 2 and ReLU, then one "
            "linear layer: 6,090 parameters, float32",
            "Training": f"batches of {BATCH_SIZE}, {EPOCHS} epochs ({self.steps} steps), "
            "mean cross-entropy, no augmentation",
        }

    def _batch(self, rows: np.ndarray) -> Batch:
        return torch.from_numpy(self._images[rows]), torch.from_numpy(self._classes[rows])
