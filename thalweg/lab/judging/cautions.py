"""What a careful reader should also know of a comparison, a sentence each."""

from collections import Counter
from collections.abc import Sequence

from thalweg.lab.judging.measures import early
from thalweg.lab.judging.statistics import Row
from thalweg.lab.judging.wording import counted, listed
from thalweg.lab.study.extension import was_all_too_high
from thalweg.lab.study.protocol import border, is_complete, rate_range
from thalweg.lab.study.study import Study


def cautions(study: Study, ranking: Sequence[Row], least: float) -> list[str]:
    """All of them; `least` is the margin."""
    found = [*_failed_in_tuning(study, ranking), *_ended_early(study)]
    found += [caution for row in ranking for caution in _cautions_about(study, row)]
    if not is_complete(study):
        made = len(study.records)
        found.insert(0, f"Not finished: {made} runs were made. The same command goes on from there.")
    if least == 0 and any(row.test is not None for row in ranking):
        found.append(
            "The margin is zero: any difference decides that is sure to exist and is more than the luck of "
            "tuning."
        )
    return found


def _failed_in_tuning(study: Study, ranking: Sequence[Row]) -> list[str]:
    """Who failed in how many trials; those who did alike in one sentence."""
    groups: dict[str, list[str]] = {}
    for row in ranking:
        tuning = study.tuning_of(row.space)
        failures = Counter(record.failure.kind for record in tuning if record.failure)
        if failures:
            kinds = listed([f"{kind} {count}" for kind, count in failures.items()])
            said = f"failed in {failures.total()} of {len(tuning)} tuning trials ({kinds})."
            groups.setdefault(said, []).append(row.space.title)
    return [f"{listed(names)} {'each ' if len(names) > 1 else ''}{said}" for said, names in groups.items()]


def _ended_early(study: Study) -> list[str]:
    """What ending hopeless trials has cost, as far as the tenth that was finished tells."""
    found = early(study)
    if not found.ended and not found.finished:
        return []
    said = f"{counted(found.ended, 'trial')} ended early, which training only made worse."
    if not found.finished:
        return [f"{said} None of them was drawn to be finished all the same."]
    more = f"Of {counted(found.finished, 'such trial')} that the draw had finished all the same"
    return [
        f"{said} {more}, {found.good or 'none'} came to beat the median trial of its optimizer and "
        f"{found.chosen or 'none'} was chosen."
    ]


def _cautions_about(study: Study, row: Row) -> list[str]:
    cautions, name = [], row.space.title
    tuning = study.tuning_of(row.space)
    if tuning and row.chosen is None:
        cautions.append(f"{name} has no configuration: it failed in every trial.")
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
