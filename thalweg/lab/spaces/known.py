"""Each optimizer that the lab knows, with the ranges that its hyperparameters are searched in.

The ranges are the same for every workload.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from thalweg.lab.spaces.space import MANY, SOME, Axis, Point, Space, minimal


def _rest(value: float) -> float:
    """1 - value without the noise of the last bit, so that it prints as short as it was meant."""
    return round(1 - value, 12)


def _sgd(point: Point) -> dict[str, Any]:
    others = dict(point)
    effective, one_minus_momentum = others.pop("lr / (1 - momentum)"), others.pop("1 - momentum")
    lr = float(f"{effective * one_minus_momentum:.4g}")
    return {"lr": lr, "momentum": _rest(one_minus_momentum), **others}


def _averaged(point: Point) -> dict[str, Any]:
    """An axis ``1 - x`` is the argument x; beta1 and beta2 are the pair ``betas``."""
    settings: dict[str, Any] = {}
    for name, value in point.items():
        argument = name.removeprefix("1 - ")
        if argument.startswith("beta"):
            settings["betas"] = (*settings.get("betas", ()), _rest(value))
        else:
            settings[argument] = _rest(value) if argument != name else value
    return settings


_EPS = Axis("eps", 1e-10, 1.0, trials=MANY)
_L2 = Axis("weight_decay", 1e-6, 1e-2, trials=MANY)
_DECOUPLED = Axis("weight_decay", 1e-4, 0.5, trials=MANY)


def _adam(name: str, optimizer: str, source: str, *, lr: float = 1e-3, decay: Axis) -> Space:
    """A space around Adam's defaults; `lr` is the default that the range of learning rates surrounds."""
    axes = (
        Axis("lr", round(0.03 * lr, 6), round(30 * lr, 6)),
        Axis("1 - beta1", 1e-2, 1.0, 0.1, SOME),
        Axis("1 - beta2", 1e-4, 0.1, 1e-3, MANY),
        _EPS,
        decay,
    )
    return Space(name, optimizer, axes, arguments=_averaged, source=source)


SPACES = {
    space.name: space
    for space in (
        Space(
            "sgd",
            "thalweg.SGD",
            (
                Axis("lr / (1 - momentum)", 1e-3, 10.0),
                Axis("1 - momentum", 1e-2, 1.0, 0.1, SOME),
                _L2,
            ),
            arguments=_sgd,
            source="the effective rate lr / (1 - momentum) is what momentum leaves comparable "
            "(Choi et al. 2019)",
        ),
        Space(
            "rmsprop",
            "thalweg.RMSprop",
            (
                Axis("lr", 1e-5, 3e-2),
                Axis("1 - momentum", 1e-2, 1.0, trials=SOME),
                Axis("1 - alpha", 1e-3, 0.3, trials=MANY),
                _EPS,
                _L2,
            ),
            arguments=_averaged,
            source="around the default 0.01 and the 0.001 of Hinton's lecture 6e",
        ),
        _adam("adam", "thalweg.Adam", "around the default 0.001 (Kingma and Ba 2015)", decay=_L2),
        _adam("adamw", "thalweg.AdamW", "around the default 0.001 (Kingma and Ba 2015)", decay=_DECOUPLED),
        Space(
            "adagrad",
            "thalweg.Adagrad",
            (Axis("lr", 1e-3, 1.0), _EPS, _L2),
            source="around the default 0.01 and above, since its steps shrink",
        ),
        Space(
            "adadelta",
            "thalweg.Adadelta",
            (Axis("lr", 1e-2, 10.0), Axis("1 - rho", 1e-3, 0.3, trials=MANY), _EPS, _L2),
            arguments=_averaged,
            source="around 1, the method of Zeiler (2012) unscaled",
        ),
        _adam("adamax", "thalweg.Adamax", "around the default 0.002", lr=2e-3, decay=_L2),
        _adam("nadam", "thalweg.NAdam", "around the default 0.002", lr=2e-3, decay=_L2),
        _adam("radam", "thalweg.RAdam", "around the default 0.001 (Liu et al. 2020)", decay=_L2),
        Space(
            "lion",
            "thalweg.Lion",
            (
                Axis("lr", 3e-6, 3e-3),
                Axis("1 - beta1", 1e-2, 1.0, 0.1, SOME),
                Axis("1 - beta2", 1e-3, 0.3, 1e-2, MANY),
                Axis("weight_decay", 1e-3, 5.0, trials=MANY),
            ),
            arguments=_averaged,
            source="a tenth of AdamW's rate and ten times its decay: Chen et al. (2023) advise 3 to 10",
        ),
    )
}
"""Every space by name. The ranges, of three to four decades, are our choice; `Space.source` says why."""


def find(name: str, own: Sequence[Space] = ()) -> Space:
    """The space called `name`, or of the optimizer at that dotted path.

    Those of the task come first, then ours. An optimizer of torch that shares its name with one of ours
    is searched like ours.

    Args:
        name: what the user typed, for example ``adamw`` or ``torch.optim.Adam``.
        own: the spaces that a task brings.

    Raises:
        ValueError: there is none; the message says what is missing.
    """
    for space in own:
        if name in (space.name, space.optimizer):
            return space
    if name.lower() in SPACES:
        return SPACES[name.lower()]
    if "." not in name:
        known = ", ".join([*(space.name for space in own), *SPACES])
        raise ValueError(f"unknown optimizer {name!r}; choose from: {known}; or give a dotted path")
    package, _, kind = name.rpartition(".")
    ours = {space.title: space for space in SPACES.values()}
    if package in ("torch.optim", "thalweg") and kind in ours:
        return replace(ours[kind], name=name, optimizer=name)
    raise ValueError(
        f"no search space for {name!r}: give one in the task's `spaces`: spaces = ({minimal(name)},)"
    )
