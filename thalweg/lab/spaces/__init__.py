"""Where hyperparameters are searched: each optimizer with its ranges, and the points that are tried."""

from thalweg.lab.spaces.known import SPACES, find
from thalweg.lab.spaces.recipe import Recipe, resolve
from thalweg.lab.spaces.space import FEW, MANY, SOME, Axis, Point, Space, build, code, jsonable, located
from thalweg.lab.spaces.together import Together

__all__ = [
    "FEW",
    "MANY",
    "SOME",
    "SPACES",
    "Axis",
    "Point",
    "Recipe",
    "Space",
    "Together",
    "build",
    "code",
    "find",
    "jsonable",
    "located",
    "resolve",
]
