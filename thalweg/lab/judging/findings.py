"""What a picture shows, in one sentence: the titles of the report's pictures."""

from collections.abc import Mapping, Sequence

import numpy as np

from thalweg.lab.judging import measures
from thalweg.lab.judging.quantities import NBSP, amount
from thalweg.lab.judging.statistics import Row
from thalweg.lab.judging.verdict import Verdict
from thalweg.lab.judging.wording import Numbers, listed
from thalweg.lab.study.study import Study

Curves = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""For each optimizer the steps of its learning curve and the mean validation metric there: (n,) each."""

EARLY = 0.1
"""The share of the steps at which a title looks at the beginning of the curves."""

NONE_FINISHED = "No optimizer finished on every seed"

MOST_NAMES = 4
"""Names that a title may hold."""

ALIKE = 1.1
"""The ratio up to which times are called alike."""


def leaders_while_training(study: Study, verdict: Verdict, curves: Curves) -> str:
    """Who is ahead after a tenth of the steps, and who in the end."""
    numbers, early = Numbers(study, verdict.margin), EARLY * study.workload.steps
    first = {title: float(mean[np.argmax(steps >= early)]) for title, (steps, mean) in curves.items()}
    last = {title: float(mean[-1]) for title, (_, mean) in curves.items()}
    if len(curves) == 1:
        title = next(iter(curves))
        return f"{title} ends at {numbers.value(last[title])} on validation"
    start, end = _best(study, first), _close(study, last, verdict.margin)
    if len(end) == len(_close(study, first, verdict.margin)) == len(curves):
        return f"All are within {numbers.margin} on validation from a tenth of the steps to the end"
    if len(end) == 1:
        if end[0] == start:
            return f"{start} is ahead on validation from a tenth of the steps to the end"
        return f"{start} starts faster on validation, {end[0]} ends ahead"
    ending = "all end" if len(end) == len(curves) else f"{_names(end)} end"
    return f"{start} starts fastest; {ending} within {numbers.margin} on validation"


def lead(verdict: Verdict) -> str:
    """How the best mean relates to each other optimizer."""
    groups: dict[str, list[str]] = {}
    for comparison in verdict.against:
        groups.setdefault(comparison.relation, []).append(comparison.second.title)
    words = {
        "ahead": "is surely ahead of {} by more than the margin",
        "equivalent": "is within the margin of {}",
        "unresolved": "is not surely ahead of {}",
    }
    claims = [
        words[relation].format(_names(titles)) for relation, titles in groups.items() if relation in words
    ]
    return f"{verdict.against[0].first.title} {listed(claims)}"


def ahead(study: Study, verdict: Verdict) -> str:
    """On how many seeds the best mean is also the better run."""
    against = verdict.against
    if not against:
        finished = [row.space.title for row in verdict.leaders]
        return f"{_names(finished)} alone finished on every seed" if finished else NONE_FINISHED
    best = against[0].first.title
    if len(against) > MOST_NAMES:
        worst = min(against, key=lambda c: c.wins / c.pairs)
        return f"Seed by seed, {best} is ahead of every other on at least {worst.wins} of {worst.pairs}"
    wins = [f"of {c.second.title} on {c.wins} of {c.pairs}" for c in against]
    return f"Seed by seed, {best} is ahead {listed(wins)}"


def most_forgiving(study: Study, verdict: Verdict) -> str:
    """Whose metric stays within the margin of its best over the most decades of learning rate."""
    numbers = Numbers(study, verdict.margin)
    basins = {row.space.title: measures.basin(study, row.space, verdict.margin) for row in verdict.ranking}
    found = {title: basin for title, basin in basins.items() if basin is not None}
    if not found:
        return "Every trial failed, whatever the learning rate"
    widest = max(basin.decades for basin in found.values())
    titles = [title for title, basin in found.items() if f"{basin.decades:.1f}" == f"{widest:.1f}"]
    if len(titles) > 1 and len(titles) == len(found):
        return (
            f"All forgive a wrong learning rate alike: {widest:.1f} decades are within the margin of the best"
        )
    its = "its" if len(titles) == 1 else "their"
    return (
        f"{_names(titles)} {_verb(titles, 'forgives', 'forgive')} most: {widest:.1f} decades of learning "
        f"rate stay within {numbers.margin} of {its} best"
    )


def what_tuning_buys(study: Study, verdict: Verdict, curves: Mapping[str, Sequence[float]]) -> str:
    """Who is ahead with one trial, and who with all."""
    most = max(map(len, curves.values()))
    whole = {title: curve[-1] for title, curve in curves.items()}
    end = _close(study, whole, verdict.margin)
    if most == 1:
        return f"With one trial each, {_names(end)} {_verb(end, 'is best', 'are best')}"
    start = _close(study, {title: curve[0] for title, curve in curves.items()}, verdict.margin)
    if set(start) == set(end):
        who = (
            "All are alike"
            if len(end) == len(curves) > 1
            else f"{_names(end)} {_verb(end, 'is', 'are')} ahead"
        )
        return f"{who} with one trial and with {most}"
    margin = Numbers(study, verdict.margin).margin
    ending = (
        f"{end[0]} is ahead"
        if len(end) == 1
        else f"{'all' if len(end) == len(curves) else _names(end)} are within {margin}"
    )
    return f"With one trial {_names(start)} {_verb(start, 'is', 'are')} ahead; with {most} trials {ending}"


def soonest(study: Study, verdict: Verdict, level: float) -> str:
    """Who reaches the target first in steps, and who in seconds."""
    value = Numbers(study, verdict.margin).value(level)
    found = {row.space.title: measures.reached(study, row.space, level) for row in verdict.ranking}
    steps = {title: r.steps for title, r in found.items() if r.steps is not None}
    seconds = {title: r.seconds for title, r in found.items() if r.seconds is not None}
    if not steps or not seconds:
        return f"No optimizer reaches {value} in most of its runs"
    first, quickest = _least(steps), _least(seconds)
    after = f"{amount(steps[first[0]])}{NBSP}steps"
    if len(first) == len(found) > 1:
        return f"All reach {value} alike: after {after}"
    if set(first) & set(quickest):
        both = [title for title in first if title in quickest]
        time = amount(seconds[both[0]])
        return f"{_names(both)} {_verb(both, 'reaches', 'reach')} {value} first: after {after}, {time}{NBSP}s"
    time = amount(seconds[quickest[0]])
    return (
        f"{_names(first)} {_verb(first, 'needs', 'need')} the fewest steps to {value} ({after}), "
        f"{_names(quickest)} the least time ({time}{NBSP}s)"
    )


def fastest_step(rows: Sequence[Row]) -> str:
    """Whose step takes least, and how much more the slowest takes."""
    times = {row.space.title: row.step_ms or 0.0 for row in rows}
    first, last = min(times, key=times.__getitem__), max(times, key=times.__getitem__)
    if times[last] <= ALIKE * times[first]:
        whom = "every optimizer" if len(times) > 1 else first
        return f"A step of {whom} takes {amount(times[first])}{NBSP}ms"
    return (
        f"A step of {first} takes {amount(times[first])}{NBSP}ms, one of {last} "
        f"{times[last] / times[first]:.2g} times that"
        if times[first]
        else f"A step of {last} takes most: {amount(times[last])}{NBSP}ms"
    )


def smallest_state(rows: Sequence[Row], parameters: int) -> str:
    """Who keeps least, in multiples of the parameters."""
    sizes = {row.space.title: row.state_bytes or 0 for row in rows}
    groups: dict[str, list[str]] = {}
    for title, held in sorted(sizes.items(), key=lambda item: item[1]):
        groups.setdefault(_times(held, parameters), []).append(title)
    if len(groups) == 1 < len(rows):
        return f"Every optimizer keeps {next(iter(groups))} the size of the parameters"
    claims = [
        f"{_names(titles)} {_verb(titles, 'keeps', 'keep')} {share}" for share, titles in groups.items()
    ]
    if len(claims) > 3:
        claims = [claims[0], claims[-1]]
    return f"{'; '.join(claims)} the size of the parameters"


def _times(held: int, parameters: int) -> str:
    return f"{held / parameters if parameters else 0.0:.1f}".removesuffix(".0") + "\N{MULTIPLICATION SIGN}"


def _best(study: Study, metrics: Mapping[str, float]) -> str:
    return max(metrics, key=lambda title: study.better(metrics[title]))


def _close(study: Study, metrics: Mapping[str, float], margin: float) -> list[str]:
    """Those within the margin of the best."""
    best = max(map(study.better, metrics.values()))
    return [title for title, metric in metrics.items() if study.better(metric) >= best - margin]


def _least(values: Mapping[str, float]) -> list[str]:
    return [title for title, value in values.items() if value == min(values.values())]


def _names(titles: Sequence[str]) -> str:
    """The names as in a sentence, of many the first ones: a title must stay one."""
    if len(titles) <= MOST_NAMES:
        return listed(titles)
    shown = MOST_NAMES - 1
    return listed([*titles[:shown], f"{len(titles) - shown} others"])


def _verb(names: Sequence[str], one: str, many: str) -> str:
    return one if len(names) == 1 else many
