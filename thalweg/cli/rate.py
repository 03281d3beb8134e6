"""`thalweg rate`."""

from pathlib import Path
from typing import Annotated

import typer

from thalweg.cli.arguments import Data, Optimizer, Seed, Task, number, whole
from thalweg.cli.failing import finish, need_lab


def rate(
    task: Task,
    optimizer: Optimizer = "adamw",
    seeds: Annotated[
        int, typer.Option(help="Climbs, each with weights and batches of its own.", parser=whole, metavar="N")
    ] = 6,
    low: Annotated[
        float | None,
        typer.Option(
            "--from",
            help="The first rate; by default a tenth of the lowest that compare would try.",
            parser=number,
            metavar="LR",
        ),
    ] = None,
    high: Annotated[
        float | None,
        typer.Option(
            "--to", help="The last rate; by default a hundred times the highest.", parser=number, metavar="LR"
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Steps of one climb; by default those of a run of the task, 400 at most.",
            parser=whole,
            metavar="N",
        ),
    ] = None,
    seed: Seed = 0,
    data: Data = None,
    out: Annotated[
        Path | None, typer.Option(help="A file for the picture and the table, such as rate.html.")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the figures as JSON in place of the table.")
    ] = False,
) -> None:
    """Find a learning rate to start from: a run in which it climbs until training breaks.

    A range test (Smith 2015): one short run for each seed, the rate climbing geometrically. Suggested is
    half of the rate at which the smoothed loss is lowest: a start for a comparison, and no tuned rate.
    """
    need_lab()
    from thalweg.lab.sweeping.rate import command

    request = command.Request(task, optimizer, seeds, low, high, steps, seed, data, out, json)
    finish(command.run, request, "; this is what there was")
