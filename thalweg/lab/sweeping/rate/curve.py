"""What a climbing learning rate does to the loss: its course, the rate it suggests, where training breaks.

Smith 2015, "Cyclical learning rates for training neural networks", arXiv 1506.01186, section 3.3: train while
the rate climbs, and see where the loss falls and where it breaks. Here the rate climbs geometrically, so that
each decade gets as many steps, and the loss of a rate is that of the batch after the step with it.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

WIDTH = 0.15
"""Standard deviation of the smoothing, in decades of the rate."""

SHARE_OF_LOWEST = 0.5
"""What is suggested, as a share of the rate at which the smoothed loss is lowest.

The best rate usually lies within a factor of two of the largest that does not diverge (Bengio 2012,
"Practical recommendations for gradient-based training of deep architectures", arXiv 1206.5533, section
3.1.1); beyond the lowest loss a higher rate no longer helps.
"""

RULE = "half of the rate at which the smoothed loss is lowest"
"""The same in words."""

QUIET, FEWEST_QUIET = 0.1, 10
"""The first share of the steps, and at least so many, whose losses say how noisy it is before it falls."""

SIGMAS = 3.0
"""Training is undone where the loss climbs above its start by so many standard deviations of that noise,"""

WINDOW, SHORTEST_WINDOW = 0.02, 5
"""on the mean of this share of the steps, and of so many at least."""

ROUNDING = 1e-6
"""The least noise that is reckoned with, as a share of the loss: float32's."""

FEWEST = 20
"""Steps of a sweep, at least: fewer have neither a start nor a course."""


def geometric(low: float, high: float, steps: int) -> list[float]:
    """`steps` rates from `low` to `high`, each the same multiple of the one before."""
    return [float(rate) for rate in np.geomspace(low, high, steps)]


@dataclass(frozen=True)
class Sweep:
    """One climb of the rate, with what it did to the loss.

    Attributes:
        seed: of the run.
        rates: with a finite loss, of shape (n,), rising.
        losses: of the batch after the step with each rate, of shape (n,).
        start: the mean loss before any of it was learned.
        noise: the standard deviation of the loss between batches then.
        undone: the rate at which the loss was back above its start or not finite; None if it never was.
    """

    seed: int
    rates: Sequence[float]
    losses: Sequence[float]
    start: float
    noise: float
    undone: float | None

    @cached_property
    def smoothed(self) -> np.ndarray:
        """The losses without the noise of batches, of shape (n,)."""
        return smooth(np.log10(self.rates), np.asarray(self.losses)) if self.rates else np.empty(0)

    @property
    def lowest(self) -> float | None:
        """The rate at which the smoothed loss is lowest; None where that says nothing, for `why`."""
        return None if self.why else float(self.rates[int(np.argmin(self.smoothed))])

    @property
    def suggested(self) -> float | None:
        """The rate to begin with: `SHARE_OF_LOWEST` of `lowest`."""
        return None if self.lowest is None else SHARE_OF_LOWEST * self.lowest

    @property
    def why(self) -> str:
        """Why no rate can be suggested; empty where one can."""
        if len(self.rates) < FEWEST:
            return "training is undone too soon to see a course: begin at a lower rate"
        if not float(self.smoothed.min()) < self.start - self.noise:
            return "the loss does not fall at any rate of the range"
        if self.undone is None and int(np.argmin(self.smoothed)) == len(self.rates) - 1:
            return "the loss still falls at the highest rate: end at a higher one"
        return ""


def smooth(x: np.ndarray, y: np.ndarray, width: float = WIDTH) -> np.ndarray:
    """Lines fitted around each place, weighted by a Gaussian; unlike a running average it does not lag.

    Args:
        x: the places, of shape (n,).
        y: the values there, of shape (n,).
        width: of the Gaussian, its standard deviation in units of `x`.
    """
    weights = np.exp(-0.5 * ((x[:, None] - x) / width) ** 2)
    weights /= weights.sum(axis=1, keepdims=True)
    middle, mean = weights @ x, weights @ y
    spread = weights @ x**2 - middle**2
    slope = (weights @ (x * y) - middle * mean) / np.maximum(spread, 1e-12)
    return np.asarray(mean + slope * (x - middle))


def level(losses: Sequence[float]) -> tuple[float, float]:
    """The mean of losses and their standard deviation, both nan of fewer than two."""
    if len(losses) < 2:
        return math.nan, math.nan
    mean = statistics.fmean(losses)
    return mean, max(statistics.stdev(losses, mean), ROUNDING * abs(mean))


class Course:
    """A climb under way.

    Args:
        rates: of its steps.
    """

    def __init__(self, rates: Sequence[float]) -> None:
        self._rates, self._losses, self._undone = rates, list[float](), False
        self._quiet = max(FEWEST_QUIET, round(QUIET * len(rates)))
        self._window = max(SHORTEST_WINDOW, round(WINDOW * len(rates)))

    def goes_on(self, loss: float) -> bool:
        """Notes the loss of a step, before its rate had an effect; False where training is undone."""
        self._losses.append(loss)
        self._undone = not math.isfinite(loss) or self._is_back()
        return not self._undone

    def _is_back(self) -> bool:
        if len(self._losses) < self._quiet + self._window:
            return False
        start, noise = level(self._losses[: self._quiet])
        return statistics.fmean(self._losses[-self._window :]) > start + SIGMAS * noise

    def sweep(self, seed: int) -> Sweep:
        """What there is of it."""
        # The rate of a step shows in the loss of the next one.
        pairs = list(zip(self._rates, self._losses[1:], strict=False))
        finite = [(rate, loss) for rate, loss in pairs if math.isfinite(loss)]
        return Sweep(
            seed,
            [rate for rate, _ in finite],
            [loss for _, loss in finite],
            *level(list(filter(math.isfinite, self._losses[: self._quiet]))),
            self._rates[max(0, len(self._losses) - 2)] if self._undone else None,
        )
