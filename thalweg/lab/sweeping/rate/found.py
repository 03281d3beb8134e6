"""What a range test found, over its seeds: in words, in numbers and as a page."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from thalweg.lab.judging.statistics import Interval, mean_interval
from thalweg.lab.judging.wording import counted, listed
from thalweg.lab.showing import pages
from thalweg.lab.sweeping.rate.curve import RULE, Sweep

FRAME_HEIGHT = 760
"""Pixels of the window in which a notebook shows the page."""


@dataclass(frozen=True, repr=False)
class Found:
    """A range test, over one seed or several.

    Attributes:
        sweeps: one for each seed.
        low: the first rate.
        high: the last.
        steps: of a whole sweep.
        optimizer: its name.
        task: what was trained, by name.
        counted: what a sweep is one of: ``seed``, or ``repeat``.
        asked: how many sweeps were asked for, where Ctrl-C has cut it short; else as many as there are.
        facts: how it was done, by term, for the page.
        command: what was typed, for the page.
    """

    sweeps: Sequence[Sweep]
    low: float
    high: float
    steps: int
    optimizer: str
    task: str
    counted: str = "seed"
    asked: int = 0
    facts: dict[str, str] = field(default_factory=dict)
    command: str = ""

    @cached_property
    def suggested(self) -> Interval | None:
        """The rate to begin with: geometric mean over the sweeps that suggest one, with its 95 % interval.

        There is no interval where some do not, or of a single one; None where none does.
        """
        return _geometric([sweep.suggested for sweep in self.sweeps])

    @cached_property
    def undone(self) -> Interval | None:
        """The rate at which training is undone, likewise."""
        return _geometric([sweep.undone for sweep in self.sweeps])

    @property
    def headline(self) -> str:
        """The answer."""
        if self.suggested is None:
            return f"No learning rate for {self.optimizer} can be read off"
        return f"A learning rate for {self.optimizer}: {rate(self.suggested.mean)}"

    @property
    def sentence(self) -> str:
        """The answer with its rule, its interval, and where training breaks."""
        return " ".join(filter(None, [self._suggestion(), self._breaking()]))

    @property
    def conditions(self) -> str:
        """What the answer holds for, and what it is not."""
        few = len(self.sweeps) < self.asked
        cut = f" Ended after {len(self.sweeps)} of {self.asked} {self.counted}s." if few else ""
        return (
            f"{self.task}, {counted(len(self.sweeps), self.counted)}, one run each: the rate climbs from "
            f"{rate(self.low)} to {rate(self.high)} over {self.steps} steps.{cut} It sees how training "
            "begins, not how it ends: a rate to start from, which thalweg compare tunes."
        )

    def _suggestion(self) -> str:
        none = [sweep for sweep in self.sweeps if sweep.suggested is None]
        reasons = listed(sorted({sweep.why for sweep in none}))
        if self.suggested is None:
            return f"{reasons[:1].upper()}{reasons[1:]}." if reasons else "There is no sweep."
        among = f" ({self._mean}{between(self.suggested)})" if len(self.sweeps) > 1 else ""
        but = f", on {len(self.sweeps) - len(none)} of {len(self.sweeps)}; else {reasons}" if none else ""
        return f"It is {RULE}{among}{but}."

    @property
    def _mean(self) -> str:
        return f"geometric mean of {counted(len(self.sweeps), self.counted)}"

    def _breaking(self) -> str:
        many, broken = len(self.sweeps), sum(sweep.undone is not None for sweep in self.sweeps)
        if self.undone is None:
            return f"Training is not undone up to {rate(self.high)}." if many else ""
        text = f"Training is undone at {rate(self.undone.mean)}{between(self.undone, brackets=True)}"
        if broken < many:
            text += f" on {broken} of {many}, and not up to {rate(self.high)} on the others"
        return f"{text}."

    def cells(self) -> list[list[str]]:
        """The table: what its columns are called, then a row for each sweep."""
        head = [self.counted, "suggested lr", "lowest loss at", "undone at", "loss before", "lowest loss"]
        return [
            head,
            *([str(place), *self._cells(sweep)] for place, sweep in enumerate(self.sweeps, start=1)),
        ]

    def _cells(self, sweep: Sweep) -> list[str]:
        lowest = f"{float(sweep.smoothed.min()):.4g}" if sweep.rates else "none"
        rates = [sweep.suggested, sweep.lowest, sweep.undone]
        return [*("none" if value is None else rate(value) for value in rates), f"{sweep.start:.4g}", lowest]

    def table(self) -> str:
        """The same as plain text."""
        lines = self.cells()
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines
        )

    def to_dict(self) -> dict[str, Any]:
        """All figures, as JSON takes them."""
        return {
            "task": self.task,
            "optimizer": self.optimizer,
            "from": self.low,
            "to": self.high,
            "steps": self.steps,
            "suggested": _ends(self.suggested),
            "undone": _ends(self.undone),
            "sweeps": [
                {
                    "seed": sweep.seed,
                    "suggested": sweep.suggested,
                    "lowest": sweep.lowest,
                    "undone": sweep.undone,
                    "why_none": sweep.why,
                    "start": _number(sweep.start),
                    "noise": _number(sweep.noise),
                    "rates": list(sweep.rates),
                    "losses": list(sweep.losses),
                    "smoothed": [float(value) for value in sweep.smoothed],
                }
                for sweep in self.sweeps
            ],
        }

    def figure(self) -> go.Figure:
        """The loss against the rate, as a figure of plotly's."""
        from thalweg.lab.sweeping.rate.picture import course

        return course(self).plots()["course"]

    def html(self) -> str:
        """Picture, numbers and method: one file that needs no network."""
        from thalweg.lab.sweeping.rate.page import render

        return render(self)

    def save(self, path: str | Path) -> None:
        """Writes that file, whole or not at all.

        Raises:
            ValueError: its name does not end with ``.html``.
            OSError: it cannot be written.
        """
        pages.save(path, self.html)

    def __repr__(self) -> str:
        return "\n".join([self.table(), "", f"{self.headline}.", self.sentence, self.conditions])

    def _repr_html_(self) -> str:
        return pages.frame(self.headline, self.html(), FRAME_HEIGHT)


def rate(value: float) -> str:
    """A rate to two digits: ``0.012``."""
    return f"{value:.2g}"


def between(found: Interval, *, brackets: bool = False) -> str:
    """The interval of a rate as it follows it; nothing where there is none."""
    if found.low is None or found.high is None:
        return ""
    text = f"95 % interval {rate(found.low)} to {rate(found.high)}"
    return f" ({text})" if brackets else f", {text}"


def _geometric(values: Sequence[float | None]) -> Interval | None:
    """The geometric mean and its interval: that of the mean logarithm, which rates vary on."""
    known = [math.log(value) for value in values if value is not None]
    if not known:
        return None
    found = mean_interval(known)
    if len(known) < len(values) or found.low is None or found.high is None:
        return Interval(math.exp(found.mean), None, None)
    return Interval(math.exp(found.mean), math.exp(found.low), math.exp(found.high))


def _ends(found: Interval | None) -> dict[str, float | None] | None:
    return None if found is None else {"rate": found.mean, "low": found.low, "high": found.high}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
