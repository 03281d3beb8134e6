"""The learning rates to try: a scrambled Sobol sequence over the logarithm of a range."""

import warnings
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution

from thalweg.lab.spaces import Space


class _Sobol(optuna.samplers.QMCSampler):
    """Optuna's sampler draws its first trial at random; this one starts the sequence with it."""

    def __init__(self, space: dict[str, BaseDistribution], seed: int) -> None:
        super().__init__(qmc_type="sobol", scramble=True, seed=seed)
        self._space = space

    def infer_relative_search_space(self, *_: Any) -> dict[str, BaseDistribution]:
        return self._space


def learning_rates(space: Space, count: int, seed: int) -> list[float]:
    """`count` learning rates from `space`, log-uniform, each rounded to three significant digits.

    They are rounded so that the printed rate is exactly the rate that was measured. Equal seeds put
    the trials of different optimizers at equal places of their ranges, so that luck of the draw is
    the same for all. The first n of a longer sequence are the shorter sequence.
    """
    distributions: dict[str, BaseDistribution] = {"lr": FloatDistribution(space.low, space.high, log=True)}
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = optuna.create_study(sampler=_Sobol(distributions, seed))
        trials = [study.ask(distributions) for _ in range(count)]
    finally:
        optuna.logging.set_verbosity(verbosity)
    return [float(f"{trial.params['lr']:.3g}") for trial in trials]
