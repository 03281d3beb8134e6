"""Each optimizer the lab can compare: its fixed settings and its range of learning rates.

Every range is three decades wide. The trials are spread evenly over the logarithm of the range, so
equal numbers of trials give every optimizer the same number of trials per decade: none is searched
more finely than another.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import nn
from torch.optim import Optimizer

import thalweg


@dataclass(frozen=True)
class Space:
    """What is tried for one optimizer.

    Attributes:
        name: what the user types, for example ``adamw``.
        optimizer: the public class in `thalweg`, for example ``AdamW``.
        low: the smallest learning rate that may be tried.
        high: the largest.
        source: why this range.
        fixed: constructor arguments that are not tuned; all others keep their defaults.
    """

    name: str
    optimizer: str
    low: float
    high: float
    source: str
    fixed: Mapping[str, float] = field(default_factory=dict)

    def build(self, parameters: Iterable[nn.Parameter], lr: float) -> Optimizer:
        """The optimizer for these parameters at this learning rate."""
        optimizer: Optimizer = getattr(thalweg, self.optimizer)(parameters, lr=lr, **self.fixed)
        return optimizer

    def code(self, lr: float) -> str:
        """The line of Python that builds the same optimizer for a model called ``model``."""
        settings = {"lr": lr, **self.fixed}
        arguments = ", ".join(f"{key}={value!r}" for key, value in settings.items())
        return f"thalweg.{self.optimizer}(model.parameters(), {arguments})"


_ADAM = "from a tenth of the default 0.001 of Kingma and Ba (2015) to a hundred times it"

SPACES = {
    space.name: space
    for space in (
        Space(
            "sgd",
            "SGD",
            1e-3,
            1.0,
            "around 0.1 and 0.01, the usual first tries with momentum 0.9",
            {"momentum": 0.9},
        ),
        Space("rmsprop", "RMSprop", 1e-4, 1e-1, "around 0.001 of Hinton's lecture 6e and 0.01"),
        Space("adam", "Adam", 1e-4, 1e-1, _ADAM),
        Space("adamw", "AdamW", 1e-4, 1e-1, _ADAM),
        Space("adagrad", "Adagrad", 1e-3, 1.0, "around 0.01; its steps shrink, so it starts higher"),
        Space("adadelta", "Adadelta", 1e-2, 10.0, "around 1.0, the method of Zeiler (2012) unscaled"),
        Space("adamax", "Adamax", 1e-4, 1e-1, "around 0.002 of Kingma and Ba (2015)"),
        Space("nadam", "NAdam", 1e-4, 1e-1, "around 0.002 of Dozat (2016)"),
        Space("radam", "RAdam", 1e-4, 1e-1, "around 0.001 of Liu et al. (2020)"),
        Space(
            "lion",
            "Lion",
            1e-5,
            1e-2,
            "a tenth of AdamW's: Chen et al. (2023) advise 3 to 10 times less",
        ),
    )
}
"""Every space by name. A range is this project's choice; `Space.source` says around what."""


def find(name: str) -> Space:
    """The space called `name`.

    Raises:
        ValueError: there is none; the message lists those that exist.
    """
    known = [space.name for space in SPACES.values() if hasattr(thalweg, space.optimizer)]
    if name not in known:
        raise ValueError(f"unknown optimizer {name!r}; choose from: {', '.join(known)}")
    return SPACES[name]
