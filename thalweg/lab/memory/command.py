"""The `thalweg memory` command behind its options."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from thalweg.lab.judging.quantities import NBSP, size
from thalweg.lab.memory.api import measure
from thalweg.lab.memory.counted import ITS_OWN, Counted
from thalweg.lab.memory.optimizers import dtype_of, settings
from thalweg.lab.showing import pages
from thalweg.lab.showing.console import NARROWEST, show_written
from thalweg.lab.workload import models

CALLED = {
    "optimizers": "--optimizers",
    "storages": "--state",
    "weight_bits": "--weight-bits",
    "dtype": "--dtype",
}
"""The options by the names of the arguments in Python."""

STYLES = {
    "weights": ("█", "#", "blue"),
    "corrections": ("▓", "+", "bright_blue"),
    "gradients": ("▒", "=", "yellow"),
    "state": ("░", "-", "green"),
}
"""How each share is drawn: its sign, the one where there are only letters, its colour."""


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line; see `thalweg memory --help`."""

    model: str
    optimizers: str
    state: str
    dtype: str | None
    weight_bits: int | None
    in_backward: bool
    out: Path | None


def run(request: Request) -> None:
    """Counts, shows table and bars, and writes the page if asked.

    Raises:
        ValueError: an argument cannot be met; the message is for the user.
        OSError: the page cannot be written.
    """
    optimizers, storages = (_listed(text) for text in (request.optimizers, request.state))
    chosen = settings(optimizers, storages, request.weight_bits, CALLED)
    dtype = dtype_of(request.dtype, CALLED)
    if request.out is not None:
        pages.prepare(request.out)
    model = models.find(request.model)
    memory = measure(model, chosen, request.weight_bits, dtype, request.model, request.in_backward)
    try:
        if request.out is not None:
            memory.save(request.out)
    finally:
        show(memory)
    if request.out is not None:
        show_written([request.out])


def _listed(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def show(memory: Counted) -> None:
    """Prints the table, and the bars as wide as the terminal."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, NARROWEST)
    head, *lines = memory.table().splitlines()
    console.print(Text(head, style="dim"), soft_wrap=True)
    for line in lines:
        console.print(Text(line), soft_wrap=True)
    console.print()
    for bar in bars(memory, console.width, plain=console.options.ascii_only):
        console.print(bar, soft_wrap=True)
    console.print()
    console.print(Text(memory.model))
    console.print(Text(_plain(memory.conditions), style="dim"))


def _plain(text: str) -> str:
    """Text that a terminal of letters only can show too."""
    return text.replace(NBSP, " ")


def bars(memory: Counted, width: int, *, plain: bool = False) -> list[Text]:
    """A line for each row, its bytes in proportion, and last what the signs mean."""
    labels = [f"{row.optimizer} {row.storage or ITS_OWN}" for row in memory.rows]
    label = max(map(len, labels))
    longest = max(row.total for row in memory.rows) or 1
    room = max(10, width - label - 12)
    lines = []
    for row, text in zip(memory.rows, labels, strict=True):
        line, end, drawn = Text(f"{text:<{label}}  "), 0, 0
        for share in memory.shares():
            # Ends are rounded, not lengths: bars of equal totals are equally long.
            end += share.of(row)
            to = round(room * end / longest)
            sign, letter, colour = STYLES[share.name]
            line.append((letter if plain else sign) * (to - drawn), colour)
            drawn = to
        lines.append(line.append(f" {_plain(size(row.total))}"))
    key = Text(" " * (label + 2))
    for share in memory.shares():
        sign, letter, colour = STYLES[share.name]
        key.append(letter if plain else sign, colour).append(f" {share.name}  ")
    return [*lines, key]
