"""`thalweg simulate`."""

from typing import Annotated

import typer

from thalweg.cli.arguments import Seed, whole
from thalweg.cli.failing import failures, need_lab


def simulate(
    families: Annotated[
        str | None,
        typer.Option(help="Kinds of results, separated by commas; by default all.", metavar="NAMES"),
    ] = None,
    optimizers: Annotated[
        str | None,
        typer.Option(
            help="Numbers of optimizers, separated by commas; by default each family's.", metavar="N,N"
        ),
    ] = None,
    studies: Annotated[
        int, typer.Option(help="Studies of each of four cases.", parser=whole, metavar="N")
    ] = 200,
    workers: Annotated[int, typer.Option(help="Processes.", parser=whole, metavar="N")] = 1,
    seed: Seed = 0,
) -> None:
    """See how often the protocol of `compare` says what is false, on made-up results with a known truth.

    The real protocol names the runs and the real verdict judges them; nothing is trained.
    """
    need_lab()
    from thalweg.lab.simulating import command

    with failures():
        command.run(command.Request(families, optimizers, studies, workers, seed), typer.echo)
