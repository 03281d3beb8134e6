"""`thalweg compare`."""

from pathlib import Path
from typing import Annotated

import typer

from thalweg.cli.arguments import Data, Limit, Seed, SmallestDifference, Workers, whole
from thalweg.cli.failing import finish, need_lab


def compare(
    task: Annotated[
        str,
        typer.Argument(
            help="What to train: digits, fashion-mnist, text, speech or another of docs/workloads.md, or "
            "my_task.py[:name].",
            metavar="TASK",
        ),
    ],
    optimizers: Annotated[
        str | None,
        typer.Option(
            help="Optimizers to compare, separated by commas; dotted paths too. By default sgd,rmsprop,adamw."
        ),
    ] = None,
    recipes: Annotated[
        str | None,
        typer.Option(
            help="Recipes of the task to compare, separated by commas, or 'all': optimizers with schedule, "
            "batch size and what else they change.",
            metavar="NAMES",
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            help="Configurations to try for each optimizer; 16 by default.", parser=whole, metavar="N"
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            help="Fresh seeds to measure each optimizer on at most; 24 by default.", parser=whole, metavar="N"
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="Time to spend, such as 10m; chooses trials and seeds.", metavar="TIME"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the report and the results; by default compare-TASK."),
    ] = None,
    workers: Workers = None,
    storage: Annotated[
        str | None,
        typer.Option(
            help="File or postgresql:// address that keeps the study; several machines may share it. "
            "By default study.db in the folder.",
            metavar="PLACE",
        ),
    ] = None,
    data: Data = None,
    margin: SmallestDifference = None,
    seed: Seed = 0,
    limit: Limit = None,
    checkpoints: Annotated[
        Path | None,
        typer.Option(
            help="Folder for runs under way, so that one that is cut off goes on; several machines may share "
            "it. By default checkpoints in the folder."
        ),
    ] = None,
    no_early_stop: Annotated[
        bool,
        typer.Option("--no-early-stop", help="Finish trials that training only makes worse, too."),
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget what an earlier run of the same comparison measured.")
    ] = False,
    no_why: Annotated[
        bool,
        typer.Option(
            "--no-why",
            help="Do not measure why the final runs end where they end: sharpness, noise, size of steps.",
        ),
    ] = False,
) -> None:
    """Tune and compare optimizers on a task; write a report and the raw results.

    Every optimizer gets the same number of trials. The best two configurations of each, chosen on
    validation, are run on three more seeds, and the better one is measured on the test split, on fresh seeds
    that are the same for all. Stopped at any moment, the same command goes on from what there is: after
    Ctrl-C (status 130) or SIGTERM (143) it has written a report on that.
    """
    need_lab()
    from thalweg.lab.comparing import command

    request = command.Request(
        task=task,
        optimizers=optimizers,
        trials=trials,
        seeds=seeds,
        budget=budget,
        margin=margin,
        seed=seed,
        out=out,
        workers=workers,
        storage=storage,
        data=data,
        fresh=fresh,
        limit=limit,
        recipes=recipes,
        checkpoints=checkpoints,
        why=not no_why,
        early_stop=not no_early_stop,
    )
    finish(command.run, request, "; the same command goes on from here")
