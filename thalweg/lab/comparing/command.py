"""The `thalweg compare` and `thalweg trial` commands behind their options."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from thalweg.lab.running.pool import Pool
from thalweg.lowering import files


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line; see `thalweg compare --help`."""

    task: str
    optimizers: str | None
    trials: int | None
    seeds: int | None
    budget: str | None
    margin: str | None
    seed: int
    out: Path | None
    workers: int | None
    storage: str | None
    data: Path | None
    fresh: bool
    limit: float | None
    recipes: str | None = None
    checkpoints: Path | None = None
    why: bool = True
    early_stop: bool = True


def run(request: Request) -> bool:
    """Runs the comparison, writes the files and shows the answer.

    A disk that has filled up meanwhile does not take the answer away, nor does a reader of the answer
    who stops early (``| head``) take the files away.

    Returns:
        Whether it came to its end; not after Ctrl-C, which leaves a report on what there is.

    Raises:
        ValueError: an option cannot be met; the message is for the user.
        OSError: a file cannot be written.
        thalweg.lab.TrialError: the task raised an exception.
        thalweg.lab.WorkerDiedError: a training process could not start.
        thalweg.lab.StoreError: the storage failed.
    """
    folder = folder_of(request.out, f"compare-{Path(request.task.partition(':')[0]).stem}")
    if request.workers is not None and request.workers < 1:
        raise ValueError(f"--workers must be a whole number of at least 1, not {request.workers}")
    pool = Pool(request.workers)
    pool.logs = (folder / "logs").absolute()
    with pool:
        # Imported here, while the processes of the pool start.
        from thalweg.lab.comparing import choosing, comparison, spending
        from thalweg.lab.comparing.budget import seconds
        from thalweg.lab.showing import console
        from thalweg.lab.workload.errors import TrialError

        options = spending.Options(
            trials=request.trials,
            seeds=request.seeds,
            budget=None if request.budget is None else seconds(request.budget, "--budget"),
            margin=spending.parse_margin("--margin", request.margin),
            seed=request.seed,
            storage=request.storage or str(folder / "study.db"),
            fresh=request.fresh,
            limit=request.limit,
            early_stop=request.early_stop,
            checkpoints=request.checkpoints or folder / "checkpoints",
            why=request.why,
            command=command_line(),
        )
        spending.check(options, prefix="--")
        task = choosing.find(request.task, request.data)
        recipes = request.recipes.split(",") if request.recipes else []
        optimizers = request.optimizers.split(",") if request.optimizers is not None else []
        if request.optimizers is None and not recipes:
            optimizers = list(choosing.OPTIMIZERS)
        spaces = choosing.choose(optimizers, task.workload, "--optimizers", recipes)
        with console.progress() as screen:
            try:
                result = comparison.compare(task, spaces, options, pool, say=screen.say, watch=screen.watch)
                finished = True
            except comparison.Interrupted as interrupted:
                result, finished = interrupted.result, False
    try:
        result.save(folder)
    finally:
        console.show(result.study, result.verdict, result.provenance.warnings)
    console.show_written(folder / name for name in ("report.html", "results.json"))
    if finished and result.study.lost:
        raise TrialError(
            f"{len(result.study.lost)} runs were lost to accidents; the same command tries them again"
        )
    if finished and all(row.test is None for row in result.verdict.ranking):
        raise TrialError("every optimizer failed; report.html says how")
    return finished


def repeat(results_at: Path, number: int) -> bool:
    """Runs one trial of a comparison again and prints it beside its record.

    Returns:
        Whether it gave the same numbers, bit for bit.

    Raises:
        ValueError: the results, the record or its task cannot be found.
        thalweg.lab.TrialError: the task raised an exception.
    """
    from thalweg.lab.comparing import choosing
    from thalweg.lab.showing import results
    from thalweg.lab.showing.console import print_line

    document = results.load(results_at)
    record = results.record(document, number)
    if not document["task"]:
        raise ValueError("these results are of an object passed from Python, which cannot be found again")
    task = choosing.find(document["task"], document["data"] and Path(document["data"]))
    # In a process like those of a comparison.
    with Pool(1) as pool:
        pool.early_stop = bool(document["settings"].get("early_stop"))
        pool.load(task.workload, task.file)
        pool.start(record.trial)
        while not (records := pool.wait(60.0)):
            pass
    [again] = records
    settings = ", ".join(f"{key}={value!r}" for key, value in record.trial.settings.items())
    print_line(
        f"{record.trial.optimizer}({settings}), seed {record.trial.seed}, stage {record.trial.stage}",
        error=False,
    )
    for name in ("validation", "test", "failure"):
        print_line(f"  {name:<10}  {getattr(again, name)}", error=False)
    same = again == record
    print_line(
        "the same as recorded, bit for bit" if same else f"not as recorded: {_differing(again, record)}",
        error=False,
    )
    return same


def export(results_at: Path, target: str, out: Path | None) -> list[str]:
    """Gives a comparison's records to another program; returns where they are then.

    Raises:
        ValueError: the results cannot be found, or the target is none, or its package is not installed.
        OSError: a file cannot be written, or the other program's client refuses.
    """
    from thalweg.lab.showing import export as exports
    from thalweg.lab.showing import results
    from thalweg.lab.workload.tasks.errors import brief_error

    if target not in exports.TARGETS:
        raise ValueError(f"--to must be one of {', '.join(exports.TARGETS)}, not {target!r}")
    if target == "mlflow" and out is not None:
        raise ValueError("--out cannot be given with --to mlflow, which logs where MLFLOW_TRACKING_URI says")
    document = results.load(results_at)
    folder = out or (results_at if results_at.is_dir() else results_at.parent)
    try:
        return [str(place) for place in exports.TARGETS[target](document, folder)]
    except (ValueError, OSError):
        raise
    except Exception as error:
        # Clients have errors of their own: no key, no server.
        raise OSError(f"--to {target}: {brief_error(error)}") from error


def _differing(again: object, record: object) -> str:
    names = ("curve", "validation", "test", "failure", "state_bytes")
    return "; ".join(
        f"{name} was {getattr(record, name)}"
        for name in names
        if getattr(again, name) != getattr(record, name)
    )


def folder_of(out: Path | None, usual: str) -> Path:
    """The folder that is written to, made if need be.

    Raises:
        ValueError: it cannot be written in; the message is for the user.
    """
    folder = Path(usual) if out is None else out
    try:
        files.prepare_folder(folder)
    except OSError as error:
        raise ValueError(f"--out: cannot write in {str(folder)!r}: {error.strerror or error}") from None
    return folder


def command_line() -> str:
    """What was typed, without a password that was in it."""
    from thalweg.lab.running.connecting import hidden

    return shlex.join(["thalweg", *map(hidden, sys.argv[1:])])
