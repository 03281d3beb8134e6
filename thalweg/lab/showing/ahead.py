"""How long a comparison still takes, by what the runs of each optimizer have taken so far."""

import statistics
import time
from collections.abc import Callable, Sequence

from thalweg.lab.spaces import Space
from thalweg.lab.study import protocol
from thalweg.lab.study.record import Trial
from thalweg.lab.study.study import Study

Left = Callable[[Study], tuple[list[int], list[int]]]


class Ahead:
    """Looks at a study under way.

    A run is taken to last as long as the mean of its optimizer's runs that came to their end (of all
    optimizers', while it has none), and as many to be under way at a time as there have been. Ranges that may
    yet grow are not counted.

    Args:
        left: says how many runs of each of the study's spaces are to be made, at least and at most; by
            default as the protocol of a comparison does.
    """

    def __init__(self, left: Left | None = None) -> None:
        self._left = left or _left
        self._began: float | None = None
        self._before: set[str] = set()
        self._since: dict[str, float] = {}

    def look(self, study: Study, running: Sequence[Trial]) -> None:
        """Takes note of what is under way; call it whenever something may have changed."""
        now = time.monotonic()
        if self._began is None:
            self._began, self._before = now, {record.trial.key for record in study.records}
        self._since = {trial.key: self._since.get(trial.key, now) for trial in running}

    def seconds(self, study: Study, running: Sequence[Trial]) -> tuple[float, float] | None:
        """Until it ends, if the first look tells and if only the last does; None while nothing is known."""
        means = _means(study)
        if not means:
            return None
        now = time.monotonic()
        gone = {trial.key: now - self._since.get(trial.key, now) for trial in running}
        begun = sum(min(gone[trial.key], means[trial.name]) for trial in running)
        at_a_time = max(1.0, len(running), self._pace(study, now))
        least, most = (
            sum(means[space.name] * count for space, count in zip(study.spaces, counts, strict=True))
            for counts in self._left(study)
        )
        slowest = max((means[trial.name] - gone[trial.key] for trial in running), default=0.0)
        ends = [max((total - begun) / at_a_time, slowest, 0.0) for total in (least, most)]
        return ends[0], ends[1]

    def _pace(self, study: Study, now: float) -> float:
        """How many runs have ended at a time, others' machines among them."""
        if self._began is None or now <= self._began:
            return 0.0
        new = [record.timing for record in study.records if record.trial.key not in self._before]
        return sum(timing.total for timing in new if timing) / (now - self._began)


def in_words(ends: tuple[float, float] | None) -> str:
    """The same for a line: ``, about 3:20 left`` or ``, 3:20 to 9:50 left``."""
    if ends is None:
        return ""
    least, most = ends
    if most <= 1.25 * least or most - least < 5:
        return f", about {clock(most)} left"
    return f", {clock(least)} to {clock(most)} left"


def clock(seconds: float) -> str:
    """A duration: ``3:20``, ``1:03:20``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _means(study: Study) -> dict[str, float]:
    """What a run of each optimizer takes; of one without a run what those of others do."""
    found: dict[str, float] = {}
    for space in study.spaces:
        records = [r for r in study.records if r.trial.name == space.name and r.timing]
        totals = [r.timing.total for r in records if r.timing and not r.failure]
        totals = totals or [r.timing.total for r in records if r.timing]
        if totals:
            found[space.name] = statistics.fmean(totals)
    every = statistics.fmean(found.values()) if found else 0.0
    return {space.name: found.get(space.name, every) for space in study.spaces} if found else {}


def _left(study: Study) -> tuple[list[int], list[int]]:
    """How many runs of each optimizer there are to be made, at least and at most."""
    made = {record.trial.key for record in study.records if not record.lost}
    due = [trial for trial in protocol.due(study) if trial.key not in made]
    measuring = any(record.trial.stage == "final" for record in study.records)
    least, most = [], []
    for space in study.spaces:
        known = sum(trial.name == space.name for trial in due)
        done = len([r for r in study.of(space, "tune", "confirm", "final") if not r.lost])
        ends = [at(1, study.settings) - done for at in (protocol.runs_at_least, protocol.runs_at_most)]
        least.append(known if measuring else max(known, ends[0]))
        most.append(max(known, ends[1]) if _is_measured(study, space) else known)
    return least, most


def _is_measured(study: Study, space: Space) -> bool:
    """Whether an optimizer may yet have final runs: not if all of its trials have failed."""
    return not study.tuning_of(space) or bool(protocol.candidates(study, space))
