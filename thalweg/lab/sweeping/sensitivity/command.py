"""The `thalweg sensitivity` command behind its options."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from thalweg.lab.comparing import choosing, spending
from thalweg.lab.comparing.budget import seconds
from thalweg.lab.comparing.command import command_line, folder_of
from thalweg.lab.running.pool import Pool
from thalweg.lab.showing import console
from thalweg.lab.study import grid
from thalweg.lab.sweeping.asked import find_space
from thalweg.lab.sweeping.sensitivity import api, question
from thalweg.lab.sweeping.sensitivity.answer import Answer
from thalweg.lab.workload.errors import TrialError

CALLED = {"optimizer": "--optimizer", "of": "--of", "values": "--values", "points": "--points"}
"""The options by the names of the arguments in Python."""


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line; see `thalweg sensitivity --help`."""

    task: str
    of: Sequence[str]
    optimizer: str
    values: Sequence[str]
    points: int | None
    trials: int | None
    seeds: int | None
    budget: str | None
    margin: str | None
    seed: int
    out: Path | None
    workers: int | None
    storage: str | None
    data: Path | None
    limit: float | None
    fresh: bool


def run(request: Request) -> bool:
    """Measures, writes the files and shows the answer.

    Returns:
        Whether it came to its end; not after Ctrl-C, which leaves an answer of what there is.

    Raises:
        ValueError: an option cannot be met; the message is for the user.
        OSError: a file cannot be written.
        thalweg.lab.TrialError: the task raised an exception, or accidents took runs.
        thalweg.lab.WorkerDiedError: a training process could not start.
        thalweg.lab.StoreError: the storage failed.
    """
    workers = spending.at_least_one("--workers", request.workers)
    margin = spending.parse_margin("--margin", request.margin)
    options = spending.Options(
        trials=request.trials,
        seeds=request.seeds,
        budget=None if request.budget is None else seconds(request.budget, "--budget"),
        margin=margin,
        seed=request.seed,
        fresh=request.fresh,
        limit=request.limit,
        command=command_line(),
    )
    api.check(options, request.points, prefix="--")
    task = choosing.find(request.task, request.data)
    space = find_space(request.optimizer, task.workload, CALLED)
    values = question.parse(request.values, request.of)
    asked = api.ask_of(space, request.of, values, request.points, CALLED)
    folder = folder_of(request.out, f"sensitivity-{Path(request.task.partition(':')[0]).stem}")
    options = replace(options, storage=request.storage or str(folder / "study.db"))
    pool = Pool(workers)
    pool.logs = (folder / "logs").absolute()
    with pool, console.progress(left=grid.left) as screen:
        answer = api.run(task, space, asked, options, pool, say=screen.say, watch=screen.watch)
    try:
        answer.save(folder)
    finally:
        show(answer)
    console.show_written(folder / name for name in ("report.html", "results.json"))
    if answer.finished and answer.study.lost:
        raise TrialError(
            f"{len(answer.study.lost)} runs were lost to accidents; the same command tries them again"
        )
    if answer.finished and all(point.metric is None for point in answer.points):
        raise TrialError("every run failed; report.html says how")
    return answer.finished


def show(answer: Answer) -> None:
    """Prints the table and the answer."""
    console.show_answer(
        answer.table(), answer.headline, answer.sentence, answer.conditions, answer.provenance.warnings
    )
