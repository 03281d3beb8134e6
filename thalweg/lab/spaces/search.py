"""The hyperparameters to try: scrambled Sobol points, spread over the ranges."""

import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution

from thalweg.lab.spaces.space import Axis


class _Sobol(optuna.samplers.QMCSampler):
    """Optuna's sampler draws its first trial at random; this one starts the sequence with it."""

    def __init__(self, space: dict[str, BaseDistribution], seed: int) -> None:
        super().__init__(qmc_type="sobol", scramble=True, seed=seed)
        self._space = space

    def infer_relative_search_space(self, *_: Any) -> dict[str, BaseDistribution]:
        return self._space


def points(axes: Sequence[Axis], count: int, seed: int, skip: int = 0) -> list[dict[str, Any]]:
    """`count` points, uniform on each axis' own scale, each value rounded to three significant digits.

    They are rounded so that what is printed is exactly what was measured. Equal seeds put the points of
    different optimizers with as many axes at equal places of their ranges, so that luck of the draw
    is the same for all. The first n of a longer sequence are the shorter sequence; `skip` leaves out
    the first so many.
    """
    unit = _unit_points(len(axes), skip + count, seed)[skip:]
    return [{axis.name: axis.at(x) for axis, x in zip(axes, point, strict=True)} for point in unit]


@lru_cache(maxsize=32)
def _unit_points(dimensions: int, count: int, seed: int) -> tuple[tuple[float, ...], ...]:
    distributions: dict[str, BaseDistribution] = {
        f"x{i:02}": FloatDistribution(0.0, 1.0) for i in range(dimensions)
    }
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = optuna.create_study(sampler=_Sobol(distributions, seed))
        trials = [study.ask(distributions) for _ in range(count)]
    finally:
        optuna.logging.set_verbosity(verbosity)
    return tuple(tuple(trial.params[name] for name in distributions) for trial in trials)
