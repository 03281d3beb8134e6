"""What the pictures of a landscape have in common."""

import math

from thalweg.lab.lesson.landscape.measuring import ARMS

NAMES = {"sgd-momentum": "SGD with momentum", "adam": "Adam", "rmsprop": "RMSprop"}
"""As they are said."""

SIZE = 460
"""Pixels of a picture, without what lies below it."""


def brief(name: str) -> str:
    """An arm's name in few words."""
    return NAMES[name].split(" with ")[0]


def place(name: str) -> int:
    """Which arm it is: colours and marks go by that."""
    return [space.name for space in ARMS].index(name)


def round_losses(low: float, high: float) -> list[float]:
    """Round numbers in a range of decimal logarithms."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    span = high - low
    factors = range(1, 10) if span < 0.5 else (1, 2, 5) if span < 1.5 else (1, 3)
    found = [float(f"{factor * 10.0**power:.3g}") for power in powers for factor in factors]
    return [value for value in found if low <= math.log10(value) <= high]
