"""What the numbers allow one to say, in words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from thalweg.lab.statistics import FEWEST_SEEDS, Comparison, Row, compare, rank
from thalweg.lab.study import Study
from thalweg.lab.wording import Numbers, listed

Kind = Literal["winner", "tie", "none"]


@dataclass(frozen=True)
class Verdict:
    """The answer.

    Attributes:
        kind: ``winner``, ``tie`` or, where nothing can be said, ``none``: there are too few seeds
            or every optimizer failed.
        leaders: those that may be the best, best mean first: the winner, those that tie, or all
            that never failed where there are too few seeds.
        headline: a few words.
        sentence: the headline's reasons with their intervals and the margin.
        conditions: under what budget this was found.
        notes: what a careful reader should also know, a sentence each.
        ranking: all optimizers, best first.
        comparisons: the best mean against each other optimizer that never failed.
    """

    kind: Kind
    leaders: Sequence[Row]
    headline: str
    sentence: str
    conditions: str
    notes: Sequence[str]
    ranking: Sequence[Row]
    comparisons: Sequence[Comparison]

    @property
    def code(self) -> list[str]:
        """For each leader, the line of Python that builds it as it was measured."""
        return [row.space.code(row.chosen.trial.lr) for row in self.leaders if row.chosen]


def judge(study: Study) -> Verdict:
    """Ranks the optimizers of a finished study and says what can be said of the first place.

    Every other optimizer is compared with the one that has the best mean. Those that are not
    behind it by surely more than the margin tie with it.
    """
    ranking = rank(study)
    sound = [row for row in ranking if row.test is not None]
    comparisons = [compare(study, sound[0].space, row.space) for row in sound[1:]]
    tied = [
        row for row, comparison in zip(sound[1:], comparisons, strict=True) if comparison.relation != "ahead"
    ]
    leaders = [*sound[:1], *tied]
    kind = _kind(study, leaders)
    return Verdict(
        kind=kind,
        leaders=leaders,
        headline=_headline(study, kind, leaders),
        sentence=_sentence(study, kind, leaders, comparisons),
        conditions=_conditions(study),
        notes=[*_cost(kind, leaders), *_cautions(study, ranking)],
        ranking=ranking,
        comparisons=comparisons,
    )


def _names(rows: Sequence[Row]) -> str:
    return listed([row.space.optimizer for row in rows])


def _kind(study: Study, leaders: Sequence[Row]) -> Kind:
    if not leaders or study.settings.seeds < FEWEST_SEEDS:
        return "none"
    return "winner" if len(leaders) == 1 else "tie"


def _headline(study: Study, kind: Kind, leaders: Sequence[Row]) -> str:
    if not leaders:
        return "No verdict: every optimizer diverged"
    if kind == "none":
        return f"No verdict: {FEWEST_SEEDS} seeds are the fewest that can tell, not {study.settings.seeds}"
    return f"{_names(leaders)} wins" if kind == "winner" else f"Tie between {_names(leaders)}"


def _sentence(study: Study, kind: Kind, leaders: Sequence[Row], comparisons: Sequence[Comparison]) -> str:
    if not leaders:
        return "No optimizer finished training on every seed, so none can be recommended."
    if not comparisons:
        return f"Only {_names(leaders)} finished training on every seed."
    numbers = Numbers(study)
    best = leaders[0].space.optimizer
    claims = [
        f"{numbers.difference(comparison.difference.mean)} ahead of {comparison.second.optimizer}"
        f" (95 % interval {numbers.interval(comparison.difference)})"
        for comparison in comparisons
    ]
    margin = numbers.margin(study.settings.margin)
    return (
        f"On test {study.workload.metric} {best} is {listed(claims)}; "
        f"{_reason(study, kind, comparisons, margin)}."
    )


def _reason(study: Study, kind: Kind, comparisons: Sequence[Comparison], margin: str) -> str:
    if kind == "none":
        return "with so few seeds that may be luck"
    if kind == "winner":
        which = "the whole interval lies" if len(comparisons) == 1 else "all intervals lie"
        return f"{which} beyond the margin of {margin}"
    close = [c for c in comparisons if c.relation != "ahead"]
    names = listed([c.second.optimizer for c in close])
    if all(c.relation == "equivalent" for c in close):
        return f"against {names} that is within the margin of {margin}"
    return f"against {names} that is not surely more than the margin of {margin}"


def _conditions(study: Study) -> str:
    settings = study.settings
    return (
        f"Measured on {study.workload.name} with {settings.trials} learning rates tried for each "
        f"optimizer, then {settings.seeds} paired seeds; {study.workload.steps} steps a run. "
        "Another model, data set or budget may rank them differently."
    )


def _cost(kind: Kind, leaders: Sequence[Row]) -> list[str]:
    """Names the cheapest of those that tie, if one is cheapest in both time and memory."""
    if kind != "tie":
        return []
    fastest = min(leaders, key=lambda row: row.step_ms or math.inf)
    least = min(row.state_bytes or 0 for row in leaders)
    if fastest.state_bytes != least or fastest.step_ms is None:
        return []
    return [
        f"Of those that tie, {fastest.space.optimizer} is the cheapest: {fastest.step_ms:.2g} ms "
        f"a step and {least:,} bytes of state."
    ]


def _cautions(study: Study, ranking: Sequence[Row]) -> list[str]:
    cautions = []
    for row in ranking:
        name = row.space.optimizer
        diverged = sum(record.validation is None for record in study.tuning_of(row.space))
        if diverged:
            cautions.append(f"{name} diverged in {diverged} of {study.settings.trials} trials.")
        if row.chosen is None:
            cautions.append(f"{name} has no learning rate: it diverged at all that were tried.")
        elif row.failures:
            cautions.append(f"{name} diverged on {row.failures} of {study.settings.seeds} seeds.")
        if row.chosen is not None and study.on_border(row.space):
            cautions.append(
                f"{name}'s best learning rate, {row.chosen.trial.lr:g}, is at the border of those "
                f"tried ({row.space.low:g} to {row.space.high:g}); a better one may lie beyond."
            )
    if len(ranking) > 2:
        cautions.append(
            "Each 95 % interval stands by itself: nothing is adjusted for making "
            f"{len(ranking) - 1} comparisons."
        )
    if study.settings.margin == 0:
        cautions.append("The margin is zero: any difference that is sure to exist decides.")
    return cautions
