"""The protocol of a comparison: which runs it takes, and how a configuration is chosen.

1. Tune: every optimizer gets the same number of quasi-random configurations, all with one seed.
2. Extend: while the best learning rate of some optimizer is the outermost that was tried, its range
   grows by a decade on that side. Every optimizer gets as many further trials as it takes, so that
   budgets stay equal.
   Before that, one that diverged in every trial is searched below its range: see `extension`.
3. Confirm: the two best configurations of each optimizer train on three seeds; the better mean on
   validation is chosen.
4. Measure: the chosen configurations train on fresh seeds, the same for all. A seed fixes the initial
   weights and the order of the data, so runs are compared pair by pair. Test is evaluated once, at the
   end of these runs, and nothing is chosen on it. After 6, 10, 16 and 24 seeds it is looked whether
   the best is told from all others; if so, the study ends (`looks`, `evidence`).

`due` is a pure function of the records there are. Whoever has the records knows what to run next, which is
what makes a study resumable and lets several machines work on one.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from thalweg.lab.spaces import Space
from thalweg.lab.spaces.search import points
from thalweg.lab.study.evidence import Evidence
from thalweg.lab.study.extension import (
    DESCENTS,
    Side,
    beyond,
    descend,
    extension,
    rate_range,
    refill,
    trial_of,
)
from thalweg.lab.study.record import Record, Trial
from thalweg.lab.study.study import Settings, Study

CANDIDATES = 2
"""Configurations of each optimizer that are confirmed."""

CONFIRMATION_SEEDS = 3
"""Seeds on which they are."""

EXTENSIONS = 2
"""How often a range may grow."""


Step = Callable[[Study, Sequence[Trial]], list[Trial]]
"""Names the runs of a stage, from the study and the runs of the stages before it."""


def seeds(settings: Settings) -> tuple[int, list[int], list[int]]:
    """The tuning seed, the confirmation seeds and the fresh seeds: unrelated 32-bit numbers."""
    count = 1 + CONFIRMATION_SEEDS + settings.seeds
    first, *rest = map(int, np.random.SeedSequence(settings.seed).generate_state(count))
    return first, rest[:CONFIRMATION_SEEDS], rest[CONFIRMATION_SEEDS:]


def due(study: Study) -> list[Trial]:
    """All runs of the protocol that the records there are allow to name, those made among them.

    When every one of them has its record, the study is complete.
    """
    return follow(study, (*SEARCH, _confirm, _measure))


def follow(study: Study, stages: Sequence[Step]) -> list[Trial]:
    """The runs of these stages, up to the first of which some have no record yet."""
    done = {record.trial.key for record in study.records}
    trials: list[Trial] = []
    for stage in stages:
        trials += stage(study, trials)
        if any(trial.key not in done for trial in trials):
            break
    return trials


def is_complete(study: Study) -> bool:
    """Whether nothing is left to run; what an accident took is."""
    done = {record.trial.key for record in study.records if not record.lost}
    return all(trial.key in done for trial in due(study))


def runs_at_least(spaces: int, settings: Settings) -> int:
    """How many runs a study takes if no range grows, nothing fails and the first look tells."""
    return _runs(spaces, settings, settings.looks[0] if settings.looks else settings.seeds)


def runs_at_most(spaces: int, settings: Settings) -> int:
    """How many runs a study takes if no range grows and no look but the last tells."""
    return _runs(spaces, settings, settings.seeds)


def _runs(spaces: int, settings: Settings, seeds: int) -> int:
    confirmation = CANDIDATES * CONFIRMATION_SEEDS if settings.trials >= CANDIDATES else 0
    return spaces * (settings.trials + confirmation + seeds)


def candidates(study: Study, space: Space) -> list[Record]:
    """The best tuning records of an optimizer, best first; fewer where too many failed.

    Metrics are often exactly equal over a range of learning rates. Of equal ones, the middle rate comes
    first: it is the least likely to fail on another seed for being on an edge.
    """
    finished = [record for record in study.tuning_of(space) if record.validation is not None]
    if not finished:
        return []
    best = max(_score(study, record) for record in finished)
    equal = [i for i, record in enumerate(finished) if _score(study, record) == best]
    middle = equal[(len(equal) - 1) // 2]
    order = sorted(range(len(finished)), key=lambda i: (-_score(study, finished[i]), abs(i - middle), i))
    return [finished[i] for i in order[:CANDIDATES]]


def chosen(study: Study, space: Space) -> Record | None:
    """The tuning record whose configuration is measured; None if every trial failed.

    Among the candidates that is the one that failed least and then has the best mean over the
    confirmation seeds; before they have been run, the best in tuning.
    """
    found = candidates(study, space)
    confirmed = {id(record): _confirmations(study, record) for record in found}
    if len(found) < 2 or not all(confirmed.values()):
        return found[0] if found else None

    def quality(record: Record) -> tuple[int, float]:
        runs = [r for r in confirmed[id(record)] if not r.lost]
        finished = [_score(study, r) for r in runs if r.validation is not None]
        return len(finished) - len(runs), statistics.fmean(finished or [-math.inf])

    return max(found, key=quality)


def evidence(study: Study, look: int | None = None) -> Evidence:
    """What the final runs there are tell of every pair; those on the first `look` seeds."""
    _, _, fresh = seeds(study.settings)
    return Evidence(
        study, [space for space in study.spaces if chosen(study, space) is not None], fresh[:look]
    )


def border(study: Study, space: Space) -> Side | None:
    """On which side the best learning rate in tuning is the outermost that was tried, if on one.

    Rates at which training failed count as tried: there is nothing to be found beyond them. A single
    rate is on no border, since nothing says on which side a better one may lie.
    """
    best = candidates(study, space)[:1]
    if not best:
        return None
    axis = space.axes[0].name
    tried = [record.trial.point[axis] for record in study.tuning_of(space)]
    if min(tried) == max(tried):
        return None
    if best[0].trial.point[axis] == max(tried):
        return "high"
    return "low" if best[0].trial.point[axis] == min(tried) else None


def _tune(study: Study, _earlier: Sequence[Trial]) -> list[Trial]:
    settings = study.settings
    seed, _, _ = seeds(settings)
    return [
        trial_of("tune", space, point, seed)
        for space in study.spaces
        for point in points(study.searched(space), settings.trials, settings.seed)
    ]


def _descend(study: Study, earlier: Sequence[Trial]) -> list[Trial]:
    return descend(_before(study, earlier), seeds(study.settings)[0])


def _refill(study: Study, earlier: Sequence[Trial]) -> list[Trial]:
    return refill(_before(study, earlier), seeds(study.settings)[0])


def _before(study: Study, earlier: Sequence[Trial]) -> Study:
    """The study as it was when these trials had been made."""
    known = {trial.key for trial in earlier}
    return study.holding([record for record in study.records if record.trial.key in known])


def _extend(study: Study, earlier: Sequence[Trial]) -> list[Trial]:
    """The next round of extensions, judged by the earlier trials alone; none if no best is on a border."""
    before = _before(study, earlier)
    sides = {space.name: border(before, space) for space in before.spaces}
    if not any(sides.values()):
        return []
    seed, _, _ = seeds(study.settings)
    count = extension(study.settings)
    trials = []
    for space in before.spaces:
        axes, side = before.searched(space), sides[space.name]
        tried = len(before.tuning_of(space))
        if side is not None:
            axes = [beyond(rate_range(before, space), side), *axes[1:]]
        trials += [
            trial_of("extend", space, point, seed)
            for point in points(axes, count, study.settings.seed, skip=tried)
        ]
    return trials


SEARCH: tuple[Step, ...] = (_tune, *[_descend] * DESCENTS, _refill, *[_extend] * EXTENSIONS)
"""The stages in which every optimizer's configurations are searched, all with equal numbers of trials."""


def _confirm(study: Study, _earlier: Sequence[Trial]) -> list[Trial]:
    _, confirmation, _ = seeds(study.settings)
    return [
        replace(record.trial, stage="confirm", seed=seed)
        for space in study.spaces
        if len(found := candidates(study, space)) > 1
        for record in found
        for seed in confirmation
    ]


def _measure(study: Study, _earlier: Sequence[Trial]) -> list[Trial]:
    _, _, fresh = seeds(study.settings)
    looks = study.settings.looks or (study.settings.seeds,)
    count = next((look for look in looks if not evidence(study, look).goes_on), looks[-1])
    # Seed by seed, so that a study that is cut short has whole pairs.
    return [
        replace(record.trial, stage="final", seed=seed)
        for seed in fresh[:count]
        for space in study.spaces
        if (record := chosen(study, space)) is not None
    ]


def _confirmations(study: Study, record: Record) -> list[Record]:
    same = [
        r
        for r in study.records
        if r.trial.stage == "confirm"
        and r.trial.name == record.trial.name
        and r.trial.settings == record.trial.settings
    ]
    return same if len(same) == CONFIRMATION_SEEDS else []


def _score(study: Study, record: Record) -> float:
    assert record.validation is not None
    return study.better(record.validation.metric)
