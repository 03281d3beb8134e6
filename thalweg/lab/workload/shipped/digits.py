"""A small convolutional network on scikit-learn's handwritten digits.

The data (1,797 grey images of 8 x 8 pixels, 10 classes) come inside scikit-learn: nothing is
downloaded. 40 % of the images train, 20 % validate and 40 % test, each part with the same share of
every class. So little is trained on so that test accuracy stays clear of 100 %, and so much is
tested on so that one image is worth only 0.14 points.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thalweg.lab.workload.shipped import options
from thalweg.lab.workload.shipped.classification import OPTIONS, Classification, parameters, stratified

SPLIT_SEED = 0
TRAIN, VALIDATION, TEST = 719, 359, 719
EPOCHS = 16


class Digits(Classification):
    """The digits, split and held as NumPy arrays; see `thalweg.lab.workload.Workload`.

    Args:
        given: options: `width`, by which both numbers of channels are multiplied, and those of
            `Classification` and `thalweg.lab.workload.shipped.options`.
    """

    name = "digits"
    title = "a small convolutional network on scikit-learn's 8 x 8 digits"
    batch_size = 32
    steps = EPOCHS * (TRAIN // batch_size)
    evaluate_every = TRAIN // batch_size
    width: int = 1

    def __init__(self, **given: Any) -> None:
        self.taken(given, ("width",))
        options.count("width", self.width)
        # Imported here because worker processes receive the arrays and need no scikit-learn.
        from sklearn.datasets import load_digits

        digits = load_digits()
        self._images = (digits.images[:, None] / 16).astype(np.float32)
        self._classes = digits.target.astype(np.int64)
        self.rows = stratified(self._classes, TRAIN, VALIDATION, SPLIT_SEED)

    def model(self, seed: int) -> nn.Module:
        """6,090 parameters: two 3 x 3 convolutions of 16 and 32 channels and stride 2, one linear layer."""
        first, second = 16 * self.width, 32 * self.width
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return nn.Sequential(
                nn.Conv2d(1, first, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.Conv2d(first, second, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(4 * second, 10),
            )

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Images, float32 of shape (n, 1, 8, 8) from 0 to 1, and classes, int64 of shape (n,)."""
        return torch.from_numpy(self._images[rows]), torch.from_numpy(self._classes[rows])

    def facts(self) -> Mapping[str, str]:
        """See `thalweg.lab.workload.Workload`."""
        epochs = self.steps / (len(self.training_rows()) // self.batch_size)
        return {
            "Data": "scikit-learn's digits: 1,797 grey images of 8 x 8 pixels, 10 classes",
            "Split": f"{TRAIN} train, {VALIDATION} validation, {TEST} test images, "
            f"stratified by class, split seed {SPLIT_SEED}",
            "Model": f"3 x 3 convolutions with {16 * self.width} and {32 * self.width} channels, each with "
            f"stride 2 and ReLU, then one linear layer: {parameters(self.model(0)):,} parameters, float32",
            "Training": f"batches of {self.batch_size}, {epochs:g} epochs ({self.steps} steps), "
            "mean cross-entropy, no augmentation",
            **options.facts(self, ("width", *OPTIONS)),
        }
