"""Numbers and lists as they stand in a sentence."""

import math
from collections.abc import Sequence

from thalweg.lab.statistics import Interval
from thalweg.lab.study import Study


class Numbers:
    """Writes values and differences of a study's metric, to a digit beyond the margin's first."""

    def __init__(self, study: Study) -> None:
        self._unit = study.workload.unit
        self._difference_unit = study.workload.difference_unit
        margin = study.settings.margin or study.workload.margin
        self.decimals = min(6, max(0, 1 - math.floor(math.log10(margin))))

    def plain(self, value: float) -> str:
        """A value without its unit."""
        return f"{value:.{self.decimals}f}"

    def value(self, value: float) -> str:
        """A value with its unit, for example ``96.77 %``."""
        return f"{self.plain(value)} {self._unit}".rstrip()

    def difference(self, value: float) -> str:
        """A difference with its unit, for example ``0.39 points``."""
        return f"{self.plain(value)} {self._difference_unit}".rstrip()

    def margin(self, value: float) -> str:
        """A difference that somebody chose, without padding: ``0.5 points``, ``1 point``."""
        unit = self._difference_unit.removesuffix("s") if value == 1 else self._difference_unit
        return f"{value:g} {unit}".rstrip()

    def interval(self, interval: Interval) -> str:
        """The two ends, for example ``0.12 to 0.66``."""
        if interval.low is None or interval.high is None:
            return "unknown"
        return f"{self.plain(interval.low)} to {self.plain(interval.high)}"


def listed(items: Sequence[str]) -> str:
    """The items as in a sentence: ``A``, ``A and B``, ``A, B and C``."""
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))
