"""A deep tanh network on scikit-learn's digits, whose layers can have parameters of different scales.

Eight linear layers with tanh between them, initialised as Glorot and Bengio (2010) advise for tanh.

**Scales.** With `scales`, layer l computes s_l (w x + b) with w and b initialised 1 / s_l times as large. The
functions that the network can compute and the one that it begins with are the same; but the gradient by w is
s_l times as large, so a step of gradient descent moves the layer's function s_l^2 times as far, and a step of
one size for all parameters, as sign descent and nearly Adam take, s_l times. No single learning rate of
gradient descent fits all layers then. This is a change of coordinates and nothing else: what differs between
two values of `scales` differs because of the coordinates in which an optimizer works. Scales are divided by
their geometric mean over the layers, because a common factor is only another learning rate. The factors
follow each other from layer to layer and begin anew after the last, so that neighbours differ and no scale
is that of the first or last layers alone. Weight decay acts on w: another penalty where s_l is another.
"""

import math
from collections.abc import Mapping
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thalweg.lab.workload.shipped import options
from thalweg.lab.workload.shipped.classification import OPTIONS, Classification, parameters
from thalweg.lab.workload.shipped.digits import SPLIT_SEED, TEST, TRAIN, VALIDATION, Digits

LAYERS = 8
PIXELS, CLASSES = 64, 10
OWN = ("scales", "norm", "width")


class Deep(Classification):
    """The digits with a deep network; see `thalweg.lab.workload.Workload`.

    Args:
        given: options: `scales`, numbers above 0 that the layers take in turn; `norm`, batch norm after each
            hidden linear layer; `width`, of the hidden layers; and those of `Classification` and
            `thalweg.lab.workload.shipped.options`, such as `batch_size`.

    Raises:
        ValueError: an option has a value that is not allowed.
    """

    name = "deep"
    title = "a tanh network of 8 layers on scikit-learn's 8 x 8 digits"
    batch_size = 64
    steps = 600
    evaluate_every = 10
    scales: tuple[float, ...] = (1.0,)
    norm: bool = False
    width: int = 64

    def __init__(self, **given: Any) -> None:
        self.taken(given, OWN)
        options.count("width", self.width)
        _check(self.scales)
        digits = Digits()
        self.rows = digits.rows
        images, self._classes = digits.batch(np.arange(TRAIN + VALIDATION + TEST))
        self._pixels = images.flatten(1)

    def model(self, seed: int) -> nn.Module:
        """29,770 parameters: seven hidden linear layers of 64 tanh units and one linear layer."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            sizes = [PIXELS, *[self.width] * (LAYERS - 1), CLASSES]
            layers: list[nn.Module] = []
            for scale, inputs, outputs in zip(layer_scales(self.scales), sizes, sizes[1:], strict=False):
                norm = [nn.BatchNorm1d(outputs)] if self.norm else []
                layers += [Scaled(inputs, outputs, scale), *norm, nn.Tanh()]
            return nn.Sequential(*layers[: -2 if self.norm else -1])

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Pixels, float32 of shape (n, 64) from 0 to 1, and classes, int64 of shape (n,)."""
        return self._pixels[rows], self._classes[rows]

    def facts(self) -> Mapping[str, str]:
        """See `thalweg.lab.workload.Workload`."""
        scales = ", ".join(f"{scale:.4g}" for scale in layer_scales(self.scales))
        norm = ", batch norm" if self.norm else ""
        return {
            "Data": "scikit-learn's digits: 1,797 grey images of 8 x 8 pixels, 10 classes",
            "Split": f"{TRAIN} train, {VALIDATION} validation, {TEST} test images, "
            f"stratified by class, split seed {SPLIT_SEED}",
            "Model": f"{LAYERS} linear layers, {self.width} hidden units{norm}, tanh, "
            f"Glorot's initialisation, layer scales {scales}: "
            f"{parameters(self.model(0)):,} parameters, float32",
            "Training": f"batches of {self.batch_size}, {self.steps} steps, mean cross-entropy",
            **options.facts(self, (*OWN, *OPTIONS)),
        }


class Scaled(nn.Linear):
    """A linear layer times `scale`, whose parameters are initialised by Glorot's rule over `scale`."""

    def __init__(self, inputs: int, outputs: int, scale: float) -> None:
        self.scale = scale
        super().__init__(inputs, outputs)

    def reset_parameters(self) -> None:
        """Weights are uniform with variance 2 / (inputs + outputs) over scale^2, biases zero."""
        nn.init.xavier_uniform_(self.weight, gain=1 / self.scale)
        nn.init.zeros_(self.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """``scale * (inputs @ weight.T + bias)``."""
        outputs = super().forward(inputs)
        return outputs if self.scale == 1 else self.scale * outputs


def layer_scales(scales: tuple[float, ...]) -> list[float]:
    """The factor of each of the 8 layers: `scales` in turn, over their geometric mean."""
    each = list(islice(cycle(scales), LAYERS))
    mean = math.exp(sum(map(math.log, each)) / LAYERS)
    return [scale / mean for scale in each]


def _check(scales: Any) -> None:
    good = isinstance(scales, tuple) and 0 < len(scales) <= LAYERS
    good = good and all(isinstance(scale, int | float) and 0 < scale < math.inf for scale in scales)
    options.require(good, "scales", f"a tuple of 1 to {LAYERS} numbers above 0", scales)
