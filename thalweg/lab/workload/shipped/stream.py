"""Digits in a stream in which what is to be learned changes: the labels, or how the images are turned.

Every `every` steps either the ten classes get new labels (a permutation drawn anew) or all images another
of four quarter turns. Each batch is first predicted and then learned, and the metric is the accuracy of all
predictions so far: the prequential accuracy (Dawid 1984; Gama, Sebastiao and Rodrigues 2013), which says
how fast an optimizer follows, not where it ends. Predictions are those of the weights under training.

Nothing is held out, so validation and test are the same here: what separates choice from measurement is
that final runs have seeds, and so orders of images and changes, that no choice has seen. All 1,797 images
come in a new order each time they are used up. The learning rate is constant, since the stream does not
know when it ends.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg.lab.workload.contract import Evaluation, Run, Split, Workload
from thalweg.lab.workload.shipped import options
from thalweg.lab.workload.shipped.classification import parameters, shuffled
from thalweg.lab.workload.shipped.digits import TEST, TRAIN, VALIDATION, Digits

CLASSES = 10
QUARTERS = 4
CHANGES = ("labels", "rotation", "none")
OWN = ("change", "every", "width")


class Stream(Workload):
    """The digits as a stream; see `thalweg.lab.workload.Workload`.

    Args:
        given: options: `change`, what changes: ``labels``, ``rotation`` or ``none``; `every`, steps from one
            change to the next; `width`, hidden units; and those of `thalweg.lab.workload.shipped.options`.

    Raises:
        ValueError: an option has a value that is not allowed.
    """

    name = "stream"
    title = "a small network on a stream of digits whose labels change"
    metric = "prequential accuracy"
    unit = "%"
    difference_unit = "points"
    higher_is_better = True
    batch_size = 16
    steps = 2000
    evaluate_every = 100
    schedule = "constant"
    change: Literal["labels", "rotation", "none"] = "labels"
    every: int = 200
    width: int = 64

    def __init__(self, **given: Any) -> None:
        options.take(self, OWN, given)
        options.require(self.change in CHANGES, "change", f"one of {', '.join(CHANGES)}", self.change)
        options.count("every", self.every)
        options.count("width", self.width)
        self._images, self._classes = Digits().batch(np.arange(TRAIN + VALIDATION + TEST))

    def model(self, seed: int) -> nn.Module:
        """4,810 parameters: a linear layer of 64 ReLU units and one of 10, and the count of predictions."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Predictor(self.width)

    def batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images, float32 of shape (n, 1, 8, 8) from 0 to 1, and classes, int64 of shape (n,)."""
        states, order = self._states(seed), np.arange(len(self._classes))
        for step, rows in enumerate(shuffled(order, self.batch_size, self.steps, seed)):
            if step % self.every == 0:
                turns, labels = next(states)
            yield torch.rot90(self._images[rows], turns, (2, 3)), labels[self._classes[rows]]

    def training_step(self, run: Run, batch: tuple[Tensor, Tensor]) -> float:
        """Predicts the batch, counts what was right, and learns it."""
        images, classes = batch
        with run.autocast():
            logits = run.model(images)
            loss = functional.cross_entropy(logits, classes)
        predictor: Any = run.model
        predictor.note(logits.detach(), classes, loss.detach())
        return run.update(loss)

    def evaluate(self, model: nn.Module, split: Split) -> Evaluation:
        """Accuracy in percent and mean cross-entropy in nats of all predictions so far; of guesses before."""
        predictor: Any = model
        return Evaluation(*predictor.mean())

    def facts(self) -> Mapping[str, str]:
        """See `thalweg.lab.workload.Workload`."""
        changes = {
            "labels": "the classes' labels change",
            "rotation": "images turn",
            "none": "nothing changes",
        }
        return {
            "Data": "scikit-learn's digits: 1,797 grey images of 8 x 8 pixels, 10 classes, all in the stream",
            "Stream": f"{self.steps:,} batches of {self.batch_size}; every {self.every} batches "
            f"{changes[self.change]}",
            "Metric": "accuracy of the predictions of each batch before it was learned, of all so far; no "
            "part is held out, validation and test are the same",
            "Model": f"linear layers of {self.width} (ReLU) and 10: {parameters(self.model(0)):,} "
            "parameters, float32",
            "Training": "one step for each batch, mean cross-entropy",
            **options.facts(self, OWN),
        }

    def _states(self, seed: int) -> Iterator[tuple[int, Tensor]]:
        """Quarter turns and the label of each class, from change to change."""
        generator = np.random.default_rng([seed, 1])
        turns, labels = 0, torch.arange(CLASSES)
        while True:
            yield turns, labels
            if self.change == "rotation":
                turns = (turns + int(generator.integers(1, QUARTERS))) % QUARTERS
            elif self.change == "labels":
                labels = torch.from_numpy(generator.permutation(CLASSES))


class Predictor(nn.Module):
    """A network and how well it has predicted so far."""

    seen: Tensor
    right: Tensor
    nats: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, CLASSES))
        for name in ("seen", "right"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64))
        self.register_buffer("nats", torch.zeros((), dtype=torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (n, 10), of images, (n, 1, 8, 8)."""
        logits: Tensor = self.layers(images)
        return logits

    def note(self, logits: Tensor, classes: Tensor, loss: Tensor) -> None:
        """Counts the predictions of a batch, of which `loss` is the mean."""
        self.seen += len(classes)
        self.right += (logits.argmax(dim=1) == classes).sum()
        self.nats += len(classes) * loss.double()

    def mean(self) -> tuple[float, float]:
        """Accuracy in percent and mean loss of all predictions; before the first those of an even guess."""
        seen = self.seen.item()
        if not seen:
            return 100 / CLASSES, float(np.log(CLASSES))
        return 100 * self.right.item() / seen, self.nats.item() / seen
