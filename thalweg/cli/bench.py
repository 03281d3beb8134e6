"""`thalweg bench`."""

from pathlib import Path
from typing import Annotated

import typer

from thalweg.cli.arguments import number
from thalweg.cli.failing import INTERRUPTED, fail


def bench(
    parts: Annotated[
        list[str] | None,
        typer.Argument(help="What to measure: steps, training, update, startup; by default all."),
    ] = None,
    seconds: Annotated[
        float,
        typer.Option(help="Time for each line of the tables.", parser=number, metavar="S"),
    ] = 6.0,
    out: Annotated[Path | None, typer.Option(help="A file for the figures as JSON.")] = None,
) -> None:
    """Measure our steps, training steps, the whole update and start-up beside torch's best, in turns."""
    from thalweg.bench import command

    try:
        command.run(command.check(parts or command.PARTS, seconds, out), typer.echo)
    except ValueError as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("interrupted", INTERRUPTED)
