"""The optimizer decides how efficiently a network learns."""

import math
from itertools import product

import numpy as np

from thalweg.lab.lesson import arms, workloads
from thalweg.lab.lesson.claim import Claim, Line, told
from thalweg.lab.lesson.experiment import STEPS_TO_LOSS, Experiment
from thalweg.lab.lesson.found import Found, Scores, mean_of
from thalweg.lab.lesson.plans import FACTORS, factorial, factorial_cells
from thalweg.lab.lesson.scale import Scale
from thalweg.lab.study.study import Study

SHARE = Scale(0.5, "of the variance")

SCHEDULES = ("linear", "cosine", "constant")
"""The first is the one that rates are tuned with."""

OPTIMIZERS = (arms.SGD_MOMENTUM, arms.RMSPROP, arms.ADAM)

ARMS = tuple(
    arms.changed(space, f"{space.name} {schedule}", schedule=schedule)
    for schedule, space in product(SCHEDULES, OPTIMIZERS)
)

FACTORIALS = tuple(
    Experiment(f"factorial-{name}", make, ARMS, plan=factorial, reading=STEPS_TO_LOSS)
    for name, make in (
        ("digits", workloads.digits_to_loss),
        ("deep", workloads.deep_64),
        ("speech", workloads.speech_to_loss),
    )
)


def shares(study: Study) -> dict[int, tuple[float, float, float]]:
    """The shares of optimizer, rate and schedule in the variance of log steps, by seed.

    Main effects over all 27 combinations; what is left is their interplay.
    """
    found = {}
    for seed, cells in factorial_cells(study).items():
        names = product(SCHEDULES, OPTIMIZERS, FACTORS)
        steps = [cells.get((f"{space.name} {schedule}", factor)) for schedule, space, factor in names]
        if all(value is not None and value > 0 for value in steps):
            table = np.log(np.array(steps, dtype=float)).reshape(
                len(SCHEDULES), len(OPTIMIZERS), len(FACTORS)
            )
            total = float(table.var())
            by = [float(table.mean(axis=axes).var()) for axes in ((0, 2), (0, 1), (1, 2))]
            optimizer, rate, schedule = (value / total if total else math.nan for value in by)
            found[seed] = (optimizer, rate, schedule)
    return found


def share(found: Found, which: int) -> Scores:
    """One of the three shares, mean of the workloads."""
    return mean_of(
        [{seed: three[which] for seed, three in shares(found[e.name]).items()} for e in FACTORIALS]
    )


def values(found: Found) -> Scores:
    """The optimizer's share."""
    return share(found, 0)


def secondary(found: Found) -> list[Line]:
    """The shares of rate and schedule."""
    return [told(name, share(found, which), SHARE) for which, name in ((1, "learning rate"), (2, "schedule"))]


CLAIM = Claim(
    name="G1",
    subject="In general",
    says="The optimizer decides how efficiently a network learns.",
    endpoint="The optimizer's share in the variance of the logarithm of steps to a training loss, over SGD "
    "with momentum, RMSprop and Adam, rates a third of, at and three times each one's best of 12, "
    "and three schedules; mean of digits, an 8-layer tanh network and speech. It decides if it has"
    " more than half.",
    scale=SHARE,
    experiments=FACTORIALS,
    values=values,
    reads="in the steps to a training loss is the optimizer's",
    conditions="A share depends on what else may vary, here the rate by a factor of 9.",
    secondary=secondary,
)
