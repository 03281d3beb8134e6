"""`thalweg sensitivity`."""

from pathlib import Path
from typing import Annotated

import typer

from thalweg.cli.arguments import Data, Limit, Optimizer, Seed, SmallestDifference, Task, Workers, whole
from thalweg.cli.failing import finish, need_lab


def sensitivity(
    task: Task,
    of: Annotated[
        list[str],
        typer.Option(
            help="A hyperparameter of the optimizer, as beta2 or eps; once or twice.", metavar="NAME"
        ),
    ],
    optimizer: Optimizer = "adamw",
    values: Annotated[
        list[str] | None,
        typer.Option(
            help="Values in place of the range that compare searches: 0.9,0.99 or, of two, eps=1e-8,1e-4.",
            metavar="V,V",
        ),
    ] = None,
    points: Annotated[
        int | None,
        typer.Option(help="Values of each, where none are given; 4 by default.", parser=whole, metavar="N"),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(help="Learning rates tried at each point; 8 by default.", parser=whole, metavar="N"),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            help="Fresh seeds on which the best of them is measured; 6 by default.",
            parser=whole,
            metavar="N",
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="Time to spend, such as 10m; chooses points, trials and seeds.", metavar="TIME"),
    ] = None,
    margin: SmallestDifference = None,
    seed: Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the page and the results; by default sensitivity-TASK."),
    ] = None,
    workers: Workers = None,
    storage: Annotated[
        str | None,
        typer.Option(
            help="File or postgresql:// address that keeps the runs, as for compare.", metavar="PLACE"
        ),
    ] = None,
    data: Data = None,
    limit: Limit = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget what an earlier run of the same question measured.")
    ] = False,
) -> None:
    """See how much one or two hyperparameters matter, with the learning rate tuned anew at each value.

    Every point gets as many trials of the rate, the best of them runs on fresh seeds that all share, and is
    measured on validation. Stopped at any moment, the same command goes on from what there is.
    """
    need_lab()
    from thalweg.lab.sweeping.sensitivity import command

    request = command.Request(
        task=task,
        of=of,
        optimizer=optimizer,
        values=values or [],
        points=points,
        trials=trials,
        seeds=seeds,
        budget=budget,
        margin=margin,
        seed=seed,
        out=out,
        workers=workers,
        storage=storage,
        data=data,
        limit=limit,
        fresh=fresh,
    )
    finish(command.run, request, "; the same command goes on from here")
