"""What a comparison shows in the terminal: progress on stderr, the answer on stdout."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from thalweg.lab.judging import measures
from thalweg.lab.judging.statistics import Row
from thalweg.lab.judging.verdict import Verdict
from thalweg.lab.judging.wording import Numbers
from thalweg.lab.showing.ahead import Ahead, Left, clock, in_words
from thalweg.lab.spaces import Space
from thalweg.lab.study import protocol
from thalweg.lab.study.record import Stage, Trial
from thalweg.lab.study.study import Study
from thalweg.lab.workload.errors import Doubt

NARROWEST = 80
"""The width of pictures where there is no terminal to ask."""

WIDEST = 10_000
"""The width of tables where no terminal cuts them."""

SILENCE_SECONDS = 600.0
"""Where there is no terminal, after how long a line tells that it goes on."""

_DOING: dict[Stage, str] = {
    "tune": "tuning",
    "extend": "tuning beyond a range's border",
    "confirm": "confirming the best two of each",
    "final": "measuring on fresh seeds",
    "repeat": "measuring on fresh seeds",
}


MOST_ROWS = 12
"""Optimizers that the live table shows; a terminal has no room for more."""


class Screen:
    """Shows a comparison while it runs: a live table on a terminal, else a line at times."""

    def __init__(self, console: Console | None, live: Live | None, left: Left | None = None) -> None:
        self._console, self._live, self._left = console, live, left
        self._started: float | None = None
        self._ahead = Ahead(left)
        self._tenths, self._spoke = 0, 0.0

    def say(self, line: str) -> None:
        """Shows a line that stays."""
        if self._console is not None:
            self._console.print(Text(line), soft_wrap=True)

    def watch(self, study: Study, running: Sequence[Trial]) -> None:
        """Shows how far a study is."""
        if self._console is None:
            return
        done, total, now = len(study.records), _expected(study, self._left), time.monotonic()
        self._ahead.look(study, running)
        if self._started is None:
            self._started = self._spoke = now
            if self._live is None:
                self.say(f"{total - done} runs to go")
        gone, tenths = now - self._started, done * 10 // total
        if self._live is not None:
            left = in_words(self._ahead.seconds(study, running))
            self._live.update(_progress(study, running, total, f"{clock(gone)} gone{left}"))
        elif running and (tenths > self._tenths or now - self._spoke > SILENCE_SECONDS):
            self._tenths, self._spoke = tenths, now
            left = in_words(self._ahead.seconds(study, running))
            self.say(f"{done}/{total} runs, {clock(gone)} gone{left}")


@contextmanager
def progress(*, shown: bool = True, left: Left | None = None) -> Iterator[Screen]:
    """A screen on stderr, cleared in the end; one that stays silent if not `shown`.

    Args:
        shown: whether to show anything.
        left: says how many runs of each of the study's spaces are to be made, where it is no comparison.
    """
    console = Console(stderr=True, highlight=False)
    if not shown:
        yield Screen(None, None)
    elif not console.is_terminal:
        yield Screen(console, None, left)
    else:
        with Live(console=console, transient=True, refresh_per_second=4) as live:
            yield Screen(console, live, left)


def show(study: Study, verdict: Verdict, warnings: Sequence[Doubt] = ()) -> None:
    """Prints the ranking, the verdict with what makes it doubtful, and the code to paste."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDEST
    console.print(_table(study, verdict))
    console.print()
    console.print(Text(f"{verdict.headline}.", style="bold"))
    console.print(Text(verdict.sentence))
    for doubt in warnings:
        console.print(Text(f"! {doubt.text}", style="yellow"))
    console.print(Text(verdict.conditions, style="dim"))
    for note in verdict.notes:
        console.print(Text(f"- {note}", style="dim"))
    console.print()
    for line in verdict.code:
        print_line(f"  {line}", error=False)
    print_line("", error=False)


def show_answer(
    table: str, headline: str, sentence: str, conditions: str, warnings: Sequence[Doubt] = ()
) -> None:
    """Prints a table, whose first line is its head, and what it says."""
    console = Console(highlight=False)
    head, *lines = table.splitlines()
    console.print(Text(head, style="dim"), soft_wrap=True)
    for line in lines:
        console.print(Text(line), soft_wrap=True)
    console.print()
    console.print(Text(f"{headline}.", style="bold"), soft_wrap=True)
    console.print(Text(sentence), soft_wrap=True)
    for doubt in warnings:
        console.print(Text(f"! {doubt.text}", style="yellow"), soft_wrap=True)
    console.print(Text(conditions, style="dim"), soft_wrap=True)


def show_written(paths: Iterable[Path]) -> None:
    """Prints where the files are."""
    for path in paths:
        print_line(f"wrote {path}", error=False)


def print_line(line: str, *, error: bool = True) -> None:
    """One line on stderr or stdout, never wrapped, so that it can be copied."""
    Console(stderr=error, highlight=False).print(Text(line), soft_wrap=True)


def _expected(study: Study, left: Left | None) -> int:
    """How many runs the study takes, as far as that is known."""
    if left is not None:
        return max(1, len(study.records) + sum(left(study)[1]))
    extended = sum(record.trial.stage == "extend" for record in study.records)
    known = len(protocol.due(study)) if any(r.trial.stage == "final" for r in study.records) else 0
    least = protocol.runs_at_least(len(study.spaces), study.settings) + extended
    return max(known or least, len(study.records), 1)


def _progress(study: Study, running: Sequence[Trial], total: int, times: str) -> Group:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("optimizer", no_wrap=True)
    for title in ("runs", "failed", f"best val. {study.workload.metric}", "at lr", "now"):
        table.add_column(title, justify="right", no_wrap=True)
    at = Counter(trial.name for trial in running)
    for space in study.spaces[:MOST_ROWS]:
        table.add_row(space.title, *_standing(study, space), "●" * at[space.name])
    stage = _DOING[running[0].stage] if running else "done"
    status = Text(f"{stage}: {len(study.records)}/{total} runs, {times}", style="dim")
    # A bar does not end its line; a grid does.
    bar = Table.grid()
    bar.add_row(ProgressBar(total=total, completed=len(study.records), width=60))
    return Group(table, bar, status)


def _standing(study: Study, space: Space) -> list[str]:
    records = study.of(space, "tune", "extend", "confirm", "final")
    failed = sum(record.failure is not None for record in records)
    best = protocol.candidates(study, space)[:1]
    metric = best[0].validation.metric if best and best[0].validation else None
    return [
        str(len(records)),
        str(failed or ""),
        "" if metric is None else f"{metric:.4g}",
        f"{best[0].trial.lr:.3g}" if best else "",
    ]


def _table(study: Study, verdict: Verdict) -> Table:
    unit = f" {study.workload.unit}" if study.workload.unit else ""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("optimizer", no_wrap=True)
    failures = any(row.failures for row in verdict.ranking)
    failed = ["failed"] if failures else []
    for title in (f"test{unit}", "95 % interval", *failed, "lr", "to target", "step ms", "state B"):
        table.add_column(title, justify="right", no_wrap=True)
    level = measures.target(study)
    for row in verdict.ranking:
        table.add_row(*map(Text, _cells(study, verdict, row, level, failures=failures)))
    return table


def _cells(study: Study, verdict: Verdict, row: Row, level: float | None, *, failures: bool) -> list[str]:
    numbers, chosen = Numbers(study, verdict.margin), row.chosen
    reached = None if level is None else measures.reached(study, row.space, level)
    missing = "failed" if row.failures else ""
    return [
        row.space.title,
        numbers.plain(row.test.mean) if row.test else missing,
        numbers.interval(row.test) if row.test else "",
        *([f"{row.failures} of {row.measured}" if row.failures else ""] if failures else []),
        f"{chosen.trial.lr:g}" if chosen else "none",
        "never" if reached is None or reached.seconds is None else f"{reached.seconds:.2g} s",
        "" if row.step_ms is None else f"{row.step_ms:.3f}",
        "" if row.state_bytes is None else f"{row.state_bytes:,}",
    ]
