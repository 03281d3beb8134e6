"""What a time budget buys: how many points, learning rates and seeds, from the measured cost of a run."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from thalweg.lab.comparing.budget import MOST_SEEDS, capacity, duration
from thalweg.lab.spaces import Space
from thalweg.lab.study import grid
from thalweg.lab.study.extension import extension
from thalweg.lab.study.grid import Factor
from thalweg.lab.study.study import Settings

Asked = Callable[[int], Sequence[Factor]]
"""The hyperparameters with so many values each, where none were given."""

FINEST = {1: 9, 2: 5}
"""The most values of each, by the number of hyperparameters. Those of 2, 3 and 5 are among those of 9."""


class Rung(NamedTuple):
    """What is bought together: values of each hyperparameter, rates at each point, and seeds at least."""

    points: int
    trials: int
    seeds: int


RUNGS = (
    Rung(2, 2, 2),
    Rung(2, 4, 3),
    Rung(3, 4, 4),
    Rung(3, 6, 6),
    Rung(5, 8, 6),
    Rung(5, 12, 10),
    Rung(9, 12, 10),
    Rung(9, 16, 16),
)
"""From the least up. A rate that is badly tuned looks like an effect of the hyperparameter, and few seeds
tell little apart: both come before a finer grid."""


def buy(space: Space, asked: Asked, cost: float, budget: float, workers: int) -> dict[str, Any]:
    """Spreads `budget` seconds over points, learning rates and seeds, where a run takes `cost` seconds.

    The highest rung that fits is taken, with as many seeds as then fit. One extension of the range of rates
    is paid for in advance.

    Returns:
        ``points``, ``trials`` and ``seeds``; ``seconds``, the cost; ``bought``, all of it in words.
    """
    affordable = int(capacity(budget, workers) / cost)
    finest = FINEST[len(asked(2))]
    points, trials, seeds = RUNGS[0]
    arms = len(grid.arms(space, asked(points)))
    for rung in RUNGS:
        count = min(rung.points, finest)
        needed = len(grid.arms(space, asked(count)))
        if runs(needed, rung.trials, rung.seeds) <= affordable:
            points, trials, seeds, arms = count, rung.trials, rung.seeds, needed
    while seeds < MOST_SEEDS and runs(arms, trials, seeds + 1) <= affordable:
        seeds += 1
    return {
        "points": points,
        "trials": trials,
        "seeds": seeds,
        "seconds": cost,
        "bought": f"a budget of {duration(budget)} buys {arms} points, {trials} learning rates at each and "
        f"{seeds} seeds: at most {runs(arms, trials, seeds)} runs of about {cost:.2g} s, {workers} at a time",
    }


def runs(arms: int, trials: int, seeds: int) -> int:
    """The runs of so many points, where the range of rates grows once."""
    rates = trials + extension(Settings(trials))
    return arms * rates + (arms - 1 + rates) * seeds
