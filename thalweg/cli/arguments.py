"""What several commands are given, and how it is read."""

from pathlib import Path
from typing import Annotated

import typer


def whole(text: str) -> int:
    """Parses a whole number; what is not one is named in the error."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number") from None


def number(text: str) -> float:
    """Parses a number; what is not one is named in the error."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number") from None


Task = Annotated[str, typer.Argument(help="What to train, as for compare.", metavar="TASK")]
Optimizer = Annotated[str, typer.Option(help="An optimizer that compare takes; a dotted path too.")]
Workers = Annotated[
    int | None,
    typer.Option(help="Processes to train in; by default one for each core.", parser=whole, metavar="N"),
]
Data = Annotated[
    Path | None, typer.Option(help="Where the data of a built-in task lie, if not in the usual place.")
]
SmallestDifference = Annotated[
    str | None,
    typer.Option(
        help="Smallest difference worth having, in the metric's unit or as 2%; by default the task's.",
        metavar="X",
    ),
]
Seed = Annotated[int, typer.Option(help="Fixes all that is random.", parser=whole, metavar="N")]
Limit = Annotated[
    float | None,
    typer.Option(
        help="Seconds after which a run is ended as hung; by default ten times the slowest so far.",
        parser=number,
        metavar="S",
    ),
]
Results = Annotated[Path, typer.Argument(help="The results.json of a comparison, or its folder.")]
