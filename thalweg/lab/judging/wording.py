"""Numbers and lists as they stand in a sentence."""

import math
from collections.abc import Sequence

from thalweg.lab.judging.statistics import Interval
from thalweg.lab.study.protocol import evidence
from thalweg.lab.study.study import Study

MOST_DECIMALS = 6
"""Beyond so many decimals a number has an exponent."""


MOST_NAMED = 4
"""Optimizers that a sentence names; the tables have all."""


MOST_WHOLE = 1e9
"""So have numbers from here on, as a divergence that stays finite makes them."""


class Numbers:
    """Writes values and differences of a study's metric, to a digit beyond the margin's first.

    Where the margin is zero, to a digit beyond that of the spread between seeds; where that takes more than
    six decimals, with an exponent.

    Args:
        study: whose metric.
        margin: the smallest difference worth having, in the metric's unit.
    """

    def __init__(self, study: Study, margin: float) -> None:
        self._unit = study.workload.unit
        self._difference_unit = study.workload.difference_unit
        self._margin, self._share = margin, study.settings.margin
        step = margin or evidence(study).spread / 3
        self.decimals = max(0, 1 - math.floor(math.log10(step))) if step else 3

    def plain(self, value: float) -> str:
        """A value without its unit."""
        if abs(value) >= MOST_WHOLE:
            return f"{value:.3e}".replace("e+", "e")
        if self.decimals <= MOST_DECIMALS:
            return f"{value:.{self.decimals}f}"
        if not value:
            return "0"
        digits = max(0, self.decimals + math.floor(math.log10(abs(value))))
        number, exponent = f"{value:.{digits}e}".split("e")
        return f"{number}e{int(exponent)}" if round(value, self.decimals) else "0"

    @property
    def format(self) -> str:
        """The same as a format of d3, for a plot's labels."""
        return f".{self.decimals}f" if self.decimals <= MOST_DECIMALS else ".4~e"

    def value(self, value: float) -> str:
        """A value with its unit, for example ``96.77 %``."""
        return f"{self.plain(value)} {self._unit}".rstrip()

    def difference(self, value: float) -> str:
        """A difference with its unit, for example ``0.39 points``."""
        return f"{self.plain(value)} {self._difference_unit}".rstrip()

    @property
    def margin(self) -> str:
        """The margin as it was chosen: ``0.5 points``, ``1 point``, ``2 % (0.086)``."""
        if self._share.spread:
            return self.difference(self._margin)
        if self._share.relative:
            return f"{100 * self._share.value:g} % ({self.difference(self._margin)})"
        unit = self._difference_unit.removesuffix("s") if self._margin == 1 else self._difference_unit
        return f"{self._margin:g} {unit}".rstrip()

    @property
    def beyond(self) -> str:
        """What a lead lies beyond."""
        return f"the margin of {self.margin}" if self._margin else "zero"

    @property
    def more(self) -> str:
        """What a lead may not surely be."""
        return f"more than the margin of {self.margin}" if self._margin else "more than the luck of tuning"

    def interval(self, interval: Interval) -> str:
        """The two ends, for example ``0.12 to 0.66``."""
        if interval.low is None or interval.high is None:
            return "unknown"
        return f"{self.plain(interval.low)} to {self.plain(interval.high)}"

    def in_brackets(self, interval: Interval) -> str:
        """The interval as it follows its mean in a sentence; nothing where there is none."""
        return "" if interval.low is None else f" (95 % interval {self.interval(interval)})"


def counted(number: int, what: str) -> str:
    """A number of things: ``1 seed``, ``2 seeds``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def listed(items: Sequence[str]) -> str:
    """The items as in a sentence: ``A``, ``A and B``, ``A, B and C``."""
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))


def few(items: Sequence[str], most: int = MOST_NAMED) -> str:
    """The items as in a sentence, of more than `most` the first ones: ``A, B and 9 others``."""
    if len(items) <= most:
        return listed(items)
    return listed([*items[: most - 1], f"{len(items) - most + 1} others"])
