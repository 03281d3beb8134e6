"""What a picture shows, in one sentence: the titles of the report's pictures."""

import re
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from thalweg.lab.judging import measures
from thalweg.lab.judging.quantities import NBSP, amount
from thalweg.lab.judging.statistics import Row, surely_best
from thalweg.lab.judging.verdict import Verdict
from thalweg.lab.judging.wording import Numbers, few, listed
from thalweg.lab.study.study import Study

Curves = Mapping[str, tuple[np.ndarray, Mapping[int, np.ndarray]]]
"""For each optimizer the steps of its learning curve, (n,), and by seed the validation metric there, (n,)."""

EARLY = 0.1
"""The share of the steps at which a title looks at the beginning of the curves."""

NONE_FINISHED = "No optimizer came to the end of a run"

MOST_NAMES = 4
"""Names that a title may hold."""

ALIKE = 1.1
"""The ratio up to which times are called alike."""


def leaders_while_training(study: Study, verdict: Verdict, curves: Curves) -> str:
    """Who is ahead after a tenth of the steps, and who in the end, as far as the seeds tell."""
    numbers, early = Numbers(study, verdict.margin), EARLY * study.workload.steps
    first = {
        title: {seed: study.better(float(run[np.argmax(steps >= early)])) for seed, run in runs.items()}
        for title, (steps, runs) in curves.items()
    }
    last = {
        title: {seed: study.better(float(run[-1])) for seed, run in runs.items()}
        for title, (_, runs) in curves.items()
    }
    if len(curves) == 1:
        title = next(iter(curves))
        mean = study.better(statistics.fmean(last[title].values()))
        return f"{title} ends at {numbers.value(mean)} on validation"
    start, end = surely_best(first), surely_best(last)
    if len(start) == len(end) == 1:
        if end == start:
            return f"{start[0]} is ahead on validation after a tenth of the steps and at the end"
        return f"{start[0]} is ahead on validation after a tenth of the steps, {end[0]} at the end"
    beginning = f"{start[0]} is ahead" if len(start) == 1 else "none is surely ahead"
    ending = f"{end[0]} is" if len(end) == 1 else ("none surely is" if len(start) == 1 else "nor")
    if ending == "nor":
        return "No optimizer is surely ahead on validation, neither after a tenth of the steps nor at the end"
    return f"After a tenth of the steps {beginning} on validation, at the end {ending}"


def lead(verdict: Verdict) -> str:
    """How the best mean relates to each other optimizer."""
    groups: dict[str, list[str]] = {}
    for comparison in verdict.against:
        groups.setdefault(comparison.relation, []).append(comparison.second.title)
    words = {
        "ahead": "is surely ahead of {}" + (" by more than the margin" if verdict.margin else ""),
        "equivalent": "is within the margin of {}",
        "unresolved": "is not told apart from {}",
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
        return f"{_names(finished)} alone came to the end of a run" if finished else NONE_FINISHED
    best = against[0].first.title
    if len(against) > MOST_NAMES - 1:
        worst = min(against, key=lambda c: c.wins / c.pairs)
        return f"Seed by seed, {best} is ahead of every other on at least {worst.wins} of {worst.pairs}"
    wins = [f"of {c.second.title} on {c.wins} of {c.pairs}" for c in against]
    return f"Seed by seed, {best} is ahead {listed(wins)}"


def most_forgiving(study: Study, verdict: Verdict) -> str:
    """Over how many decades of learning rate each stays near its best, and whose are surely the most."""
    numbers = Numbers(study, verdict.margin)
    basins = {row.space.title: measures.basin(study, row.space, verdict.margin) for row in verdict.ranking}
    found = {title: basin for title, basin in basins.items() if basin is not None}
    if not found:
        return "Every trial failed, whatever the learning rate"
    near = f"within {numbers.margin} of its best" if verdict.margin else "at its very best"
    widest = max(found, key=lambda title: found[title].decades)
    others = [basin for title, basin in found.items() if title != widest]
    if others and found[widest].low > max(basin.high for basin in others):
        return (
            f"{widest} forgives most: {found[widest].decades:.1f} decades of learning rate stay {near}, "
            f"of the others at most {max(basin.decades for basin in others):.1f}"
        )
    return f"Decades of learning rate {near}: {_each({t: f'{b.decades:.1f}' for t, b in found.items()})}"


def what_tuning_buys(study: Study, verdict: Verdict, curves: Mapping[str, Sequence[float]]) -> str:
    """How much the best that is found gets better from one trial to all."""
    numbers, most = Numbers(study, verdict.margin), max(map(len, curves.values()))
    if most == 1:
        found = {title: numbers.value(curve[0]) for title, curve in curves.items()}
        return f"One trial each finds {_each(found)}"
    gains = {
        title: numbers.difference(study.better(curve[-1]) - study.better(curve[0]))
        for title, curve in curves.items()
    }
    return f"From one trial to {most}, the best improves: {_each(gains)}"


def soonest(study: Study, verdict: Verdict, level: float) -> str:
    """When the target is reached, and who surely reaches it first."""
    value = Numbers(study, verdict.margin).value(level)
    found = {row.space.title: measures.reached(study, row.space, level) for row in verdict.ranking}
    steps = {title: r.steps for title, r in found.items() if r.steps is not None}
    if not steps:
        return f"No optimizer reaches {value} in most of its runs"
    first = _surely_soonest(study, verdict, level, seconds=False)
    quickest = _surely_soonest(study, verdict, level, seconds=True)
    if first is not None and first in steps:
        after = f"after {amount(steps[first])}{NBSP}steps"
        if first == quickest:
            return f"{first} reaches {value} first, in steps and in seconds: {after}"
        return f"{first} reaches {value} in the fewest steps: {after}"
    if quickest is not None and found[quickest].seconds is not None:
        return (
            f"{quickest} reaches {value} in the least time: {amount(found[quickest].seconds or 0.0)}{NBSP}s"
        )
    if len(set(steps.values())) == 1 and len(steps) == len(found):
        return f"All reach {value} after {amount(min(steps.values()))}{NBSP}steps"
    return f"Steps to {value}: {_each({title: amount(count) for title, count in steps.items()})}"


def _surely_soonest(study: Study, verdict: Verdict, level: float, *, seconds: bool) -> str | None:
    """Who reaches a level first, if an interval says that it does."""
    times = {
        row.space.title: measures.soonness(study, row.space, level, seconds=seconds)
        for row in verdict.ranking
    }
    best = surely_best(times)
    return best[0] if len(best) == 1 < len(times) else None


def _each(values: Mapping[str, str]) -> str:
    """What belongs to each: ``SGD 1.2, AdamW 0.8``; of many the ends: ``0.3 (Lion) to 1.2 (SGD)``."""
    if len(values) <= MOST_NAMES:
        return ", ".join(f"{title} {value}" for title, value in values.items())
    ordered = sorted(values, key=lambda title: float(re.sub("[^-0-9.e]", "", values[title])))
    return f"{values[ordered[0]]} ({ordered[0]}) to {values[ordered[-1]]} ({ordered[-1]})"


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


def _names(titles: Sequence[str]) -> str:
    """The names as in a sentence, of many the first ones: a title must stay one."""
    return few(titles, MOST_NAMES)


def _verb(names: Sequence[str], one: str, many: str) -> str:
    return one if len(names) == 1 else many
