"""The `thalweg lesson` commands behind their options."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thalweg.lab.errors import TrialError
from thalweg.lab.lesson import making, wording
from thalweg.lab.lesson.claims import chosen
from thalweg.lab.lesson.known import look
from thalweg.lab.lesson.making import OutOfTimeError
from thalweg.lab.running.pool import MOST_BY_DEFAULT, Pool, available_cores
from thalweg.lowering import files

IN_CHECKOUT = Path("docs/lesson")
"""Where the project keeps its own records, which is where its commands look first."""

PAGE = "index.html"


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
        Whether all was made; not where the budget ended before.

    Raises:
        ValueError: an option cannot be met, or data cannot be had.
        KeyboardInterrupt: Ctrl-C; what was made is kept.
        OSError: a file cannot be written.
        thalweg.lab.errors.TrialError: a workload raised an exception.
        thalweg.lab.errors.StoreError: the storage failed.
    """
    claims = chosen(request.ids)
    if request.workers is not None and request.workers < 1:
        raise ValueError(f"--workers must be a whole number of at least 1, not {request.workers}")
    deadline = _deadline(request.budget)
    folder = folder_of(request.out)
    files.prepare_folder(folder)
    wanted = {
        e.name: e
        for claim in claims
        for e in (claim.needed.values() if request.remedies else claim.experiments)
    }
    finished = True
    with Pool(request.workers or min(available_cores(), MOST_BY_DEFAULT)) as pool:
        from thalweg.lab.showing import console

        for number, experiment in enumerate(wanted.values(), 1):
            say(f"{experiment.name} ({number} of {len(wanted)} experiments)")
            try:
                with console.progress() as screen:
                    study = making.make(
                        experiment.shortened() if request.quick else experiment,
                        folder,
                        pool,
                        storage=request.storage,
                        deadline=deadline,
                        fresh=request.fresh,
                        say=screen.say,
                        watch=screen.watch,
                    )
            except OutOfTimeError:
                say("the budget is spent; the same command goes on from here")
                finished = False
                break
            if study.lost:
                raise TrialError(
                    f"{len(study.lost)} runs were lost to accidents; the same command tries them again"
                )
    show(request, say)
    return finished


def report(request: Request, say: Callable[[str], Any]) -> Path:
    """Writes the page into the folder, from what its records tell.

    Raises:
        ValueError: a file of records is damaged.
        OSError: the page cannot be written.
    """
    from thalweg.lab.lesson import landscape
    from thalweg.lab.lesson.page import render

    folder = folder_of(request.out)
    known = look(folder, quick=request.quick)
    pictures = landscape.figures(folder, quick=request.quick)
    files.prepare_folder(folder)
    path = folder / ("quick.html" if request.quick else PAGE)
    files.write_atomically(path, render(known, pictures, quick=request.quick).encode())
    say(f"wrote {path}")
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
