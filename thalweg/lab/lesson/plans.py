"""Plans of other runs than a comparison's: each names all runs that the records of a study allow.

As `thalweg.lab.study.protocol.due` does: pure functions, so that to go on is to ask again.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from thalweg.lab.spaces import Axis, Space
from thalweg.lab.study import protocol
from thalweg.lab.study.extension import trial_of
from thalweg.lab.study.grid import tuned
from thalweg.lab.study.record import Trial
from thalweg.lab.study.study import Study

RATES, FEW_RATES = 13, 3
"""Rates of a sweep, and of one that is only to show that it works."""


def crossed(study: Study) -> list[Trial]:
    """Every rate of a sweep on every fresh seed, nothing chosen; seed by seed."""
    _, _, fresh = protocol.seeds(study.settings)
    return [
        trial_of("final", space, {space.axes[0].name: rate}, seed)
        for seed in fresh
        for space in study.spaces
        for rate in sweep(space.axes[0], RATES if study.settings.trials > FEW_RATES else FEW_RATES)
    ]


FACTORS = (1 / 3, 1.0, 3.0)
"""Of the best rate, in a factorial."""


def factorial(study: Study) -> list[Trial]:
    """The first arm of each optimizer is tuned; then every arm runs at factors of its optimizer's best rate.

    The arms are some optimizers under several schedules, those of the first schedule first.
    """
    return protocol.follow(study, (_tuning(_optimizers(study)), _at_factors))


def _optimizers(study: Study) -> int:
    return len({space.optimizer for space in study.spaces})


def _tuning(count: int) -> protocol.Step:
    """The first arms alone, tuned and measured as in a comparison."""
    return lambda study, _: protocol.due(replace(study, spaces=study.spaces[:count]))


def _at_factors(study: Study, _earlier: Sequence[Trial]) -> list[Trial]:
    _, _, fresh = protocol.seeds(study.settings)
    first = study.spaces[: _optimizers(study)]
    rates = {space.optimizer: chosen_rate(study, space) for space in first}
    return [
        trial_of("final", space, {space.axes[0].name: float(f"{factor * rate:.4g}")}, seed)
        for seed in fresh
        for space in study.spaces
        if (rate := rates[space.optimizer]) is not None
        for factor in FACTORS
        if not (factor == 1.0 and space in first)
    ]


def chosen_rate(study: Study, space: Space) -> float | None:
    """The rate that tuning chose for an arm."""
    record = protocol.chosen(study, space)
    return None if record is None else record.trial.lr


def factorial_cells(study: Study) -> dict[int, dict[tuple[str, float], float]]:
    """What the final runs of a factorial gave, by seed, arm and factor; failed runs as twice the worst."""
    rates = {space.optimizer: chosen_rate(study, space) for space in study.spaces[: _optimizers(study)]}
    finals = [record for record in study.records if record.trial.stage == "final"]
    ended = [record.test.metric for record in finals if record.test is not None]
    found: dict[int, dict[tuple[str, float], float]] = {}
    for record in finals:
        best = rates[record.trial.optimizer]
        factor = min(FACTORS, key=lambda f: abs(math.log(record.trial.lr / (f * (best or math.nan)))))
        value = 2 * max(ended) if record.test is None else record.test.metric
        found.setdefault(record.trial.seed, {})[record.trial.name, factor] = value
    return found


def transferred(study: Study) -> list[Trial]:
    """The first arm is tuned; then every arm runs at the rate that was chosen for it, on fresh seeds."""
    return protocol.follow(study, (_tuning(1), _at_the_first_ones_rate))


def _at_the_first_ones_rate(study: Study, _earlier: Sequence[Trial]) -> list[Trial]:
    rate = chosen_rate(study, study.spaces[0])
    _, _, fresh = protocol.seeds(study.settings)
    return [
        trial_of("final", space, {space.axes[0].name: rate}, seed)
        for seed in fresh
        for space in study.spaces[1:]
        if rate is not None
    ]


def extremes(study: Study) -> list[Trial]:
    """Every arm is tuned, then those that tuned best and worst, and the first, run on fresh seeds.

    How far a metric ranges over the arms is so measured on seeds that had no part in naming the ends. The
    first arm stands for the defaults.
    """
    return protocol.follow(study, (_each_tuned, _first_and_ends))


def _each_tuned(study: Study, _earlier: Sequence[Trial]) -> list[Trial]:
    first, _, _ = protocol.seeds(study.settings)
    return [
        trial_of("tune", space, {space.axes[0].name: rate}, first)
        for space in study.spaces
        for rate in sweep(space.axes[0], study.settings.trials)
    ]


def _first_and_ends(study: Study, _earlier: Sequence[Trial]) -> list[Trial]:
    _, _, fresh = protocol.seeds(study.settings)
    named = {study.spaces[0].name, *ends_of(study)}
    best = [protocol.chosen(study, space) for space in study.spaces if space.name in named]
    return [
        replace(record.trial, stage="final", seed=seed)
        for seed in fresh
        for record in best
        if record is not None
    ]


def ends_of(study: Study) -> tuple[str, str]:
    """The arms that are best and worst in tuning, each at its best rate; those of which all failed are none.

    Where all did, they are any.
    """
    order = sorted(study.spaces, key=lambda space: tuned(study, space))
    ended = [space for space in order if tuned(study, space) > -math.inf] or order
    return ended[-1].name, ended[0].name


def sweep(axis: Axis, count: int) -> list[float]:
    """Rates over the whole range of an axis, equally far apart in logarithms, both ends among them.

    One alone lies in the middle.
    """
    ratio = axis.high / axis.low
    places = [place / (count - 1) for place in range(count)] if count > 1 else [0.5]
    return [float(f"{axis.low * ratio**place:.3g}") for place in places]


def untuned(study: Study) -> list[Trial]:
    """Every arm at the one rate that its `default` states, on every fresh seed."""
    _, _, fresh = protocol.seeds(study.settings)
    return [
        trial_of("final", space, {space.axes[0].name: space.axes[0].default}, seed)
        for seed in fresh
        for space in study.spaces
    ]
