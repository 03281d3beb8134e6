"""What is asked: which hyperparameters, and the values that each is given."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from thalweg.lab.judging.wording import listed
from thalweg.lab.spaces import Axis, Space
from thalweg.lab.study.grid import REST, Factor, axis_of
from thalweg.lab.sweeping.asked import Called

MOST = 2
"""Hyperparameters at once."""

WORDS = {"true": True, "false": False, "none": None}


def ask(
    space: Space,
    names: Sequence[str],
    values: Mapping[str, Sequence[Any]],
    count: int,
    called: Called,
) -> tuple[Factor, ...]:
    """The hyperparameters with their values: those that were given, or spread over the optimizer's range.

    Args:
        space: of the optimizer.
        names: of its arguments, one or two, not the learning rate.
        values: by name, where they were given.
        count: of each, where they were not.
        called: the arguments' names in errors, where they are others.

    Raises:
        ValueError: that cannot be asked; the message names the argument.
    """
    of = called.get("of", "of")
    if not 1 <= len(names) <= MOST or len(set(names)) < len(names):
        raise ValueError(
            f"{of} must name one or two different hyperparameters, not {', '.join(names) or 'none'}"
        )
    if count < 2:
        raise ValueError(
            f"{called.get('points', 'points')} must be a whole number of at least 2, not {count}"
        )
    for name in values.keys() - set(names):
        raise ValueError(
            f"{called.get('values', 'values')}: {name!r} is not among what is asked of: {listed(names)}"
        )
    return tuple(_factor(space, name, values.get(name), count, called) for name in names)


def _factor(space: Space, name: str, given: Sequence[Any] | None, count: int, called: Called) -> Factor:
    of = called.get("of", "of")
    if name in ("lr", space.axes[0].name):
        raise ValueError(
            f"{of}: the learning rate is tuned anew at each point, so it cannot be asked of; see thalweg rate"
        )
    if given is not None:
        chosen = tuple(dict.fromkeys(given))
        if len(chosen) < 2:
            raise ValueError(
                f"{called.get('values', 'values')}: {name} needs at least two different values, not {given}"
            )
        return Factor(name, chosen)
    axis = axis_of(space, name)
    if axis is None:
        known = listed([other.name.removeprefix(REST) for other in space.axes[1:]]) or "none"
        raise ValueError(
            f"{of}: {space.name} has no range for {name!r}, only for {known}; for any other argument give "
            f"{called.get('values', 'values')}"
        )
    return Factor(name, spread(axis, count))


def spread(axis: Axis, count: int) -> tuple[Any, ...]:
    """Values over the whole range of an axis, both ends among them; all choices of one that has such."""
    if axis.choices:
        return axis.choices
    ends = np.linspace if axis.scale == "linear" else np.geomspace
    found = [float(f"{value:.3g}") for value in ends(axis.low, axis.high, count)]
    numbers: list[Any] = [round(value) for value in found] if axis.integer else found
    numbers = [*([0] if axis.zero else []), *numbers]
    if axis.name.startswith(REST):
        numbers = [round(1 - value, 12) for value in reversed(numbers)]
    return tuple(dict.fromkeys(numbers))


def parse(texts: Sequence[str], names: Sequence[str]) -> dict[str, list[Any]]:
    """Values as they are typed: ``0.9,0.99``, or with the name where there are two, ``eps=1e-8,1e-6``.

    Raises:
        ValueError: it cannot be told to which hyperparameter they belong.
    """
    found = dict[str, list[Any]]()
    for text in texts:
        name, equals, rest = text.partition("=")
        if not equals and len(names) != 1:
            raise ValueError(f"--values: say of which hyperparameter, as in {names[0]}={text}")
        name, rest = (name.strip(), rest) if equals else (names[0], text)
        if name in found:
            raise ValueError(f"--values: {name} is given twice")
        found[name] = [_value(word.strip()) for word in rest.split(",")]
    return found


def _value(word: str) -> Any:
    if word.lower() in WORDS:
        return WORDS[word.lower()]
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            pass
    return word
