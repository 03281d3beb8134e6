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


FACTORS = ((1, 3), (1, 2, 5), range(1, 10), [1 + fifth / 5 for fifth in range(45)])
"""What round numbers begin with, from few to many."""

FEWEST = 3
"""Round numbers that an axis needs."""


def round_losses(low: float, high: float) -> list[float]:
    """Round numbers in a range of decimal logarithms, as few as will do."""
    powers, found = range(math.floor(low), math.ceil(high) + 1), list[float]()
    for factors in FACTORS:
        every = [float(f"{factor * 10.0**power:.3g}") for power in powers for factor in factors]
        found = [value for value in every if low <= math.log10(value) <= high]
        if len(found) >= FEWEST:
            break
    return found
