"""What a picture shows, in one sentence: the titles of the report's pictures."""

from collections.abc import Mapping

import numpy as np

from thalweg.lab.study import Study
from thalweg.lab.verdict import Verdict
from thalweg.lab.wording import Numbers, listed

Curves = dict[str, tuple[np.ndarray, np.ndarray]]
"""For each optimizer the steps of its learning curve and the mean validation metric there: (n,) each."""


def fastest(study: Study, curves: Curves) -> str:
    """Who first comes within the margin of where the worst optimizer ends."""
    higher, margin = study.workload.higher_is_better, study.settings.margin
    ends = [mean[-1] for _, mean in curves.values()]
    target = min(ends) - margin if higher else max(ends) + margin
    reached = {
        name: int(steps[np.argmax(mean >= target if higher else mean <= target)])
        for name, (steps, mean) in curves.items()
    }
    first = min(reached.values())
    names = _keys(reached, first)
    return (
        f"{listed(names)} {_verb(names, 'is', 'are')} first to reach {Numbers(study).value(target)}: "
        f"after {first} of {study.workload.steps} steps"
    )


def most_forgiving(study: Study, verdict: Verdict) -> str:
    """Whose metric stays within two margins of its best at most of the rates that were tried."""
    near = 2 * study.workload.margin
    counts = {
        row.space.optimizer: sum(
            abs(record.validation.metric - row.chosen.validation.metric) <= near
            for record in study.tuning_of(row.space)
            if record.validation is not None
        )
        for row in verdict.ranking
        if row.chosen is not None and row.chosen.validation is not None
    }
    if not counts:
        return "Every trial diverged"
    most = max(counts.values())
    names = _keys(counts, most)
    return (
        f"{listed(names)} {_verb(names, 'forgives', 'forgive')} the most: {most} of "
        f"{study.settings.trials} learning rates come within {Numbers(study).margin(near)} of "
        f"{_verb(names, 'its', 'their')} best"
    )


def ahead(study: Study, verdict: Verdict) -> str:
    """On how many seeds the best mean is also the better run."""
    best = verdict.leaders[0].space.optimizer
    if not verdict.comparisons:
        return f"{best} alone finished on every seed"
    wins = [f"{comparison.second.optimizer} on {comparison.wins}" for comparison in verdict.comparisons]
    return f"Of {study.settings.seeds} seeds, {best} is ahead of {listed(wins)}"


def _keys(counts: Mapping[str, int], value: int) -> list[str]:
    return [name for name, count in counts.items() if count == value]


def _verb(names: list[str], one: str, many: str) -> str:
    return one if len(names) == 1 else many
