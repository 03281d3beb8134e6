"""Why optimizers end where they end: what may be said of what was measured beside the final runs.

Every sentence holds with 95 % by itself, over the seeds on which it was measured.
"""

import math
import statistics

from thalweg.lab.judging.levels import (
    ADAPTIVE,
    BOUND,
    NOISE,
    SHARPNESS,
    STEP,
    TRACE,
    Level,
    Quantity,
    level,
    values,
    whys_of,
    written,
)
from thalweg.lab.judging.statistics import surely_best
from thalweg.lab.judging.wording import MOST_NAMED, counted, few, listed
from thalweg.lab.study.study import Study

LEAST = {
    SHARPNESS: "ends where the training loss is least sharp",
    TRACE: "ends where the trace is least",
    ADAPTIVE: "ends where adaptive sharpness is least",
    STEP: "takes the smallest steps",
}
"""What is said of the optimizer that surely has the least of each."""


def is_measured(study: Study) -> bool:
    """Whether any final run was to be measured."""
    return any(whys_of(study, space) for space in study.spaces)


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
    if len(may_be) <= MOST_NAMED:
        return f"Whether {' or '.join(may_be)} has the least, the seeds do not tell."
    return f"Who of {few(may_be)} has the least, the seeds do not tell."


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
    each = [f"{written(bound)} for {title}" for title, bound in sorted(bounds.items(), key=lambda b: b[1])]
    if len(each) > MOST_NAMED:
        return f"The bound is {each[0]} to {each[-1]}. "
    each = [f"{written(bound)} for {title}" for title, bound in bounds.items()]
    return f"The bound is {listed(each)}. " if each else ""


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
    claims = [words[side].format(few(groups[side])) for side in words if side in groups]
    said = f"{what} {listed(claims)}." if claims else ""
    rest = f"{open_.format(few(groups['']))}." if "" in groups else ""
    return " ".join(filter(None, [said, rest]))


def _side(found: Level, mark: float) -> str:
    """On which side of a mark the whole interval lies."""
    if found.low is not None and found.low > mark:
        return "above"
    return "below" if found.high is not None and found.high < mark else ""


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
