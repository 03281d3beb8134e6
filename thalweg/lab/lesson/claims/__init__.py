"""The claims, one file each, in the order in which the lesson makes them."""

from functools import cache
from importlib import import_module

from thalweg.lab.lesson.claim import Claim

FILES = (
    "s_plus_1",
    "s_plus_2",
    "s_plus_3",
    "s_minus_1",
    "s_minus_2",
    "s_minus_3",
    "a_plus_1",
    "a_plus_2",
    "a_plus_3",
    "a_minus_1",
    "a_minus_2",
    "a_minus_3",
    "r_plus_1",
    "r_plus_2",
    "r_plus_3",
    "r_minus_1",
    "r_minus_2",
    "r_minus_3",
    "e1",
    "e2",
    "e3",
    "g1",
    "g2",
)


@cache
def catalogue() -> dict[str, Claim]:
    """All claims by name, in the lesson's order."""
    found = [import_module(f"thalweg.lab.lesson.claims.{name}").CLAIM for name in FILES]
    return {claim.name: claim for claim in found}


def chosen(names: list[str]) -> list[Claim]:
    """The claims of these names, in the lesson's order; all where none is named.

    Raises:
        ValueError: there is no such claim; the message lists those that exist.
    """
    known = catalogue()
    for name in names:
        if name.upper() not in known:
            raise ValueError(f"unknown claim {name!r}; there are: {', '.join(known)}")
    wanted = {name.upper() for name in names}
    return [claim for name, claim in known.items() if not wanted or name in wanted]
