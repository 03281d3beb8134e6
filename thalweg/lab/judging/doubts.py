"""What makes a comparison doubtful, whatever its verdict: each a kind and a sentence.

They are read from the records alone, so that they hold for all who share a study, and after any pause.
"""

import re
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from scipy import stats

from thalweg.lab.judging.measures import seeds_are_one
from thalweg.lab.judging.wording import counted, listed
from thalweg.lab.spaces import Space
from thalweg.lab.study.extension import rate_range, was_all_too_high
from thalweg.lab.study.protocol import chosen, is_complete
from thalweg.lab.study.record import Record
from thalweg.lab.study.study import Study
from thalweg.lab.workload.errors import Doubt

MORE_THAN_PLANNED = 1.5
"""Runs that take so many times what a budget was planned with are told,"""

ENOUGH_RUNS = 4
"""once there are so many; likewise a metric that has not moved in so many."""

ENOUGH_TRIALS = 6
"""Different values of metric and loss from which their orders are compared."""

TURNED = 0.8
"""A rank correlation of metric and loss, better being more, beyond which the direction is asked about."""

MORE_IS_BETTER = (
    "accuracy acc auc auroc f1 r2 bleu rouge precision recall iou miou dice reward return score map"
)
LESS_IS_BETTER = "loss error errors mse rmse mae nll perplexity ppl wer cer fid bits bpb bpc entropy regret"


def doubts(study: Study, planned_seconds: float = 0.0) -> list[Doubt]:
    """All that can be said so far, each once.

    Args:
        study: with the records there are.
        planned_seconds: what a run was thought to take when a budget was spread; 0 without one.
    """
    found = [
        *_seen_by_runs(study),
        *_accidents(study),
        *_descents(study),
        *_direction(study),
        *_seeds(study),
        *_metric(study),
        *_splits(study),
        *_same(study),
        *_rates(study),
        *_nothing_learned(study),
        *_times(study, planned_seconds),
    ]
    return list(dict.fromkeys(found))


def _seen_by_runs(study: Study) -> Iterator[Doubt]:
    kinds = set()
    for record in study.records:
        for doubt in record.doubts:
            if doubt.kind not in kinds:
                kinds.add(doubt.kind)
                yield doubt


def _accidents(study: Study) -> Iterator[Doubt]:
    for space in study.spaces:
        lost = [record for record in study.lost if record.trial.name == space.name]
        if not lost:
            continue
        reasons = Counter(record.failure.text for record in lost if record.failure)
        words = listed([text if n == 1 else f"{text} ({n} times)" for text, n in reasons.items()])
        runs = counted(len(lost), "run")
        yield Doubt(
            "accident",
            f"{space.title} lost {runs} to accidents, each tried several times: {words}. They count neither "
            "for nor against it; the same command tries them again.",
        )


def _descents(study: Study) -> Iterator[Doubt]:
    for space in study.spaces:
        axis, wide = space.axes[0], rate_range(study, space)
        if not was_all_too_high(study, space) or wide.low == axis.low:
            continue
        below = study.of(space, "extend")
        worked = [record for record in below if record.validation is not None]
        text = f"{space.title} diverged in every trial from {axis.low:g} to {axis.high:g} ({axis.name}), so "
        tried = counted(len(below), "trial")
        text += f"it was searched down to {wide.low:.3g}: of {tried} there, {len(worked) or 'none'} worked."
        yield Doubt("search", text)


def _direction(study: Study) -> Iterator[Doubt]:
    workload = study.workload
    words = set(re.split(r"[^a-z0-9]+", workload.metric.lower()))
    usual = None
    if words & set(LESS_IS_BETTER.split()):
        usual = False
    elif words & set(MORE_IS_BETTER.split()):
        usual = True
    if usual is not None and usual != workload.higher_is_better:
        yield Doubt(
            "direction",
            f"{'Less' if usual else 'More'} {workload.metric} counts as better here, which is unusual: is "
            f"higher_is_better = {not workload.higher_is_better} what is meant?",
        )
    elif usual is None and _is_turned(study):
        yield Doubt(
            "direction",
            f"The better the {workload.metric} of a tuning trial is, the worse is its validation loss: is "
            f"higher_is_better = {not workload.higher_is_better} what is meant?",
        )


def _is_turned(study: Study) -> bool:
    """Whether the order of the tuning trials by metric is about the opposite of that by loss."""
    found = [
        (study.better(record.validation.metric), record.validation.loss)
        for space in study.spaces
        for record in study.tuning_of(space)
        if record.validation is not None
    ]
    metrics, losses = zip(*found, strict=True) if found else ((), ())
    if len(set(metrics)) < ENOUGH_TRIALS or len(set(losses)) < ENOUGH_TRIALS:
        return False
    return float(stats.spearmanr(metrics, losses).statistic) > TURNED


def _seeds(study: Study) -> Iterator[Doubt]:
    """Whether a seed fixes the weights, and whether another gives others."""
    # A recipe may train another model.
    recipes = {space.name for space in study.spaces if space.changes}
    starts: dict[tuple[int, str], set[float]] = {}
    for record in _started(study):
        recipe = record.trial.name if record.trial.name in recipes else ""
        starts.setdefault((record.trial.seed, recipe), set()).add(record.curve[0].metric)
    for (seed, _), metrics in starts.items():
        if len(metrics) > 1:
            low, high = min(metrics), max(metrics)
            yield Doubt(
                "start",
                f"Runs of the same seed did not start alike: before the first step of seed {seed} the "
                f"validation {study.workload.metric} was {low:.6g} to {high:.6g}. The initial weights or the "
                "evaluation do not come from the seed alone, so runs are not compared pair by pair.",
            )
            break
    for space in study.spaces:
        if seeds_are_one(study, space):
            yield Doubt(
                "seeds",
                f"All {len(study.final_of(space))} seeds of {space.title} gave exactly the same run: the "
                "task does not use its seed, so no interval here says anything about chance.",
            )
            break


def _metric(study: Study) -> Iterator[Doubt]:
    curves = [record.curve for record in study.records if len(record.curve) > 1]
    values = {point.metric for curve in curves for point in curve}
    if len(curves) >= ENOUGH_RUNS and len(values) == 1:
        yield Doubt(
            "metric",
            f"The validation {study.workload.metric} was {next(iter(values)):.6g} at every evaluation of "
            "every run: it does not see what is trained.",
        )


def _splits(study: Study) -> Iterator[Doubt]:
    """Whether test is what was chosen on. Of what ships with the lab its documentation says so."""
    finals = [record for record in study.records if record.test is not None]
    if type(study.workload).__module__.startswith("thalweg.") or len(finals) < ENOUGH_RUNS:
        return
    if all(record.test == record.validation for record in finals):
        yield Doubt(
            "splits",
            f"Validation and test gave the same {study.workload.metric} in all {len(finals)} final runs: "
            "they seem to be the same data, on which the settings were chosen too.",
        )


def _same(study: Study) -> Iterator[Doubt]:
    """Optimizers whose runs are the same to the last digit: two names of one, or none that moves a weight."""
    found: dict[tuple[Any, ...], list[Space]] = {}
    for space in study.spaces:
        finals = study.final_of(space)
        if len(finals) > 1 and all(record.test is not None for record in finals):
            found.setdefault(tuple((r.trial.seed, r.curve, r.test) for r in finals), []).append(space)
    for spaces in found.values():
        if len(spaces) > 1:
            names = listed([space.title for space in spaces])
            yield Doubt(
                "same",
                f"{names} gave exactly the same runs on all fresh seeds: either they are the same optimizer "
                "with the same settings, or nothing that they do reaches the model.",
            )


def _rates(study: Study) -> Iterator[Doubt]:
    """Optimizers that train alike whatever their learning rate is."""
    for space in study.spaces:
        tuning = [record for record in study.tuning_of(space) if record.validation is not None]
        rates = sorted({record.trial.point[space.axes[0].name] for record in tuning})
        curves = {record.curve for record in tuning}
        # A metric of few values may be the same by chance; the training loss is not.
        told = all(any(point.loss is not None for point in curve) for curve in curves)
        if len(rates) > 1 and len(curves) == 1 and told:
            yield Doubt(
                "rate",
                f"{space.title} trained exactly alike at all {len(rates)} values of {space.axes[0].name} "
                f"from {rates[0]:.3g} to {rates[-1]:.3g}: it does not use what is searched.",
            )


def _nothing_learned(study: Study) -> Iterator[Doubt]:
    if not is_complete(study):
        return
    idle = [space.title for space in study.spaces if _no_better(study, space)]
    if idle:
        yield Doubt(
            "nothing learned",
            f"With {listed(idle)} training ended no better than it began, on the mean of the fresh seeds: "
            f"the validation {study.workload.metric} was as good before the first step.",
        )


def _no_better(study: Study, space: Space) -> bool:
    finals = [r for r in study.final_of(space) if r.validation and len(r.curve) > 1 and r.curve[0].step == 0]
    if not finals or chosen(study, space) is None:
        return False
    before = statistics.fmean(study.better(record.curve[0].metric) for record in finals)
    after = statistics.fmean(study.better(r.validation.metric) for r in finals if r.validation)
    return after <= before


def _times(study: Study, planned: float) -> Iterator[Doubt]:
    totals = [record.timing.total for record in study.records if record.timing and not record.failure]
    if planned <= 0 or len(totals) < ENOUGH_RUNS:
        return
    mean = statistics.fmean(totals)
    if mean > MORE_THAN_PLANNED * planned:
        yield Doubt(
            "budget",
            f"Runs take {mean:.2g} s on average and not the {planned:.2g} s with which the budget was "
            f"spread, so the whole takes about {mean / planned:.1f} times as long as was asked for.",
        )


def _started(study: Study) -> Sequence[Record]:
    """The runs whose model was evaluated before its first step; a function need not report that."""
    return [record for record in study.records if record.curve and record.curve[0].step == 0]
