"""Why optimizers end where they end: what was measured beside the final runs, and what may be said of it.

Every interval and every sentence holds with 95 % by itself, over the seeds on which it was measured.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from thalweg.lab.judging.quantities import NBSP, amount
from thalweg.lab.judging.statistics import mean_interval, surely_best
from thalweg.lab.judging.wording import counted, listed
from thalweg.lab.landscape.noise import fieller
from thalweg.lab.spaces import Space
from thalweg.lab.study.study import Study
from thalweg.lab.study.why import Found, Part, Why


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

LEAST = {
    SHARPNESS: "ends where the training loss is least sharp",
    TRACE: "ends where the trace is least",
    ADAPTIVE: "ends where adaptive sharpness is least",
    STEP: "takes the smallest steps",
}
"""What is said of the optimizer that surely has the least of each."""

PARTS: dict[Part, str] = {
    "curvature": "Sharpness and trace",
    "bound": "A bound of stability",
    "noise": "The noise scale",
    "updates": "The size of steps",
}


def is_measured(study: Study) -> bool:
    """Whether any final run was to be measured."""
    return any(whys_of(study, space) for space in study.spaces)


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


def finding(study: Study, quantity: Quantity) -> str:
    """What the seeds say of a quantity, no more than they do; empty where they say nothing."""
    if quantity is BOUND:
        return _about_bound(study)
    if quantity is NOISE:
        return _about_noise(study)
    may_be = least(study, quantity)
    if not may_be:
        return ""
    if len(may_be) == 1:
        return f"{may_be[0]} surely {LEAST[quantity]}."
    return f"Whether {' or '.join(may_be)} has the least, the seeds do not tell."


def least(study: Study, quantity: Quantity) -> list[str]:
    """Who may have the least of a quantity, by names; none where fewer than two have two seeds."""
    found = {space.title: values(study, space, quantity) for space in study.spaces}
    found = {title: by_seed for title, by_seed in found.items() if len(by_seed) > 1}
    if len(found) < 2:
        return []
    is_positive = all(value > 0 for by_seed in found.values() for value in by_seed.values())
    return surely_best(
        {
            title: {seed: -(math.log(value) if is_positive else value) for seed, value in by_seed.items()}
            for title, by_seed in found.items()
        }
    )


def size_of_steps(study: Study) -> str:
    """What a picture of the size of steps shows, in a sentence."""
    may_be = least(study, STEP)
    if len(may_be) == 1:
        return f"{may_be[0]} surely {LEAST[STEP]}"
    found = {space.title: level(study, space, STEP) for space in study.spaces}
    sizes = {title: one.value for title, one in found.items() if one is not None}
    low, high = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
    if low == high:
        return f"A step of {low} moves weights by {written(sizes[low])} % of their size"
    ends = (f"{written(sizes[title])} % ({title})" for title in (low, high))
    return f"A step moves weights by {' to '.join(ends)} of their size"


def _about_bound(study: Study) -> str:
    return _bounds(study) + _sides(
        study,
        BOUND,
        1.0,
        "At the highest rate, steps without noise",
        {
            "below": "would surely settle at the end of {}",
            "above": "would surely not settle at the end of {}",
        },
        "Whether steps at the highest rate would settle, the seeds do not tell of {}",
    )


def _bounds(study: Study) -> str:
    bounds = {}
    for space in study.spaces:
        found = [why.bound for why in whys_of(study, space).values() if why.bound is not None]
        if found:
            bounds[space.title] = statistics.median(found)
    each = listed([f"{written(bound)} for {title}" for title, bound in bounds.items()])
    return f"The bound is {each}. " if each else ""


def _about_noise(study: Study) -> str:
    batch = study.workload.batch_size
    return _sides(
        study,
        NOISE,
        batch,
        f"A gradient of {counted(batch, 'example')}",
        {
            "above": "is surely more noise than signal at the end of {}",
            "below": "is surely more signal than noise at the end of {}",
        },
        "Which of both is more, the seeds do not tell of {}",
    )


def _sides(
    study: Study, quantity: Quantity, mark: float, what: str, words: dict[str, str], open_: str
) -> str:
    """On which side of a mark each optimizer surely lies, and of which that is not known."""
    groups: dict[str, list[str]] = {}
    for space in study.spaces:
        found = level(study, space, quantity)
        if found is not None:
            groups.setdefault(_side(found, mark), []).append(space.title)
    claims = [words[side].format(listed(groups[side])) for side in words if side in groups]
    said = f"{what} {listed(claims)}." if claims else ""
    rest = f"{open_.format(listed(groups['']))}." if "" in groups else ""
    return " ".join(filter(None, [said, rest]))


def _side(found: Level, mark: float) -> str:
    """On which side of a mark the whole interval lies."""
    if found.low is not None and found.low > mark:
        return "above"
    return "below" if found.high is not None and found.high < mark else ""


def missing(study: Study) -> list[str]:
    """What was not measured, and why not, a line each."""
    lines = []
    for part, title in PARTS.items():
        reasons: dict[str, list[str]] = {}
        for space in study.spaces:
            whys = whys_of(study, space).values()
            told = [why.missing[part] for why in whys if part in why.missing]
            if told:
                share = "" if len(told) == len(whys) else f" on {len(told)} of {counted(len(whys), 'seed')}"
                reasons.setdefault(told[-1], []).append(space.title + share)
        lines += [f"{title}: not of {listed(names)}, as {reason}." for reason, names in reasons.items()]
    return lines


def conditions(study: Study) -> str:
    """Where and on what it was measured, and what that took."""
    whys = [why for space in study.spaces for why in whys_of(study, space).values()]
    runs = [record for record in study.records if record.timing is not None]
    examples = max((why.examples for why in whys), default=0)
    spent, trained = sum(w.seconds for w in whys), sum(r.timing.seconds for r in runs if r.timing)
    on = f"; curvature on {counted(examples, 'training example')} a seed" if examples else ""
    share = f" It took {100 * spent / trained:.2g} % of the time of all runs, beside it." if trained else ""
    return (
        f"At the weights after the last step of final runs{on}. Over seeds, geometric means (of the noise "
        f"scale the ratio of means) with 95 % intervals, each by itself.{share}"
    )


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
