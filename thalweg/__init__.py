"""Optimizers for PyTorch, each rule written once, and a lab that measures which one a model wants.

import thalweg as tw

optimizer = tw.AdamW(model.parameters(), lr=1e-3)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from thalweg._version import __version__
from thalweg.algorithms.adagrad import Adadelta, Adagrad
from thalweg.algorithms.adam import Adam, AdamW
from thalweg.algorithms.adamax import Adamax
from thalweg.algorithms.lion import Lion
from thalweg.algorithms.mixed import Mixed
from thalweg.algorithms.nadam import NAdam
from thalweg.algorithms.prodigy import Prodigy
from thalweg.algorithms.radam import RAdam
from thalweg.algorithms.rmsprop import RMSprop
from thalweg.algorithms.sgd import SGD
from thalweg.optimizer import SAM, Optimizer

if TYPE_CHECKING:
    from thalweg.algorithms.vision import rmsprop_for_vision
    from thalweg.lab.memory import memory
    from thalweg.optimizer import schedules
    from thalweg.optimizer.groups import param_groups
    from thalweg.optimizer.moments import second_moment_snr
    from thalweg.optimizer.presets import half_life, half_life_of, scaled_to

__all__ = [
    "SAM",
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
    "Prodigy",
    "RAdam",
    "RMSprop",
    "__version__",
    "half_life",
    "half_life_of",
    "memory",
    "param_groups",
    "rmsprop_for_vision",
    "scaled_to",
    "schedules",
    "second_moment_snr",
]


_LATER = {
    "half_life": "optimizer.presets",
    "half_life_of": "optimizer.presets",
    "memory": "lab.memory",
    "param_groups": "optimizer.groups",
    "rmsprop_for_vision": "algorithms.vision",
    "scaled_to": "optimizer.presets",
    "schedules": "optimizer.schedules",
    "second_moment_snr": "optimizer.moments",
}


def __getattr__(name: str) -> Any:
    # Looked up when asked for: training needs nothing of the lab, and a step nothing of the helpers.
    if name not in _LATER:
        raise AttributeError(f"module 'thalweg' has no attribute {name!r}")
    module = import_module(f"thalweg.{_LATER[name]}")
    return module if name == "schedules" else getattr(module, name)
