"""The `thalweg compare` command behind its options: checks, study, console, files."""

import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from thalweg import files
from thalweg.lab import spaces, workloads
from thalweg.lab.pool import MOST_BY_DEFAULT, Pool, available_cores
from thalweg.lab.spaces import Space


@dataclass(frozen=True)
class Request:
    """A comparison that was asked for and found possible; `margin` None is the workload's."""

    workload: str
    spaces: list[Space]
    trials: int
    seeds: int
    seed: int
    margin: float | None
    workers: int
    folder: Path


def check(
    *,
    workload: str,
    optimizers: str,
    trials: int,
    seeds: int,
    out: Path | None,
    workers: int | None,
    margin: float | None,
    seed: int,
) -> Request:
    """Turns options into a request, before anything heavy is imported or trained.

    Raises:
        ValueError: an option cannot be met; the message is one line for the user.
    """
    for option, count in (("--trials", trials), ("--seeds", seeds), ("--workers", workers)):
        if count is not None and count < 1:
            raise ValueError(f"{option} must be a whole number of at least 1, not {count}")
    if seed < 0:
        raise ValueError(f"--seed must be a whole number of at least 0, not {seed}")
    if margin is not None and not 0 <= margin < float("inf"):
        raise ValueError(f"--margin must be a finite number of at least 0, not {margin:g}")
    if workload not in workloads.WORKLOADS:
        known = ", ".join(workloads.WORKLOADS)
        raise ValueError(f"WORKLOAD: unknown workload {workload!r}; choose from: {known}")
    chosen = _spaces(optimizers)
    folder = Path(f"compare-{workload}") if out is None else out
    try:
        files.prepare_folder(folder)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(f"--out: cannot write in {str(folder)!r}: {reason}") from None
    runs = len(chosen) * max(trials, seeds)
    workers = workers or min(available_cores(), MOST_BY_DEFAULT)
    return Request(workload, chosen, trials, seeds, seed, margin, min(workers, runs), folder)


def run(request: Request) -> None:
    """Runs the comparison, writes the files and shows the answer.

    A disk that has filled up meanwhile does not take the answer away, nor does a reader of the answer
    who stops early (``| head``) take the files away.

    Raises:
        OSError: a file cannot be written.
        thalweg.lab.pool.WorkerDiedError: a training process was killed.
    """
    started, clock = datetime.now().astimezone(), time.monotonic()
    with Pool(request.workers) as pool:
        # Imported here, while the processes of the pool start.
        from thalweg.lab import console, report, results, study, verdict

        workload = workloads.find(request.workload)
        margin = workload.margin if request.margin is None else request.margin
        settings = study.Settings(request.trials, request.seeds, margin, request.seed)
        runs = len(request.spaces) * (request.trials + request.seeds)
        with console.progress(runs) as done:
            finished = study.compare(workload, request.spaces, settings, pool=pool, done=done)
    judged = verdict.judge(finished)
    seconds = time.monotonic() - clock
    provenance = results.Provenance(started, seconds, request.workers, results.environment())
    texts = {
        "report.html": report.render(finished, judged, provenance),
        "results.json": results.to_json(finished, judged, provenance),
    }
    try:
        for name, text in texts.items():
            files.write_atomically(request.folder / name, text.encode())
    finally:
        console.show(finished, judged)
    console.show_written(request.folder / name for name in texts)


def _spaces(names: str) -> list[Space]:
    """The spaces named in a comma-separated list, each once, in that order."""
    try:
        found = [spaces.find(name.strip().lower()) for name in names.split(",")]
    except ValueError as error:
        raise ValueError(f"--optimizers: {error}") from None
    unique = list({space.name: space for space in found}.values())
    if len(unique) < 2:
        raise ValueError(f"--optimizers: a comparison takes at least two, not {names!r}")
    return unique
