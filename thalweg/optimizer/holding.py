"""How many bytes of gradients steps in backward hold before they are stepped."""

from __future__ import annotations

LEAST_HELD = 4 << 20
"""Bytes of gradients that are held at least: a part of fewer would not be worth a second thread."""

MOST_PARTS = 16
"""Parts that a step is divided into, beside those of single large parameters. Each looks at all parameters,
and in the first step each is planned anew."""


def most_held(total: int, largest: int) -> int:
    """Return the most bytes of complete gradients that a pass holds, of the `hold` that is the default.

    Args:
        total: bytes of all gradients.
        largest: those of the largest one, with which what is held comes to be enough.
    """
    return min(total, least_part(total) + largest)


def least_part(total: int) -> int:
    """Return the bytes of complete gradients that make up a part, of all of that many bytes."""
    return max(LEAST_HELD, total // MOST_PARTS)
