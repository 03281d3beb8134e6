"""All runs that were made, and the spaces they were drawn from."""

from html import escape

from thalweg.lab.judging.quantities import amount, hyperparameter, hyperparameters
from thalweg.lab.judging.verdict import Verdict
from thalweg.lab.judging.wording import Numbers
from thalweg.lab.showing.report.table import Cell, Line, named, table
from thalweg.lab.spaces import Axis, Space
from thalweg.lab.study.protocol import rate_range
from thalweg.lab.study.record import Record
from thalweg.lab.study.study import Study
from thalweg.lab.workload import Evaluation


def trials(study: Study, verdict: Verdict) -> str:
    """Every run that was made, by the number that `thalweg trial` takes."""
    if not study.records:
        return "<p>No run has ended yet.</p>"
    numbers = Numbers(study, verdict.margin)
    unit = f", {escape(study.workload.unit)}" if study.workload.unit else ""
    head = [
        Cell("Id"),
        Cell("Stage", kind="text"),
        Cell("Optimizer", kind="text"),
        Cell("Learning rate"),
        Cell("Other hyperparameters", kind="text"),
        Cell("Seed"),
        Cell(f"Validation{unit}"),
        Cell(f"Test{unit}"),
        Cell("Seconds"),
        Cell("Failure", kind="text"),
    ]
    spaces = {space.name: space for space in study.spaces}
    lines = [
        Line(
            _trial(study, spaces[record.trial.name], index, record, numbers),
            "failed" if record.failure else "",
            {"data-optimizer": spaces[record.trial.name].title, "data-stage": record.trial.stage},
        )
        for index, record in enumerate(study.records)
    ]
    return table("trials", "All trials", head, lines, kind="sortable filterable")


def _trial(study: Study, space: Space, index: int, record: Record, numbers: Numbers) -> list[Cell]:
    trial = record.trial
    others = hyperparameters({key: value for key, value in trial.settings.items() if key != "lr"})
    seconds = record.timing.seconds if record.timing else None
    return [
        Cell(str(index)),
        Cell(trial.stage, kind="text"),
        Cell(named(study, space), kind="text"),
        Cell(f"{trial.lr:.4g}"),
        Cell(escape(others), kind="text wrap"),
        Cell(str(trial.seed)),
        _evaluated(record.validation, numbers),
        _evaluated(record.test, numbers),
        Cell("" if seconds is None else amount(seconds)),
        Cell(escape(_failure(record)), kind="text wrap"),
    ]


def _evaluated(evaluation: Evaluation | None, numbers: Numbers) -> Cell:
    return Cell("") if evaluation is None else Cell(numbers.plain(evaluation.metric))


def _failure(record: Record) -> str:
    failure = record.failure
    if failure is None:
        return ""
    return failure.text if failure.text.startswith(failure.kind) else f"{failure.kind}: {failure.text}"


def spaces(study: Study) -> str:
    """What was searched for each optimizer, where, and why there."""
    head = [Cell(text, kind="text") for text in ("Optimizer", "Hyperparameter", "Range", "Here", "Why")]
    lines = [line for space in study.spaces for line in _space(study, space)]
    return table("spaces", "Search spaces", head, lines, kind="spaces")


def _space(study: Study, space: Space) -> list[Line]:
    searched = {axis.name for axis in study.searched(space)}
    lines = []
    for place, axis in enumerate(space.axes):
        cells = [
            named(study, space) if place == 0 else f'<span class="again">{escape(space.title)}</span>',
            escape(axis.name),
            escape(axis.text()),
            escape(_treatment(study, space, axis, axis.name in searched)),
            escape(_why(space)) if place == 0 else "",
        ]
        lines.append(
            Line([Cell(cell, kind="text wrap" if i > 2 else "text") for i, cell in enumerate(cells)])
        )
    return lines


def _why(space: Space) -> str:
    """Why there, and what a recipe changes of the task."""
    changes = f"trained with {hyperparameters(space.changes)}" if space.changes else ""
    return "; ".join(filter(None, [changes, space.source]))


def _treatment(study: Study, space: Space, axis: Axis, searched: bool) -> str:
    if not searched:
        value = "the optimizer's default" if axis.default is None else hyperparameter(axis.default)
        return f"{value}; searched from {axis.trials} trials"
    wide = rate_range(study, space)
    if axis is space.axes[0] and (wide.low, wide.high) != (axis.low, axis.high):
        return f"searched, extended to {wide.low:.3g} to {wide.high:.3g}"
    return "searched"
