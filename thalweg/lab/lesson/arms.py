"""The arms of the lesson's claims: an optimizer each, of which only the learning rate is searched.

Every range is four decades, so that equally many rates are equally far apart for all. Where they lie
follows from how far a step goes: SGD's effective rate is lr / (1 - momentum), and a step of Adam or of
RMSprop moves an element by about lr.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import thalweg
from thalweg import SAM, scaled_to
from thalweg.lab.spaces import Axis, Space

DECADES = 4

MOMENTUM = 0.9


def arm(name: str, optimizer: str, low: float, *, default: float | None = None, **fixed: Any) -> Space:
    """An arm whose rate is searched over four decades from `low`; `default` is the rate where none is."""
    axis = Axis("lr", low, low * 10**DECADES, default)
    return Space(name, f"thalweg.{optimizer}", (axis,), fixed=fixed)


def changed(space: Space, name: str, **changes: Any) -> Space:
    """The same arm under another name, which trains with other attributes of the workload."""
    return replace(space, name=name, changes={**space.changes, **changes})


def scaled(point: Mapping[str, Any], kappa: float, rate: bool) -> dict[str, Any]:
    """Adam's arguments for batches `kappa` times as large as those that `point` was tuned in.

    The betas keep their half-lives in samples; the rate goes with the root of the batch size if `rate`.
    """
    found = scaled_to({"lr": point["lr"], "betas": (0.9, 0.999), "eps": 1e-8}, kappa, rule="sqrt")
    return found if rate else {"lr": point["lr"], "betas": found["betas"]}


def sam(parameters: Any, lr: float) -> SAM:
    """Sharpness-aware minimization around Adam, with the paper's radius."""
    return SAM(thalweg.Adam(parameters, lr=lr), rho=0.05)


SGD = arm("sgd", "SGD", 1e-3)
SGD_MOMENTUM = arm("sgd-momentum", "SGD", 1e-4, momentum=MOMENTUM)
SGD_MOMENTUM_CLIPPED = changed(SGD_MOMENTUM, "sgd-momentum-clip", clip_norm=1.0)
RMSPROP = arm("rmsprop", "RMSprop", 1e-5, default=1e-3)
RMSPROP_MOMENTUM = arm("rmsprop-momentum", "RMSprop", 1e-6, momentum=MOMENTUM)
ADAM = arm("adam", "Adam", 1e-5, default=1e-3)
ADAMW = arm("adamw", "AdamW", 1e-5, default=1e-3)
ADAGRAD = arm("adagrad", "Adagrad", 1e-4)
SAM_ADAM = replace(arm("sam-adam", "Adam", 1e-5), optimizer="thalweg.lab.lesson.arms.sam", closure=True)
