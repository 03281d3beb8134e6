"""How much a hyperparameter matters, by the records there are: in numbers, in words, as files."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from thalweg.lab.judging.quantities import hyperparameter
from thalweg.lab.judging.ranges import Arms, Range, over_grid, over_rates
from thalweg.lab.judging.statistics import Interval
from thalweg.lab.judging.wording import Numbers, counted, listed
from thalweg.lab.showing import pages, results
from thalweg.lab.showing.results import Provenance
from thalweg.lab.spaces import Space, jsonable
from thalweg.lab.study import grid
from thalweg.lab.study import record as records
from thalweg.lab.study.grid import Factor
from thalweg.lab.study.protocol import chosen
from thalweg.lab.study.study import Study
from thalweg.lowering import files

SCHEMA = 1
"""The version of the JSON's layout."""

FRAME_HEIGHT = 900
"""Pixels of the window in which a notebook shows the page."""


@dataclass(frozen=True)
class Point:
    """One point of the grid, or the defaults.

    Attributes:
        values: of the hyperparameters, in their order; of the defaults, as far as they are known.
        is_default: whether all hyperparameters have their defaults.
        on_grid: whether it is one of the grid.
        rate: the best learning rate there; None where every trial failed or none has been made.
        metric: validation over the fresh seeds at that rate, a run that failed counted as the worst outcome.
        failures: fresh seeds on which training failed.
        name: of its runs.
    """

    values: tuple[Any, ...]
    is_default: bool
    on_grid: bool
    rate: float | None
    metric: Interval | None
    failures: int
    name: str


@dataclass(frozen=True, repr=False)
class Answer:
    """Validation over one or two hyperparameters, the learning rate tuned anew at each point.

    Attributes:
        study: all records; the first of its spaces is the one at the defaults.
        space: of the optimizer, as it is searched in a comparison.
        factors: the hyperparameters with their values.
        provenance: where, when and with what it was run.
        finished: whether all runs were made.
    """

    study: Study
    space: Space
    factors: Sequence[Factor]
    provenance: Provenance
    finished: bool = True

    @cached_property
    def points(self) -> list[Point]:
        """The points of the grid, the last hyperparameter fastest, then the defaults if not among them."""
        ""
        found = [self._point(values, on_grid=True) for values in grid.points(self.factors)]
        if any(point.is_default for point in found):
            return found
        default = tuple(grid.default_of(self.space, factor.name) for factor in self.factors)
        return [*found, self._point(default, on_grid=False)]

    def _point(self, values: tuple[Any, ...], *, on_grid: bool) -> Point:
        arm = (
            grid.at(self.study.spaces, self.space, self.factors, values) if on_grid else self.study.spaces[0]
        )
        best = chosen(self.study, arm)
        rate = None if best is None else best.trial.lr
        is_default = arm is self.study.spaces[0]
        return Point(
            values,
            is_default,
            on_grid,
            rate,
            self._arms.metric(arm.name),
            self._arms.failures(arm.name),
            arm.name,
        )

    @cached_property
    def _arms(self) -> Arms:
        return over_grid(self.study, self.study.spaces)

    @cached_property
    def range(self) -> Range | None:
        """How far the metric ranges over the grid."""
        names = {point.name for point in self.points if point.on_grid}
        return over_grid(self.study, [space for space in self.study.spaces if space.name in names]).range()

    @cached_property
    def over_rates(self) -> Range | None:
        """How far it ranges over the learning rates that were tried at the defaults."""
        return over_rates(self.study).range()

    @cached_property
    def gain(self) -> tuple[Point, Interval] | None:
        """The best point of tuning, and by how much it is better than the defaults on fresh seeds."""
        named, default = self._arms.named(), self.study.spaces[0].name
        if named is None or named[0] == default:
            return None
        difference = self._arms.difference(named[0], default)
        return (
            None if difference is None else (next(p for p in self.points if p.name == named[0]), difference)
        )

    @property
    def margin(self) -> float:
        """The smallest difference worth having, in the metric's unit."""
        return self._arms.margin

    @cached_property
    def numbers(self) -> Numbers:
        """Writes the metric."""
        return Numbers(self.study, self.margin)

    @property
    def names(self) -> str:
        """The hyperparameters as in a sentence."""
        return listed([factor.name for factor in self.factors])

    @property
    def headline(self) -> str:
        """The answer."""
        on, plural = f"{self.space.title} on {self.study.workload.name}", len(self.factors) > 1
        size = None if self.range is None else self.range.size
        if size is None or size.low is None or size.high is None:
            return f"How much {self.names} matter{'s'[plural:]} to {on} is not known yet"
        if size.low > self.margin:
            return f"{self.names} matter{'s'[plural:]} to {on}, even with the rate tuned anew"
        if size.high <= self.margin:
            return f"{self.names} hardly matter{'s'[plural:]} to {on} once the rate is tuned anew"
        return f"Whether {self.names} matter{'s'[plural:]} to {on} by more than the margin cannot be told"

    @property
    def sentence(self) -> str:
        """The range over the grid beside the margin and the range over the learning rate."""
        if self.range is None:
            return "There are too few runs to say anything."
        over = listed([f"{f.name} of {_values(f.values)}" for f in self.factors])
        metric = f"validation {self.study.workload.metric}"
        size, margin = self._sized(self.range), self.numbers.margin
        text = f"Over {over} the {metric} ranges over {size}; the margin is {margin}."
        if self.over_rates is not None:
            tried = list(grid.rates(self.study))
            text += (
                f" Over the learning rates from {tried[0]:.2g} to {tried[-1]:.2g} at the defaults it ranges "
                f"over {self._sized(self.over_rates)}."
            )
        return f"{text} {self._said_gain()}"

    def _said_gain(self) -> str:
        if self.gain is None:
            return "No point did better in tuning than the defaults."
        point, gain = self.gain
        word = "better"
        if gain.mean < 0 and gain.low is not None and gain.high is not None:
            word, gain = "worse", Interval(-gain.mean, -gain.high, -gain.low)
        at = ", ".join(
            f"{f.name}={hyperparameter(v)}" for f, v in zip(self.factors, point.values, strict=True)
        )
        size = self.numbers.difference(gain.mean)
        return f"Best in tuning was {at}: {size} {word} than the defaults{self._interval(gain)}."

    def _sized(self, found: Range) -> str:
        return f"{self.numbers.difference(found.size.mean)}{self._interval(found.size)}"

    def _interval(self, found: Interval) -> str:
        return self.numbers.in_brackets(found)

    @property
    def conditions(self) -> str:
        """Under which it holds."""
        settings, failed = self.study.settings, sum(point.metric is None for point in self.points)
        text = (
            f"{counted(len(self.points), 'point')}, {self._tried} learning rates at each on one seed, "
            f"the best of them on {counted(settings.seeds, 'fresh seed')}; {len(self.study.records)} runs. "
            "On validation; test was not looked at."
        )
        if failed and self.finished:
            text += f" At {counted(failed, 'point')} no run came to its end, and the range leaves them out."
        return text if self.finished else f"{text} Not all runs were made."

    @property
    def _tried(self) -> int:
        """Learning rates at each point, those beyond a range's border among them; so far."""
        return max(len(self.study.of(space, "tune", "extend")) for space in self.study.spaces)

    def cells(self) -> list[list[str]]:
        """The table: what its columns are called, then a row for each point."""
        unit = f" {self.study.workload.unit}" if self.study.workload.unit else ""
        failures = any(point.failures for point in self.points)
        head = [*(factor.name for factor in self.factors), f"validation{unit}", "95 % interval", "best lr"]
        return [
            [*head, *(["failed"] if failures else []), ""],
            *(self._row(p, failures=failures) for p in self.points),
        ]

    def _row(self, point: Point, *, failures: bool) -> list[str]:
        metric = point.metric
        return [
            *("?" if value is None and point.is_default else hyperparameter(value) for value in point.values),
            "none" if metric is None else self.numbers.plain(metric.mean),
            "" if metric is None else self.numbers.interval(metric),
            "none" if point.rate is None else f"{point.rate:.3g}",
            *([str(point.failures or "")] if failures else []),
            "defaults" if point.is_default else "",
        ]

    def table(self) -> str:
        """The same as plain text."""
        lines = self.cells()
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )

    def to_json(self) -> str:
        """All that was measured, as one JSON object; numbers that are not finite become null."""
        provenance = self.provenance
        document = {
            "schema": SCHEMA,
            **asdict(provenance),
            "warnings": [doubt._asdict() for doubt in provenance.warnings],
            "started": provenance.started.isoformat(timespec="seconds"),
            "workload": self.study.workload.name,
            "metric": self.study.workload.metric,
            "optimizer": self.space.optimizer,
            "factors": [{"name": f.name, "values": [jsonable(v) for v in f.values]} for f in self.factors],
            "settings": asdict(self.study.settings),
            "complete": self.finished,
            "headline": self.headline,
            "sentence": self.sentence,
            "margin": self.margin,
            "range": self.range and asdict(self.range),
            "range_over_rates": self.over_rates and asdict(self.over_rates),
            "points": [
                {**asdict(point), "values": [jsonable(v) for v in point.values]} for point in self.points
            ],
            "records": [{"id": i, **records.to_json(record)} for i, record in enumerate(self.study.records)],
        }
        return json.dumps(results.finite(document), indent=1, allow_nan=False) + "\n"

    def figure(self) -> go.Figure:
        """The picture, as a figure of plotly's."""
        from thalweg.lab.sweeping.sensitivity.picture import draw

        return draw(self).plots()["sensitivity"]

    def html(self) -> str:
        """Picture, table and method: one file that needs no network."""
        from thalweg.lab.sweeping.sensitivity.page import render

        return render(self)

    def save(self, folder: str | Path) -> None:
        """Writes ``report.html`` and ``results.json``, each whole or not at all.

        Raises:
            OSError: a file cannot be written.
        """
        folder = Path(folder)
        files.prepare_folder(folder)
        files.write_atomically(folder / "report.html", self.html().encode())
        files.write_atomically(folder / "results.json", self.to_json().encode())

    def __repr__(self) -> str:
        return "\n".join([self.table(), "", f"{self.headline}.", self.sentence, self.conditions])

    def _repr_html_(self) -> str:
        return pages.frame(self.headline, self.html(), FRAME_HEIGHT)


def _values(values: Sequence[Any]) -> str:
    """A range of numbers by its ends, else all values."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return f"{hyperparameter(min(values))} to {hyperparameter(max(values))}"
    return listed([str(value) for value in values])
