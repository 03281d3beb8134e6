"""When the fresh seeds are looked at, and how much of the error each look may spend."""

import math
from collections.abc import Sequence

ERROR = 0.05
"""The chance of any false claim in a whole study that is risked: over all pairs and all looks."""

LOOKS = (6, 10, 16, 24)
"""Numbers of fresh seeds at which a study is looked at, where it may take as many."""

NEAR = 0.75
"""A look at more than this share of the last one would be hardly worth its error."""

MOST_OF_ERROR = 2 / 3
"""The largest share of the error that an early look may spend."""


def looks_up_to(seeds: int) -> tuple[int, ...]:
    """The looks of a study that may take so many seeds; the last is at all of them."""
    return (*(look for look in LOOKS if look <= NEAR * seeds), seeds)


def spending(looks: Sequence[int], pairs: int) -> list[float]:
    """The error that each look may spend on each pair; all of it together is at most `ERROR`.

    By Bonferroni over pairs and looks, which holds whatever depends on what. The looks share alike, but one
    whose smallest p needs more than that gets what it needs, up to two thirds of the whole; one that would
    need yet more cannot tell anything and gets nothing.
    """
    left, spent = ERROR, []
    for place, look in enumerate(looks):
        smallest, last = max(1, pairs) * 2.0 ** (1 - look), place == len(looks) - 1
        share = max(left / (len(looks) - place), smallest)
        if last or smallest > MOST_OF_ERROR * ERROR:
            share = left if last else 0.0
        spent.append(min(share, left))
        left -= spent[-1]
    return [share / max(1, pairs) for share in spent]


def fewest_seeds(optimizers: int) -> int:
    """The fewest seeds with which a difference can be told: all agree, and it holds for all pairs."""
    return math.ceil(math.log2(2 * max(1, math.comb(optimizers, 2)) / ERROR))
