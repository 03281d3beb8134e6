"""What was measured beside the final runs, as quantities, and their levels over seeds.

Every interval holds with 95 % by itself, over the seeds on which it was measured.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from thalweg.lab.judging.quantities import NBSP, amount
from thalweg.lab.judging.statistics import mean_interval
from thalweg.lab.landscape.noise import fieller
from thalweg.lab.spaces import Space
from thalweg.lab.study.study import Study
from thalweg.lab.study.why import Found, Why


@dataclass(frozen=True)
class Level:
    """A quantity of one optimizer over seeds.

    Attributes:
        value: a geometric mean or, where one is not positive, the mean; of the noise scale a ratio of means.
        low: end of the 95 % interval; None of a single seed.
        high: the other; it may be infinite.
        seeds: how many.
    """

    value: float
    low: float | None
    high: float | None
    seeds: int


@dataclass(frozen=True)
class Quantity:
    """What is measured.

    Attributes:
        name: tells it from the others.
        title: its name for a reader.
        unit: what it is counted in.
        meaning: what it means, a sentence.
        of: its value of one run; None where it was not measured.
    """

    name: str
    title: str
    unit: str
    meaning: str
    of: Callable[[Why], float | None]


def step_size(why: Why) -> float | None:
    """The median over the parameters of the RMS of a step over that of the weights."""
    return statistics.median(why.updates.values()) if why.updates else None


def share_of_bound(why: Why) -> float | None:
    """The sharpness that the optimizer meets, as a share of the one at which its steps are unstable."""
    return why.steered.value / why.bound if why.steered is not None and why.bound else None


def _value(found: Found | None) -> float | None:
    return None if found is None else found.value


SHARPNESS = Quantity(
    "sharpness",
    "Sharpness",
    "",
    "The curvature of the training loss where it curves most: the largest eigenvalue of its Hessian.",
    lambda why: _value(why.sharpness),
)

BOUND = Quantity(
    "bound",
    "Sharpness / bound",
    "unstable above 1",
    "That curvature as the optimizer scales it, over the one at which its steps stop settling at the run's "
    "highest learning rate: above 1, only a fallen rate lets it stay.",
    share_of_bound,
)

TRACE = Quantity(
    "trace",
    "Trace",
    "",
    "The curvature in all directions together: the sum of the Hessian's eigenvalues.",
    lambda why: _value(why.trace),
)

ADAPTIVE = Quantity(
    "adaptive",
    "Adaptive sharpness",
    "",
    "Sharpness for changes in proportion to the weights, which a mere scaling of layers does not change: the "
    "largest eigenvalue of |W| H |W|.",
    lambda why: _value(why.adaptive),
)

NOISE = Quantity(
    "noise",
    "Noise scale",
    "examples",
    "So many examples give a gradient whose noise is as large as itself: tr(\u03a3) / |G|\u00b2.",
    lambda why: why.noise,
)

STEP = Quantity(
    "step",
    "Step",
    "% of the weights",
    "The RMS of a step over that of the weights that it moves: the median of the parameters and of eight "
    "steps spread over the run.",
    lambda why: None if (size := step_size(why)) is None else 100 * size,
)

QUANTITIES = (SHARPNESS, BOUND, TRACE, ADAPTIVE, NOISE, STEP)


def whys_of(study: Study, space: Space) -> dict[int, Why]:
    """What was measured beside an optimizer's final runs, by seed."""
    return {r.trial.seed: r.why for r in study.final_of(space) if r.why is not None}


def values(study: Study, space: Space, quantity: Quantity) -> dict[int, float]:
    """A quantity of an optimizer, by seed."""
    found = {seed: quantity.of(why) for seed, why in whys_of(study, space).items()}
    return {seed: value for seed, value in found.items() if value is not None and math.isfinite(value)}


def level(study: Study, space: Space, quantity: Quantity) -> Level | None:
    """A quantity of an optimizer over seeds; None where it was not measured."""
    if quantity is NOISE:
        return _noise_level(list(whys_of(study, space).values()))
    found = list(values(study, space, quantity).values())
    return level_of(found) if found else None


def level_of(found: Sequence[float]) -> Level:
    """The geometric mean of positive values or else the mean, at least one, with its interval."""
    if min(found) > 0:
        mean = mean_interval([math.log(value) for value in found])
        low, high = (None if end is None else _exp(end) for end in (mean.low, mean.high))
        return Level(math.exp(mean.mean), low, high, len(found))
    mean = mean_interval(found)
    return Level(mean.mean, mean.low, mean.high, len(found))


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def _noise_level(whys: Sequence[Why]) -> Level | None:
    """Mean noise over mean signal: of one seed alone the noise often hides the signal."""
    pairs = [(w.noise, w.signal) for w in whys if w.noise is not None and w.signal is not None]
    if not pairs:
        return None
    noise, signal = (statistics.fmean(column) for column in zip(*pairs, strict=True))
    value = noise / signal if signal > 0 else math.inf
    if len(pairs) < 2:
        return Level(value, None, None, 1)
    low, high = fieller([one for one, _ in pairs], [other for _, other in pairs])
    return Level(value, low, high, len(pairs))


def written(value: float) -> str:
    """A value in a few digits."""
    if value and not 1e-3 <= abs(value) < 1e6:
        digits, exponent = f"{value:.1e}".split("e")
        return f"{digits}e{int(exponent)}"
    return amount(value) if value >= 0 else f"\u2212{amount(-value)}"


def valued(found: Level) -> str:
    """The value of a level, or the least that it may be."""
    if not math.isinf(found.value):
        return written(found.value)
    return f"\u2265{NBSP}{written(found.low)}" if found.low else "\u221e"


def bracketed(found: Level) -> str:
    """The interval of a level: ``1.2 to 3.4``, ``at least 40``."""
    if found.low is None or found.high is None:
        return "one seed"
    if math.isinf(found.value):
        return "signal lost in noise"
    if math.isinf(found.high):
        return f"at least{NBSP}{written(found.low)}" if found.low > 0 else "unknown"
    return f"{written(found.low)} to {written(found.high)}"
