"""Optimizers and storages whose bytes are to be counted, from how a user names them."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

import thalweg
from thalweg.lab.memory.footprint import Setting
from thalweg.lab.spaces import SPACES, located
from thalweg.storage.choices import WEIGHT_BITS
from thalweg.storage.codecs import STATE

DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16", "float64")}

BY_NAME: Mapping[str, Mapping[str, Any]] = {
    "thalweg.SGD": {"momentum": 0.9},
    "torch.optim.SGD": {"momentum": 0.9},
}
"""Arguments of optimizers that are given by name: without momentum, SGD has no state to speak of."""

Optimizer = str | type[torch.optim.Optimizer] | partial[torch.optim.Optimizer]
Named = Mapping[str, str]
"""What arguments are called in errors, where that is not their name in Python."""


def settings(
    optimizers: Sequence[Optimizer] | Optimizer,
    storages: Sequence[str] | str,
    weight_bits: int | None,
    called: Named | None = None,
) -> list[Setting]:
    """Each optimizer with each storage that it can be asked for.

    Raises:
        TypeError, ValueError: an argument cannot be met; the message names it as `called` says.
    """
    called = called or {}
    storages = [storages] if isinstance(storages, str) else list(storages)
    for value in storages:
        if value not in STATE:
            allowed = ", ".join(STATE)
            raise ValueError(f"{called.get('storages', 'storages')} must be of {allowed}, not {value!r}")
    if not any(weight_bits is bits or weight_bits == bits for bits in WEIGHT_BITS):
        name = called.get("weight_bits", "weight_bits")
        raise ValueError(f"{name} must be 16, 24 or 32, not {weight_bits!r}")
    if not isinstance(optimizers, Sequence) or isinstance(optimizers, str):
        optimizers = [optimizers]
    found = [_built(one, called.get("optimizers", "optimizers")) for one in optimizers]
    every = [one for setting in found for one in _stored(setting, storages, weight_bits)]
    if not every:
        raise ValueError(f"{called.get('optimizers', 'optimizers')} and storages must not be empty")
    return list({(one.title, one.storage): one for one in every}.values())


def dtype_of(value: str | torch.dtype | None, called: Named | None = None) -> torch.dtype | None:
    """The dtype that is meant.

    Raises:
        ValueError: it is none that floating-point parameters can be cast to.
    """
    if value is None or value in DTYPES.values():
        return value if isinstance(value, torch.dtype) else None
    if isinstance(value, str) and value in DTYPES:
        found: torch.dtype = DTYPES[value]
        return found
    raise ValueError(
        f"{(called or {}).get('dtype', 'dtype')} must be one of {', '.join(DTYPES)}, not {value!r}"
    )


def _built(optimizer: Optimizer, argument: str) -> Setting:
    """How an optimizer is built, without its storage."""
    if isinstance(optimizer, str):
        return _by_name(optimizer, argument)
    make = optimizer.func if isinstance(optimizer, partial) else optimizer
    if not _is_optimizer(make) or (isinstance(optimizer, partial) and optimizer.args):
        raise TypeError(
            f"{argument} must hold names, dotted paths, classes of torch.optim.Optimizer, or "
            f"functools.partial of these with keyword arguments, not {optimizer!r}"
        )
    given = optimizer.keywords if isinstance(optimizer, partial) else {}
    return _setting(f"{make.__module__}.{make.__qualname__}", make, given)


def _by_name(name: str, argument: str) -> Setting:
    space = SPACES.get(name.lower())
    path = space.optimizer if space else name
    if "." not in path:
        known = ", ".join(SPACES)
        raise ValueError(
            f"{argument}: unknown optimizer {name!r}; choose from: {known}; or give a dotted path"
        )
    try:
        make = located(path)
    except ValueError as error:
        raise ValueError(f"{argument}: {error}") from None
    if not _is_optimizer(make):
        raise ValueError(f"{argument}: {name!r} is no class of torch.optim.Optimizer")
    return _setting(path, make, BY_NAME.get(path, {}))


def _is_optimizer(make: Any) -> bool:
    return isinstance(make, type) and issubclass(make, torch.optim.Optimizer)


def _setting(path: str, make: Any, given: Mapping[str, Any]) -> Setting:
    ours = issubclass(make, thalweg.Optimizer)
    # torch's classes lie in modules of their own, but are known by the package.
    public = f"torch.optim.{make.__name__}"
    foreign = public if path.startswith("torch.optim.") else path
    arguments = ", ".join(f"{key}={value!r}" for key, value in given.items())
    title = make.__name__ if ours else foreign
    return Setting(f"{title}({arguments})" if arguments else title, make, given)


def _stored(setting: Setting, storages: Iterable[str], weight_bits: int | None) -> list[Setting]:
    """The optimizer with each of the storages; once, if it has none or brings its own."""
    given = setting.arguments
    if not issubclass(setting.make, thalweg.Optimizer):  # type: ignore[arg-type]
        return [setting]
    bits = {} if "weight_bits" in given else {"weight_bits": weight_bits}
    if "state" in given:
        return [Setting(setting.title, setting.make, {**bits, **given}, "as given")]
    return [
        Setting(setting.title, setting.make, {**given, **bits, "state": stored}, stored)
        for stored in storages
    ]
