"""The learning rates of the runs: the best of the lesson's records, where it has any."""

import inspect
import pkgutil
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from thalweg.lab.lesson import keeping
from thalweg.lab.lesson.claim import shared
from thalweg.lab.lesson.claims import catalogue
from thalweg.lab.lesson.experiment import Experiment
from thalweg.lab.lesson.keeping import Kept
from thalweg.lab.spaces import Space
from thalweg.lab.study.record import Record
from thalweg.lab.workload import Workload

DEFAULTS = {"sgd-momentum": 0.03, "adam": 1e-3, "rmsprop": 1e-3}
"""Where there are none."""


def rate_of(folder: Path, workload: Workload, space: Space) -> tuple[float, str]:
    """The rate that was best on validation, and where it comes from, in words.

    Those runs of any experiment count that trained this workload, for as many steps and in such batches, with
    this optimizer; where a rate was run on several seeds, their mean does.
    """
    tried: dict[float, list[float]] = {}
    for record in _runs(folder, workload, space):
        if record.validation is not None:
            tried.setdefault(record.trial.lr, []).append(record.validation.metric)
    if not tried:
        return DEFAULTS[space.name], "a default, not tuned"
    best = max if workload.higher_is_better else min
    rate = best(tried, key=lambda rate: statistics.fmean(tried[rate]))
    return rate, f"the best on validation of {len(tried)} tried"


def _runs(folder: Path, workload: Workload, space: Space) -> Iterable[Record]:
    wanted = _whole(space.optimizer, space.settings({"lr": 1.0}))
    for kept in _files(folder, list(shared(list(catalogue().values())).values())):
        if not _is(kept, workload):
            continue
        for record in kept.records:
            trial = record.trial
            same = trial.optimizer == space.optimizer
            if same and _whole(space.optimizer, {**trial.settings, "lr": 1.0}) == wanted:
                yield record


def _whole(optimizer: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with the defaults that they leave out: a grid names its default too."""
    parameters = inspect.signature(pkgutil.resolve_name(optimizer)).parameters.values()
    return {one.name: one.default for one in parameters if one.default is not one.empty} | dict(settings)


def _files(folder: Path, experiments: Sequence[Experiment]) -> Iterable[Kept]:
    for experiment in experiments:
        kept = keeping.read(folder, experiment) if experiment.reading is None else None
        if kept is not None:
            yield kept


def _is(kept: Kept, workload: Workload) -> bool:
    told = keeping.described(workload)
    same = ("name", "title", "metric", "steps", "batch_size")
    return all(kept.workload.get(name) == told[name] for name in same)
