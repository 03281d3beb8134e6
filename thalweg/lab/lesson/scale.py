"""In what a claim's endpoint is counted, how it is said, and the smallest difference worth having."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """The unit of an endpoint.

    Attributes:
        margin: the smallest difference worth having, on the scale that values are given in.
        unit: the words after a number.
        logarithmic: whether values are natural logarithms of ratios, which are said as factors.
        digits: after the point.
        turned: whether a value is said with its sign turned, because less of it favours the claim.
    """

    margin: float
    unit: str
    logarithmic: bool = False
    digits: int = 2
    turned: bool = False

    def number(self, value: float) -> str:
        """A value as it is said, without its unit."""
        value = -value if self.turned else value
        if not math.isfinite(value):
            return "\N{INFINITY}" if value > 0 else "-\N{INFINITY}"
        told = math.exp(value) if self.logarithmic else value
        if self.logarithmic and told >= 100:
            return f"{told:,.0f}"
        # Without the sign of a zero.
        return f"{told:z.{self.digits}f}"

    def text(self, value: float) -> str:
        """A value as it is said, with its unit."""
        return f"{self.number(value)} {self.unit}"

    def ordered(self, low: float, high: float) -> tuple[float, float]:
        """The ends of an interval in the order in which they are said."""
        return (high, low) if self.turned else (low, high)

    @property
    def neutral(self) -> float:
        """The value that stands for no difference, as it is said."""
        return 1.0 if self.logarithmic else 0.0


POINTS = Scale(0.5, "points")
"""Of accuracy."""

LOSS = Scale(math.log(1.02), "times the loss", logarithmic=True, digits=3)
"""The ratio of two losses; 2 % are worth having."""

FACTOR = Scale(math.log(1.5), "times the steps", logarithmic=True)
"""The ratio of two numbers of steps."""

DECADES = Scale(0.3, "decades")
"""Of learning rate."""

MARGINS = Scale(1.0, "margins")
"""Differences of several workloads, each divided by the margin of its own."""

TIMES = Scale(math.log(1.5), "times", logarithmic=True)
"""A ratio of two sharpnesses."""
