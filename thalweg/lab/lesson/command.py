"""The `thalweg lesson` commands behind their options."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thalweg.lab.lesson import keeping, making, wording
from thalweg.lab.lesson.claim import Claim, by_name
from thalweg.lab.lesson.claims import chosen
from thalweg.lab.lesson.experiment import Experiment
from thalweg.lab.lesson.known import look
from thalweg.lab.lesson.making import OutOfTimeError
from thalweg.lab.running.pool import Pool
from thalweg.lab.workload.data import MissingDataError
from thalweg.lab.workload.errors import TrialError
from thalweg.lowering import files

IN_CHECKOUT = Path("docs/lesson")
"""Where the project keeps its own records, which is where its commands look first."""

PAGE = "index.html"

TABLES = "README.md"
"""The tables as text, which is what a repository shows of a folder."""

VERDICTS = "verdicts.svg"
"""All that was measured in one picture."""


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line; see `thalweg lesson --help`."""

    ids: list[str]
    out: Path | None = None
    budget: str | None = None
    workers: int | None = None
    storage: str | None = None
    quick: bool = False
    fresh: bool = False
    remedies: bool = True


def folder_of(out: Path | None) -> Path:
    """The folder that was given; else the project's own where it is there, else ``lesson``."""
    if out is not None:
        return out
    return IN_CHECKOUT if IN_CHECKOUT.is_dir() else Path("lesson")


def show(request: Request, say: Callable[[str], Any]) -> None:
    """Lists the claims and what is known of each.

    Raises:
        ValueError: there is no claim of a name, or a file of records is damaged.
    """
    claims = chosen(request.ids)
    for line in wording.listed(look(folder_of(request.out), claims, quick=request.quick)):
        say(line)


def run(request: Request, say: Callable[[str], Any]) -> bool:
    """Makes the runs that are missing of these claims, then says what they tell.

    Returns:
        Whether all was made; not where the budget ended before, or the data of one cannot be had.

    Raises:
        ValueError: an option cannot be met, or data cannot be had.
        KeyboardInterrupt: Ctrl-C; what was made is kept.
        OSError: a file cannot be written.
        thalweg.lab.TrialError: a workload raised an exception.
        thalweg.lab.StoreError: the storage failed.
    """
    claims = chosen(request.ids)
    if request.workers is not None and request.workers < 1:
        raise ValueError(f"--workers must be a whole number of at least 1, not {request.workers}")
    deadline = _deadline(request.budget)
    folder = folder_of(request.out)
    files.prepare_folder(folder)
    todo = _missing(request, claims, folder)
    finished = not todo or _make(request, todo, folder, deadline, say)
    show(request, say)
    return finished


def _missing(request: Request, claims: Sequence[Claim], folder: Path) -> list[Experiment]:
    """The experiments of these claims of which runs are missing, each once."""
    needed = [claim.needed.values() if request.remedies else claim.experiments for claim in claims]
    wanted = by_name([e.shortened() if request.quick else e for several in needed for e in several])
    if request.fresh:
        return list(wanted.values())
    return [e for e in wanted.values() if making.missing(e, keeping.read(folder, e)) != []]


def _make(
    request: Request, todo: Sequence[Experiment], folder: Path, deadline: float, say: Callable[[str], Any]
) -> bool:
    """Makes their runs; where the data of one cannot be had, the others' all the same."""
    from thalweg.lab.showing import console

    unavailable = []
    with Pool(request.workers) as pool:
        for number, experiment in enumerate(todo, 1):
            say(f"{experiment.name} ({number} of {len(todo)} experiments with runs to make)")
            try:
                with console.progress() as screen:
                    study = making.make(
                        experiment,
                        folder,
                        pool,
                        storage=request.storage,
                        deadline=deadline,
                        fresh=request.fresh,
                        say=screen.say,
                        watch=screen.watch,
                    )
            except MissingDataError as missing:
                unavailable.append(f"{experiment.name}: {missing}")
                say(unavailable[-1])
                continue
            except OutOfTimeError:
                say("the budget is spent; the same command goes on from here")
                return False
            if study.lost:
                raise TrialError(
                    f"{len(study.lost)} runs were lost to accidents; the same command tries them again"
                )
    if len(unavailable) == len(todo):
        raise MissingDataError(unavailable[0])
    return not unavailable


def report(request: Request, say: Callable[[str], Any]) -> Path:
    """Writes the page, and its tables as text, into the folder, from what its records tell.

    Raises:
        ValueError: a file of records is damaged.
        OSError: the page cannot be written.
    """
    from thalweg.lab.lesson import landscape
    from thalweg.lab.lesson.page import render
    from thalweg.lab.lesson.page.markdown import tables
    from thalweg.lab.lesson.page.verdicts import picture

    folder = folder_of(request.out)
    known = look(folder, quick=request.quick)
    pictures = landscape.figures(folder, quick=request.quick)
    files.prepare_folder(folder)
    path = folder / ("quick.html" if request.quick else PAGE)
    files.write_atomically(path, render(known, pictures, quick=request.quick).encode())
    say(f"wrote {path}")
    if not request.quick:
        for name, text in ((TABLES, tables(known)), (VERDICTS, picture(known))):
            files.write_atomically(folder / name, text.encode())
            say(f"wrote {folder / name}")
    return path


def measure_landscape(request: Request, workload: str | None, say: Callable[[str], Any]) -> list[Path]:
    """Measures the landscape of a workload, or of all, and keeps it in the folder.

    Raises:
        ValueError: there is no such workload, its data cannot be had, or a file of records is damaged.
        OSError: a file cannot be written.
    """
    from thalweg.lab.lesson import landscape

    folder = folder_of(request.out)
    files.prepare_folder(folder)
    paths = []
    for name in [workload] if workload is not None else list(landscape.WORKLOADS):
        measured = landscape.measure(folder, name, quick=request.quick, say=say)
        paths.append(landscape.write(folder, measured, quick=request.quick))
        say(f"wrote {paths[-1]}")
    return paths


def _deadline(budget: str | None) -> float:
    if budget is None:
        return float("inf")
    from thalweg.lab.comparing.budget import seconds

    return time.monotonic() + seconds(budget, "--budget")
