"""`thalweg new-task`."""

from pathlib import Path
from typing import Annotated

import typer

from thalweg.cli.failing import failures


def new_task(
    path: Annotated[Path, typer.Argument(help="The file to write, such as my_task.py.")],
) -> None:
    """Write a commented, working task to start from."""
    from thalweg.lab.workload import template

    with failures():
        template.write(path)
    typer.echo(f"wrote {path}; edit it, then: thalweg compare {path}")
