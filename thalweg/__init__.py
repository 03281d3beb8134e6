"""Optimizers for PyTorch, each rule written once, and a lab that measures which one a model wants.

import thalweg as tw

optimizer = tw.AdamW(model.parameters(), lr=1e-3)
"""

from typing import TYPE_CHECKING, Any

from thalweg._version import __version__
from thalweg.algorithms.adagrad import Adadelta, Adagrad
from thalweg.algorithms.adam import Adam, AdamW
from thalweg.algorithms.adamax import Adamax
from thalweg.algorithms.lion import Lion
from thalweg.algorithms.mixed import Mixed
from thalweg.algorithms.nadam import NAdam
from thalweg.algorithms.radam import RAdam
from thalweg.algorithms.rmsprop import RMSprop
from thalweg.algorithms.sgd import SGD
from thalweg.optimizer import Optimizer

if TYPE_CHECKING:
    from thalweg.lab.memory import memory

__all__ = [
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lion",
    "Mixed",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "__version__",
    "memory",
]


def __getattr__(name: str) -> Any:
    # Looked up when asked for: training needs nothing of the lab.
    if name != "memory":
        raise AttributeError(f"module 'thalweg' has no attribute {name!r}")
    from thalweg.lab.memory import memory

    return memory
