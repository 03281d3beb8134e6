"""What the numbers allow one to say, in words."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from thalweg.lab.judging.statistics import Comparison, Row, compare, fewest_seeds, margin, rank
from thalweg.lab.judging.wording import Numbers, counted, listed
from thalweg.lab.spaces import code
from thalweg.lab.study.extension import was_all_too_high
from thalweg.lab.study.protocol import border, is_complete, rate_range
from thalweg.lab.study.study import Study

Kind = Literal["winner", "tie", "none"]

SPELLED_OUT = 3
"""Leads that the sentence gives with their intervals, the smallest; the table of pairs has all."""


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
        conditions: data, model and budget under which this was found.
        notes: what a careful reader should also know, a sentence each.
        ranking: all optimizers, best first.
        comparisons: all pairs of those that never failed.
        margin: the smallest difference worth having, in the metric's unit.
    """

    kind: Kind
    leaders: Sequence[Row]
    headline: str
    sentence: str
    conditions: str
    notes: Sequence[str]
    ranking: Sequence[Row]
    comparisons: Sequence[Comparison]
    margin: float

    @property
    def code(self) -> list[str]:
        """For each leader, the line of Python that builds it as it was measured."""
        trials = [row.chosen.trial for row in self.leaders if row.chosen]
        return [code(trial.optimizer, trial.settings) for trial in trials]

    @property
    def against(self) -> list[Comparison]:
        """The comparisons of the best mean with each other optimizer."""
        return [c for c in self.comparisons if self.leaders and c.first == self.leaders[0].space]


def judge(study: Study) -> Verdict:
    """Ranks the optimizers of a study, finished or not, and says what can be said of the first place.

    Every other optimizer is compared with the one that has the best mean. Those that are not
    behind it by surely more than the margin tie with it.
    """
    ranking = rank(study)
    least = margin(study, ranking)
    comparisons = compare(study, ranking)
    sound = [row for row in ranking if row.test is not None]
    against = [c for c in comparisons if c.first == sound[0].space]
    behind = {c.second.name for c in against if c.relation == "ahead"}
    leaders = [row for row in sound if row.space.name not in behind]
    kind = _kind(study, leaders, comparisons)
    numbers = Numbers(study, least)
    return Verdict(
        kind=kind,
        leaders=leaders,
        headline=_headline(study, kind, leaders),
        sentence=_sentence(study, kind, leaders, against, numbers),
        conditions=_conditions(study),
        notes=[*_cost(kind, leaders), *_cautions(study, ranking, least)],
        ranking=ranking,
        comparisons=comparisons,
        margin=least,
    )


def norm_layers(model: nn.Module) -> list[str]:
    """The kinds of normalisation layers in a model, for example ``BatchNorm2d``."""
    kinds = Counter(type(module).__name__ for module in model.modules())
    return sorted(kind for kind in kinds if "norm" in kind.lower())


def _names(rows: Sequence[Row]) -> str:
    return listed([row.space.title for row in rows])


def _pairs(comparisons: Sequence[Comparison]) -> int:
    return min((comparison.pairs for comparison in comparisons), default=0)


def _kind(study: Study, leaders: Sequence[Row], comparisons: Sequence[Comparison]) -> Kind:
    measured = _pairs(comparisons) if comparisons else min((row.measured for row in leaders), default=0)
    if not leaders or measured < fewest_seeds(len(study.spaces)):
        return "none"
    if any(not study.final_of(row.space) for row in rank(study)) and study.lost:
        # An accident has kept one of them from being measured: nobody wins by that.
        return "none"
    return "winner" if len(leaders) == 1 else "tie"


def _headline(study: Study, kind: Kind, leaders: Sequence[Row]) -> str:
    if kind != "none":
        return f"{_names(leaders)} wins" if kind == "winner" else f"Tie between {_names(leaders)}"
    if not is_complete(study):
        return "No verdict yet: the comparison is not finished"
    if not leaders:
        return "No verdict: every optimizer failed"
    fewest = fewest_seeds(len(study.spaces))
    return f"No verdict: {fewest} seeds are the fewest that can tell, not {study.settings.seeds}"


def _sentence(
    study: Study, kind: Kind, leaders: Sequence[Row], against: Sequence[Comparison], numbers: Numbers
) -> str:
    if not leaders:
        if is_complete(study):
            return "No optimizer finished training on every seed, so none can be recommended."
        return "No optimizer has been measured on a fresh seed."
    if not against:
        return f"Only {_names(leaders)} finished training on every seed."
    claims = [
        f"{numbers.difference(comparison.difference.mean)} ahead of {comparison.second.title}"
        f"{numbers.in_brackets(comparison.difference)}"
        for comparison in against[:SPELLED_OUT]
    ]
    further = against[SPELLED_OUT:]
    if further:
        claims.append(f"at least as far ahead of {listed([c.second.title for c in further])}")
    return (
        f"On test {study.workload.metric} {leaders[0].space.title} is {listed(claims)}; "
        f"{_reason(kind, against, numbers)}."
    )


def _reason(kind: Kind, against: Sequence[Comparison], numbers: Numbers) -> str:
    if kind == "none":
        return "with so few seeds that may be luck"
    if kind == "winner":
        which = "the whole interval lies" if len(against) == 1 else "all intervals lie"
        return f"{which} beyond the margin of {numbers.margin}"
    close = [c for c in against if c.relation != "ahead"]
    names = listed([c.second.title for c in close])
    if all(c.relation == "equivalent" for c in close):
        return f"against {names} that is within the margin of {numbers.margin}"
    return f"against {names} that is not surely more than the margin of {numbers.margin}"


def _conditions(study: Study) -> str:
    settings, workload = study.settings, study.workload
    layers = norm_layers(workload.model(0))
    clipping = "" if workload.clip_norm is None else f", gradients clipped to norm {workload.clip_norm:g}"
    return (
        f"Measured on {workload.name}: batches of {workload.batch_size}, "
        f"{listed(layers) if layers else 'no norm layers'}{clipping}, {workload.steps:,} steps a run; "
        f"{counted(settings.trials, 'configuration')} tried for each optimizer, then "
        f"{counted(settings.seeds, 'paired seed')}. "
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
        f"Of those that tie, {fastest.space.title} is the cheapest: {fastest.step_ms:.2g} ms "
        f"a step and {least:,} bytes of state."
    ]


def _cautions(study: Study, ranking: Sequence[Row], least: float) -> list[str]:
    cautions = [caution for row in ranking for caution in _cautions_about(study, row)]
    if not is_complete(study):
        made = len(study.records)
        cautions.insert(0, f"Not finished: {made} runs were made. The same command goes on from there.")
    if least == 0:
        cautions.append("The margin is zero: any difference that is sure to exist decides.")
    return cautions


def _cautions_about(study: Study, row: Row) -> list[str]:
    cautions, name = [], row.space.title
    tuning = study.tuning_of(row.space)
    failures = Counter(record.failure.kind for record in tuning if record.failure)
    if failures:
        kinds = listed([f"{kind} {count}" for kind, count in failures.items()])
        cautions.append(f"{name} failed in {failures.total()} of {len(tuning)} tuning trials ({kinds}).")
    if tuning and row.chosen is None:
        cautions.append(f"{name} has no configuration: it failed in every trial.")
    elif row.failures:
        cautions.append(f"{name} failed on {row.failures} of {row.measured} fresh seeds.")
    first, wide, side = row.space.axes[0], rate_range(study, row.space), border(study, row.space)
    if (wide.low, wide.high) != (first.low, first.high) and not was_all_too_high(study, row.space):
        cautions.append(
            f"{name}'s best {first.name} was on the border of {first.low:g} to {first.high:g}, so the range "
            f"was extended to {wide.low:.3g} to {wide.high:.3g}."
        )
    if side is not None and len(tuning) > 1:
        end = "highest" if side == "high" else "lowest"
        cautions.append(
            f"{name}'s best {first.name} is still the {end} that was tried; a better one may lie beyond."
        )
    return cautions
