"""What the pictures of a landscape have in common."""

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
