"""Made-up results: what optimizers score on a seed, and what they score in truth.

Scores are larger when better, about 50 after training and 0 before, with a standard deviation of 1 beside
what all share on a seed. Accuracies are percentages.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

LEVEL, START = 50.0, 0.0
"""What is scored on average after training, and before."""

CRASHES = 0.15
"""The share of the runs that fail, where some do."""

IMAGES, CORRECT = 360, 0.97
"""A test split of so many images, and the share that is classified correctly."""

Draw = Callable[[np.random.Generator, int], np.ndarray]
"""Gives so many independent values with a mean of zero, one for each optimizer."""


@dataclass(frozen=True)
class Family:
    """A kind of results.

    Attributes:
        name: what the user types.
        title: what it is, for a reader.
        draw: the deviations of one seed from the truth, one for each optimizer.
        crashes: the share of the runs that fail.
        discrete: whether results are accuracies over a number of images.
        curvature: by how much the score falls a decade from the best learning rate, and by how much with
            its square; zero where tuning does not matter.
        optimizers: how many are compared.
    """

    name: str
    title: str
    draw: Draw
    crashes: float = 0.0
    discrete: bool = False
    curvature: float = 0.0
    optimizers: tuple[int, ...] = (2,)

    def mean(self, lead: float) -> float:
        """The true mean of an optimizer that is ahead by `lead` where it finishes, but for what a failure
        counts.

        That is the same for all, so differences of these are right.
        """
        return 100 * CORRECT + lead if self.discrete else (1 - self.crashes) * (LEVEL + lead)

    def lead(self, wanted: float) -> float:
        """The lead where it finishes that makes one of `wanted` in truth."""
        return wanted / (1 - self.crashes)

    def scores(self, generator: np.random.Generator, leads: np.ndarray) -> list[float | None]:
        """What optimizers with these leads score on one seed; None where one failed."""
        if self.discrete:
            shares = np.clip(CORRECT + leads / 100, 0, 1)
            return [float(count) * 100 / IMAGES for count in generator.binomial(IMAGES, shares)]
        shared = generator.normal()
        values = LEVEL + shared + leads + self.draw(generator, len(leads))
        failed = generator.random(len(leads)) < self.crashes
        return [None if bad else float(value) for value, bad in zip(values, failed, strict=True)]


def _normal(generator: np.random.Generator, count: int) -> np.ndarray:
    return generator.normal(size=count)


def _exponential(generator: np.random.Generator, count: int) -> np.ndarray:
    return generator.exponential(size=count) - 1


def _lognormal(generator: np.random.Generator, count: int) -> np.ndarray:
    """Standard deviation 1, skewness 6."""
    mean, spread = math.exp(0.5), math.sqrt((math.e - 1) * math.e)
    return (generator.lognormal(size=count) - mean) / spread


def _one_exponential(generator: np.random.Generator, count: int) -> np.ndarray:
    return np.array([-_exponential(generator, 1)[0], *_normal(generator, count - 1)])


def _one_lognormal(generator: np.random.Generator, count: int) -> np.ndarray:
    return np.array([-_lognormal(generator, 1)[0], *_normal(generator, count - 1)])


def _lone_exponential(generator: np.random.Generator, count: int) -> np.ndarray:
    """All but one hardly differ from seed to seed, so that nothing hides its skewness."""
    return np.array([-_exponential(generator, 1)[0], *0.1 * _normal(generator, count - 1)])


FAMILIES = [
    Family("normal", "normal", _normal, optimizers=(2, 3, 5, 10)),
    Family("exponential", "exponential", _exponential, optimizers=(2, 5)),
    Family("lognormal", "lognormal", _lognormal, optimizers=(2, 5)),
    Family("accuracy", f"accuracy of {IMAGES} images", _normal, discrete=True, optimizers=(2, 5)),
    Family(
        "crashes", f"normal, {100 * CRASHES:g} % of the runs fail", _normal, CRASHES, optimizers=(2, 3, 10)
    ),
    Family("one-exponential", "one exponential, others normal", _one_exponential, optimizers=(2, 3)),
    Family("one-lognormal", "one lognormal, others normal", _one_lognormal, optimizers=(2, 3)),
    Family("lone-exponential", "one exponential, others constant", _lone_exponential),
    Family("peaked", "a peaked response to the rate", _normal, curvature=8.0, optimizers=(2, 3)),
    Family("sharp", "a very peaked response", _normal, curvature=40.0, optimizers=(2, 3)),
]
