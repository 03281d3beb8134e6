"""What a workload can be given in place of its defaults, for variants of it: ``FashionMnist(norm=True)``.

Options are attributes of the class with their defaults. An object has one of its own only where it differs,
so that a workload without any is told from others as before there were options. Methods read them when they
are called: a `Recipe` can change them too.
"""

from collections.abc import Mapping, Sequence
from typing import Any

TRAINING = (
    "steps",
    "batch_size",
    "evaluate_every",
    "clip_norm",
    "schedule",
    "until_loss",
    "target",
    "margin",
)
"""Attributes of the contract that are options of every workload."""


def require(condition: bool, name: str, allowed: str, value: Any) -> None:
    """Refuses a value.

    Raises:
        ValueError: the condition does not hold.
    """
    if not condition:
        raise ValueError(f"{name} must be {allowed}, not {value!r}")


def count(name: str, value: Any, least: int = 1) -> None:
    """Refuses what is not a whole number of at least so many."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    require(is_whole and value >= least, name, f"a whole number of at least {least}", value)


def share(name: str, value: Any) -> None:
    """Refuses what is not a number from 0 to 1, without 1."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    require(is_number and 0 <= value < 1, name, "a number of at least 0 and below 1", value)


def take(workload: Any, own: Sequence[str], given: Mapping[str, Any]) -> None:
    """Sets what was given and differs from the default.

    Args:
        workload: whose class has the defaults.
        own: its options beside `TRAINING`.
        given: by name.

    Raises:
        TypeError: one is no option of it; the message lists those that are.
    """
    kind = type(workload)
    for name in given:
        if name not in (*own, *TRAINING):
            known = ", ".join((*own, *TRAINING))
            raise TypeError(f"{kind.__name__} has no option {name!r}; there are: {known}")
    for name, value in given.items():
        if value != getattr(kind, name):
            setattr(workload, name, value)


def facts(workload: Any, own: Sequence[str]) -> dict[str, str]:
    """The options that are not the defaults, for `Workload.facts`."""
    kind = type(workload)
    changed = [name for name in (*own, *TRAINING) if getattr(workload, name) != getattr(kind, name)]
    return (
        {"Options": ", ".join(f"{name}={getattr(workload, name)!r}" for name in changed)} if changed else {}
    )
