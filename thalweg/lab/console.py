"""What a comparison shows in the terminal: progress on stderr, the answer on stdout."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from thalweg.lab.statistics import Row
from thalweg.lab.study import Study
from thalweg.lab.trial import Record
from thalweg.lab.verdict import Verdict
from thalweg.lab.wording import Numbers

NARROWEST = 80
"""The width of tables where there is no terminal to ask."""


@contextmanager
def progress(total: int) -> Iterator[Callable[[Record], None]]:
    """Shows how many of `total` runs have ended; call what it yields as each one ends."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain_lines(total)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("runs,"),
        TimeElapsedColumn(),
        TextColumn("gone,"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=total)
        yield lambda record: bar.update(task, advance=1, description=_doing(record))


def show(study: Study, verdict: Verdict) -> None:
    """Prints the ranking, the verdict and the code to paste."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, NARROWEST)
    console.print(_table(study, verdict.ranking))
    console.print()
    console.print(Text(f"{verdict.headline}.", style="bold"))
    console.print(Text(verdict.sentence))
    console.print(Text(verdict.conditions, style="dim"))
    for note in verdict.notes:
        console.print(Text(f"- {note}", style="dim"))
    console.print()
    for line in verdict.code:
        print_line(f"  {line}", error=False)
    print_line("", error=False)


def show_written(paths: Iterable[Path]) -> None:
    """Prints where the files are."""
    for path in paths:
        print_line(f"wrote {path}", error=False)


def print_line(line: str, *, error: bool = True) -> None:
    """One line on stderr or stdout, never wrapped, so that it can be copied."""
    Console(stderr=error, highlight=False).print(Text(line), soft_wrap=True)


def _plain_lines(total: int) -> Callable[[Record], None]:
    """A line at every tenth of the runs, for logs and pipes."""
    started, ended = time.monotonic(), 0
    print_line(f"{total} runs to go")

    def done(record: Record) -> None:
        nonlocal ended
        ended += 1
        if ended * 10 // total > (ended - 1) * 10 // total:
            gone = time.monotonic() - started
            left = gone / ended * (total - ended)
            print_line(f"{ended}/{total} runs, {gone:.0f} s gone, about {left:.0f} s left")

    return done


def _doing(record: Record) -> str:
    return "tuning learning rates" if record.trial.stage == "tune" else "measuring on fresh seeds"


def _table(study: Study, ranking: Sequence[Row]) -> Table:
    unit = f" {study.workload.unit}" if study.workload.unit else ""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("optimizer", no_wrap=True)
    for title in (
        "lr",
        f"test{unit}",
        "95 % interval",
        f"val.{unit}",
        "run s",
        "step ms",
        "state B",
    ):
        table.add_column(title, justify="right", no_wrap=True)
    for row in ranking:
        table.add_row(*map(Text, _cells(study, row)))
    return table


def _cells(study: Study, row: Row) -> list[str]:
    numbers, chosen = Numbers(study), row.chosen
    validation = chosen.validation if chosen else None
    return [
        row.space.optimizer,
        f"{chosen.trial.lr:g}" if chosen else "none",
        numbers.plain(row.test.mean) if row.test else "failed",
        numbers.interval(row.test) if row.test else f"{row.failures} of {study.settings.seeds}",
        numbers.plain(validation.metric) if validation else "",
        "" if row.seconds is None else f"{row.seconds:.2f}",
        "" if row.step_ms is None else f"{row.step_ms:.3f}",
        "" if row.state_bytes is None else f"{row.state_bytes:,}",
    ]
