"""What the numbers allow one to say, in words."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from thalweg.lab.judging.cautions import cautions
from thalweg.lab.judging.measures import seeds_are_one
from thalweg.lab.judging.statistics import Comparison, Row, compare, fewest_seeds, margin, rank
from thalweg.lab.judging.wording import Numbers, counted, few, listed
from thalweg.lab.study.protocol import evidence, is_complete
from thalweg.lab.study.study import Study
from thalweg.lab.workload.looking import model_of

Kind = Literal["winner", "equivalent", "open", "none"]

MOST_NAMED = 3
"""Optimizers that the headline names."""

MOST_FAILED = 2
"""Optimizers whose failures the headline counts; the ranking has all."""

MOST_SEEDS = 1000
"""Beyond so many seeds it does not matter how many it would take."""

SPELLED_OUT = 3
"""Leads that the sentence gives with their intervals, the smallest; the table of pairs has all."""


@dataclass(frozen=True)
class Verdict:
    """The answer.

    Attributes:
        kind: ``winner``; ``equivalent`` where the best mean is within the margin of those it is not ahead of;
            ``open`` where it is not told apart from one at least; ``none`` where nothing can be said: there
            are too few seeds, the task does not use them, or every optimizer failed.
        leaders: those that may be the best, best mean first: the winner, those that are not told from
            it, or all that finished a run where there are too few seeds.
        headline: a few words.
        sentence: the headline's reasons with their intervals and the margin.
        conditions: data, model and budget under which this was found.
        notes: what a careful reader should also know, a sentence each.
        ranking: all optimizers, best first.
        comparisons: all pairs of those that have been measured.
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
        return [row.space.line(row.chosen.trial.settings) for row in self.leaders if row.chosen]

    @property
    def against(self) -> list[Comparison]:
        """The comparisons of the best mean with each other optimizer."""
        return [c for c in self.comparisons if self.leaders and c.first == self.leaders[0].space]


def judge(study: Study) -> Verdict:
    """Ranks the optimizers of a study, finished or not, and says what can be said of the first place.

    Every other optimizer is compared with the one that has the best mean, and is behind it by surely more
    than the margin, equivalent within the margin, or not told apart.
    """
    ranking = rank(study)
    least = margin(study)
    comparisons = compare(study, ranking)
    sound = [row for row in ranking if row.test is not None]
    against = [c for c in comparisons if sound and c.first == sound[0].space]
    behind = {c.second.name for c in against if c.relation == "ahead"}
    leaders = [row for row in sound if row.space.name not in behind]
    kind = _kind(study, leaders, against)
    numbers = Numbers(study, least)
    return Verdict(
        kind=kind,
        leaders=leaders,
        headline=_headline(study, kind, leaders, ranking),
        sentence=_sentence(study, kind, leaders, against, numbers),
        conditions=_conditions(study, ranking),
        notes=[*_counted_as(ranking), *_cost(kind, leaders), *cautions(study, ranking, least)],
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


def _kind(study: Study, leaders: Sequence[Row], against: Sequence[Comparison]) -> Kind:
    found = evidence(study)
    seen = found.looks[found.reached - 1] if found.reached else 0
    if not leaders or seen < fewest_seeds(len(study.spaces)):
        return "none"
    lost = {record.trial.name for record in study.lost}
    if any(not study.final_of(space) for space in study.spaces if space.name in lost):
        # An accident has kept one of them from being measured: nobody wins by that.
        return "none"
    if _seed_is_unused(study):
        return "none"
    if any(comparison.relation == "unresolved" for comparison in against):
        return "open"
    return "winner" if len(leaders) == 1 else "equivalent"


def _seed_is_unused(study: Study) -> bool:
    """Whether every optimizer gave one run again and again: so many seeds are one."""
    return all(seeds_are_one(study, space) for space in study.spaces)


def _headline(study: Study, kind: Kind, leaders: Sequence[Row], ranking: Sequence[Row]) -> str:
    if kind != "none":
        words = {
            "winner": f"{_names(leaders)} wins",
            "equivalent": f"{_few(leaders)} are equivalent",
            "open": f"{_few(leaders)} {'is' if len(leaders) == 1 else 'are'} not told apart"
            + (" from all others" if len(leaders) == 1 else ""),
        }
        return words[kind] + _failed(ranking)
    if not is_complete(study):
        return "No verdict yet: the comparison is not finished"
    if not leaders:
        return "No verdict: every optimizer failed"
    if _seed_is_unused(study):
        return "No verdict: all seeds gave exactly the same runs"
    fewest = fewest_seeds(len(study.spaces))
    return f"No verdict: {fewest} seeds are the fewest that can tell, not {study.settings.seeds}"


def _few(rows: Sequence[Row]) -> str:
    """The names, of many the first ones: a headline must stay one."""
    return few([row.space.title for row in rows], MOST_NAMED)


def _failed(ranking: Sequence[Row]) -> str:
    """Whose runs failed on fresh seeds, as the end of the headline."""
    failed = [row for row in ranking if row.failures]
    if not failed:
        return ""
    claims = [f"{row.space.title} failed on {row.failures} of {row.measured} seeds" for row in failed]
    if len(failed) > MOST_FAILED:
        claims = [f"{len(failed)} optimizers failed on some seeds"]
    return f"; {listed(claims)}"


def _counted_as(ranking: Sequence[Row]) -> list[str]:
    """The rule by which failures were counted, where there were any."""
    if not any(row.failures for row in ranking):
        return []
    return [
        "A run that failed counts as the worst outcome, in means, intervals and tests: below the worst run "
        "that came to its end."
    ]


def _sentence(
    study: Study, kind: Kind, leaders: Sequence[Row], against: Sequence[Comparison], numbers: Numbers
) -> str:
    if not leaders:
        if is_complete(study):
            return "No optimizer came to the end of a run on a fresh seed, so none can be recommended."
        return "No optimizer has been measured on a fresh seed."
    if not against:
        return f"Only {_names(leaders)} could be measured on fresh seeds."
    claims = [
        f"{numbers.difference(comparison.difference.mean)} ahead of {comparison.second.title}"
        f"{numbers.in_brackets(comparison.difference)}"
        for comparison in against[:SPELLED_OUT]
    ]
    further = against[SPELLED_OUT:]
    if further:
        claims.append(f"at least as far ahead of {_titles(further)}")
    return (
        f"On test {study.workload.metric} {leaders[0].space.title} is on average {listed(claims)}; "
        f"{_reason(study, kind, against, numbers)}."
    )


def _reason(study: Study, kind: Kind, against: Sequence[Comparison], numbers: Numbers) -> str:
    if kind == "none" and _seed_is_unused(study):
        return "all seeds gave exactly the same runs, so that may be the luck of one"
    if kind == "none":
        return "with so few seeds that may be luck"
    if kind == "winner":
        which = "the whole interval lies" if len(against) == 1 else "all intervals lie"
        return f"{which} beyond {numbers.beyond}"
    close = [c for c in against if c.relation == "equivalent"]
    claims = [f"against {_titles(close)} it lies within the margin of {numbers.margin}"]
    if kind == "open":
        claims = [*(claims if close else []), *_open(against, numbers)]
    return "; ".join(claims)


def _open(against: Sequence[Comparison], numbers: Numbers) -> list[str]:
    """From whom the best mean is not told, and what that would take."""
    unknown = [c for c in against if c.relation == "unresolved"]
    claims = []
    for better, words in (
        (False, "it is not told apart from"),
        (True, f"it is ahead, but not surely by {numbers.more}, of"),
    ):
        of = [c for c in unknown if c.better == better]
        taken = [seeds_in_words(c) for c in sorted(of, key=lambda c: c.seeds_needed or math.inf)]
        if of:
            least, most = taken[0].removesuffix(" seeds"), taken[-1].removeprefix("about ")
            ends = taken[0] if taken[0] == taken[-1] else f"{least} to {most}"
            claims.append(f"{words} {_titles(of)}, which would take {ends}")
    return claims


def _titles(comparisons: Sequence[Comparison]) -> str:
    """Whom the best mean is compared with, in a sentence; the table of pairs has all."""
    return few([comparison.second.title for comparison in comparisons])


def seeds_in_words(comparison: Comparison) -> str:
    """How many seeds would tell a pair apart that is not: ``about 40 seeds``."""
    needed = comparison.seeds_needed
    if needed is None or needed > MOST_SEEDS:
        return f"more than {MOST_SEEDS:,} seeds"
    # Two digits: more would claim to know the spread better than it does.
    return f"about {math.ceil(needed) if needed < 100 else math.ceil(needed / 10) * 10:,} seeds"


def _conditions(study: Study, ranking: Sequence[Row]) -> str:
    settings, workload = study.settings, study.workload
    layers = norm_layers(model_of(workload))
    clipping = _of_each(study, "clip_norm", lambda norm: "none" if norm is None else f"norm {norm:g}")
    return (
        f"Measured on {workload.name}: batches of {_of_each(study, 'batch_size', str)}, "
        f"{listed(layers) if layers else 'no norm layers'}"
        f"{'' if clipping == 'none' else f', gradients clipped to {clipping}'}, "
        f"{_of_each(study, 'steps', '{:,}'.format)} steps a run; "
        f"{counted(settings.trials, 'configuration')} tried for each optimizer, "
        f"then {_seeds(study, ranking)}. "
        "Another model, data set or budget may rank them differently."
    )


def _of_each(study: Study, name: str, words: Callable[[Any], str]) -> str:
    """An attribute of the task in words; where recipes have others, each with their names."""
    found: dict[str, list[str]] = {}
    for space in study.spaces:
        value = space.changes.get(name, getattr(study.workload, name))
        found.setdefault(words(value), []).append(space.title)
    if len(found) == 1:
        return next(iter(found))
    return listed([f"{text} ({listed(titles)})" for text, titles in found.items()])


def _seeds(study: Study, ranking: Sequence[Row]) -> str:
    """On how many seeds was measured, and on how many it might have been."""
    most, made = study.settings.seeds, max((row.measured for row in ranking), default=0)
    if not made or made == most:
        return counted(most, "paired seed")
    return f"{made} of at most {counted(most, 'paired seed')}"


def _cost(kind: Kind, leaders: Sequence[Row]) -> list[str]:
    """Names the cheapest of those that may be the best, if one is cheapest in both time and memory."""
    if kind not in ("equivalent", "open"):
        return []
    fastest = min(leaders, key=lambda row: row.step_ms or math.inf)
    least = min(row.state_bytes or 0 for row in leaders)
    if fastest.state_bytes != least or fastest.step_ms is None:
        return []
    return [
        f"Of these, {fastest.space.title} is the cheapest: {fastest.step_ms:.2g} ms "
        f"a step and {least:,} bytes of state."
    ]
