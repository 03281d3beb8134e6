"""`thalweg trial` and `thalweg export`."""

from pathlib import Path
from typing import Annotated

import typer

from thalweg.cli.arguments import Results, whole
from thalweg.cli.failing import failures, need_lab


def trial(
    results: Results,
    number: Annotated[
        int, typer.Option("--id", help="Which of its runs, as numbered in the report.", parser=whole)
    ],
) -> None:
    """Run one trial of a comparison again, alone, and see that it gives the same numbers."""
    need_lab()
    from thalweg.lab.comparing import command

    with failures():
        if not command.repeat(results, number):
            raise SystemExit(1)


def export(
    results: Results,
    to: Annotated[
        str, typer.Option(help="csv, tensorboard, mlflow or wandb, each by its own client.", metavar="WHAT")
    ] = "csv",
    out: Annotated[
        Path | None, typer.Option(help="Folder for what is written; by default that of the results.")
    ] = None,
) -> None:
    """Give the records of a comparison to another program: tables, TensorBoard, MLflow, W&B."""
    need_lab()
    from thalweg.lab.comparing import command

    with failures():
        for path in command.export(results, to, out):
            typer.echo(f"wrote {path}")
