"""The `thalweg rate` command behind its options."""

import json
from dataclasses import dataclass
from pathlib import Path

from thalweg.lab.comparing import choosing
from thalweg.lab.comparing.command import command_line
from thalweg.lab.showing import console, pages
from thalweg.lab.sweeping.rate import api
from thalweg.lab.sweeping.rate.found import Found
from thalweg.lab.workload.errors import TrialError

CALLED = {
    "optimizer": "--optimizer",
    "low": "--from",
    "high": "--to",
    "steps": "--steps",
    "seeds": "--seeds",
    "seed": "--seed",
}
"""The options by the names of the arguments in Python."""


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line; see `thalweg rate --help`."""

    task: str
    optimizer: str
    seeds: int
    low: float | None
    high: float | None
    steps: int | None
    seed: int
    data: Path | None
    out: Path | None
    json: bool


def run(request: Request) -> bool:
    """Tests the rates, shows what was found, and writes the page if asked.

    Returns:
        Whether all seeds came to their end; not after Ctrl-C, which leaves what there is.

    Raises:
        ValueError: an argument cannot be met; the message is for the user.
        OSError: the page cannot be written.
        thalweg.lab.TrialError: the task raised an exception, or no seed suggests a rate.
    """
    if request.out is not None:
        pages.prepare(request.out)
    task = choosing.find(request.task, request.data)
    with console.progress() as screen:
        found = api.run(
            task,
            request.optimizer,
            request.seeds,
            request.low,
            request.high,
            request.steps,
            request.seed,
            say=screen.say,
            called=CALLED,
            command=command_line(),
        )
    try:
        if request.out is not None:
            found.save(request.out)
    finally:
        if request.json:
            print(json.dumps(found.to_dict(), indent=1, allow_nan=False))
        else:
            show(found)
    if request.out is not None and not request.json:
        console.show_written([request.out])
    if found.suggested is None and len(found.sweeps) == request.seeds:
        raise TrialError("no learning rate can be read off")
    return len(found.sweeps) == request.seeds


def show(found: Found) -> None:
    """Prints the table and the answer."""
    console.show_answer(found.table(), found.headline, found.sentence, found.conditions)
