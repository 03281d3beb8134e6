"""`thalweg lesson`, with what it can do."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from thalweg.cli.arguments import whole
from thalweg.cli.failing import failures, need_lab, terminable

IDS = typer.Argument(help="Names of claims, such as S+3 A-1; by default all.", metavar="CLAIMS")
OUT = typer.Option(
    help="Folder of the records; by default docs/lesson where it is there, else lesson.", metavar="FOLDER"
)
QUICK = typer.Option("--quick", help="Of the short runs of `run --quick`, which allow no verdict.")


def show(
    context: typer.Context,
    out: Annotated[Path | None, OUT] = None,
) -> None:
    """What a lesson says of SGD, Adam and RMSprop, each claim put to a test: list what is known.

    `run` makes the runs that are missing, `landscape` measures planes of the loss, `report` writes the page.
    """
    if context.invoked_subcommand is None:
        need_lab()
        from thalweg.lab.lesson import command

        with failures():
            command.show(command.Request([], out), typer.echo)


def run(
    ids: Annotated[list[str] | None, IDS] = None,
    budget: Annotated[
        str | None, typer.Option(help="Time it may take, as in 2h or 30m.", metavar="TIME")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes; by default one a core.", parser=whole, metavar="N")
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            help="File or postgresql:// address for the runs under way; several machines may share it.",
            metavar="PLACE",
        ),
    ] = None,
    out: Annotated[Path | None, OUT] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Two seeds and a few steps: to see that it works, for no verdict.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what was run before.")] = False,
    remedies: Annotated[bool, typer.Option(help="Run the remedies too.")] = True,
) -> None:
    """Make the runs that are missing; stopped at any moment, the same command goes on from there."""
    need_lab()
    from thalweg.lab.lesson import command

    request = command.Request(ids or [], out, budget, workers, storage, quick, fresh, remedies)
    with failures(), terminable():
        command.run(request, typer.echo)


def report(
    out: Annotated[Path | None, OUT] = None,
    quick: Annotated[bool, QUICK] = False,
) -> None:
    """Write what the records tell as one HTML file into their folder."""
    need_lab()
    from thalweg.lab.lesson import command

    with failures():
        command.report(command.Request([], out, quick=quick), typer.echo)


def landscape(
    workload: Annotated[
        str | None, typer.Option(help="digits or text; by default both.", metavar="NAME")
    ] = None,
    out: Annotated[Path | None, OUT] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few steps and points: to see that it works.")
    ] = False,
) -> None:
    """Measure the loss over the planes that runs of SGD, Adam and RMSprop span, for the report."""
    need_lab()
    from thalweg.lab.lesson import command

    with failures(), terminable():
        command.measure_landscape(command.Request([], out, quick=quick), workload, typer.echo)


COMMANDS: tuple[Callable[..., None], ...] = (run, report, landscape)
"""What `thalweg lesson` can do beside."""
