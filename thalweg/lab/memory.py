"""`thalweg.memory`: the bytes that training takes, by optimizer and storage, in Python and notebooks.

Counting and the table need nothing but torch; the picture needs the lab's packages.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from html import escape
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from thalweg.lab import footprint
from thalweg.lab.footprint import Parts, Row, Setting
from thalweg.lab.optimizers import Optimizer, dtype_of, settings
from thalweg.lab.quantities import byte_unit, size
from thalweg.lowering import files
from thalweg.storage.codecs import STATE
from thalweg.storage.codecs.plain import dtype_name

if TYPE_CHECKING:
    import plotly.graph_objects as go

OPTIMIZERS = ("sgd", "rmsprop", "adamw")

ITS_OWN = "its own"
"""The storage of an optimizer that cannot be asked for one."""

FRAME_HEIGHT = 620
"""Pixels of the window in which a notebook shows the picture."""


@dataclass(frozen=True, repr=False)
class Memory:
    """The bytes that training takes. Printed it is a table; a notebook shows the picture.

    Attributes:
        rows: the bytes of each optimizer with each storage.
        parts: the model as far as its bytes are concerned.
        dtype: what floating-point parameters were counted as; None for what they are.
        weight_bits: the bits in which the optimizers keep 16-bit weights, if that was asked for.
        name: of the model.
    """

    rows: Sequence[Row]
    parts: Parts
    dtype: str | None = None
    weight_bits: int | None = None
    name: str = ""

    def __repr__(self) -> str:
        return f"{self.table()}\n\n{self.model}\n{self.conditions}"

    @property
    def headline(self) -> str:
        """The finding: the most and the least that training takes."""
        most, least = (pick(self.rows, key=lambda row: row.total) for pick in (max, min))
        first = f"{_titled(most)} takes {size(most.total)}"
        return first if most.total == least.total else f"{first}, {_titled(least)} {size(least.total)}"

    @property
    def model(self) -> str:
        """A line on the model: how many parameters, of which dtype."""
        frozen = self.parts.parameters - self.parts.trained
        facts = [
            f"{self.parts.parameters:,} parameters",
            f"{frozen:,} of them frozen" if frozen else "",
            _dtypes(self.parts),
            f"weight_bits={self.weight_bits}" if self.weight_bits else "",
        ]
        return ", ".join(filter(None, [self.name, *facts]))

    @property
    def conditions(self) -> str:
        """A sentence on what is counted and what is not."""
        buffers = f" Weights include {size(self.parts.buffers)} of buffers." if self.parts.buffers else ""
        return (
            f"Sizes in {self.unit}, counted on real tensors after one step. "
            f"Activations and temporary memory come on top.{buffers}"
        )

    def table(self) -> str:
        """The figures as plain text, in `unit`."""
        head, *lines = self.cells()
        widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if place < 2 else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in (head, *lines)
        )

    def cells(self) -> list[list[str]]:
        """The table: what its columns are called, then a row for each of `rows`."""
        columns = [share.name for share in self.shares()]
        head = ["optimizer", "stored as", *columns, "total", "bytes/param."]
        return [head, *map(self._line, self.rows)]

    def _line(self, row: Row) -> list[str]:
        largest = max(row.total for row in self.rows)
        factor = byte_unit(largest)[1]
        # Four digits of the largest, and as many decimals of all.
        decimals = max(0, 4 - len(str(int(largest / factor)))) if factor > 1 else 0
        amounts = [*(share.of(row) for share in self.shares()), row.total]
        return [
            row.optimizer,
            row.storage or ITS_OWN,
            *(f"{held / factor:,.{decimals}f}" for held in amounts),
            f"{row.bytes_per_parameter:.2f}",
        ]

    @property
    def unit(self) -> str:
        """What the table's sizes are in."""
        return byte_unit(max(row.total for row in self.rows))[0]

    def shares(self) -> list["Share"]:
        """What the bytes consist of; corrections only where there are any."""
        return [share for share in SHARES if share.always or any(share.of(row) for row in self.rows)]

    def to_dict(self) -> dict[str, Any]:
        """All figures, in bytes, as JSON takes them."""
        return {
            "name": self.name,
            "parameters": self.parts.parameters,
            "trained": self.parts.trained,
            "dtype": self.dtype,
            "weight_bits": self.weight_bits,
            "rows": [
                {
                    **asdict(row),
                    "state": row.state,
                    "total": row.total,
                    "bytes_per_parameter": row.bytes_per_parameter,
                }
                for row in self.rows
            ],
        }

    def figure(self) -> "go.Figure":
        """The stacked bars, as a figure of plotly's.

        Raises:
            ModuleNotFoundError: the lab's packages are not installed; the message says how to.
        """
        _with_lab("thalweg.lab.figures")
        from thalweg.lab.figures.shares import shares

        return shares(self).plots()["shares"]

    def html(self) -> str:
        """The picture and the table: one file that needs no network.

        Raises:
            ModuleNotFoundError: the lab's packages are not installed; the message says how to.
        """
        _with_lab("thalweg.lab.figures")
        from thalweg.lab.report import shares

        return shares.render(self)

    def save(self, path: str | Path) -> None:
        """Writes that file, whole or not at all.

        Raises:
            ModuleNotFoundError: the lab's packages are not installed; the message says how to.
            ValueError: its name does not end with ``.html``.
            OSError: it cannot be written.
        """
        path = Path(path)
        if path.suffix != ".html":
            raise ValueError(f"path must end with .html, not {str(path)!r}")
        page = self.html().encode()
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(path, page)

    def _repr_html_(self) -> str | None:
        try:
            page = escape(self.html())
        except ModuleNotFoundError:
            return None  # the notebook shows the table then
        # A frame of its own keeps the page's style and script apart from the notebook's.
        style = f"width: 100%; height: {FRAME_HEIGHT}px; border: 0"
        return f'<iframe title="memory" style="{style}" srcdoc="{page}"></iframe>'


@dataclass(frozen=True)
class Share:
    """A part of a bar: its name, the attributes of a row that it sums, and whether it is always shown."""

    name: str
    of_row: tuple[str, ...]
    always: bool = True

    def of(self, row: Row) -> int:
        """Its bytes in a row."""
        return sum(getattr(row, name) for name in self.of_row)


SHARES = (
    Share("weights", ("weights", "buffers")),
    Share("corrections", ("corrections",), always=False),
    Share("gradients", ("gradients",)),
    Share("state", ("state",)),
)
"""What a bar consists of, from its beginning on. Buffers are shown with the weights."""


def memory(
    model: nn.Module | Iterable[Tensor],
    optimizers: Sequence[Optimizer] | Optimizer = OPTIMIZERS,
    storages: Sequence[str] | str = STATE,
    *,
    weight_bits: int | None = None,
    dtype: str | torch.dtype | None = None,
) -> Memory:
    """Counts the bytes of weights, gradients and optimizer state, by optimizer and storage.

    The figures are those of real tensors, after one step on a parameter of every kind that the model has.
    The model itself, which may lie on the meta device, is only looked at.
    Sparse gradients are taken to have all rows.

    Args:
        model: a module, or parameters.
        optimizers: names as in ``thalweg compare``, where SGD has a momentum; dotted paths such as
            ``"torch.optim.AdamW"``; classes; or for other arguments ``functools.partial(tw.Adam,
            amsgrad=True)``. Those that are not thalweg's store their state in their own way.
        storages: what `state=` is to be, for each of thalweg's optimizers.
        weight_bits: of bfloat16 and float16 parameters, as in the optimizers.
        dtype: counts floating-point parameters and buffers as ``model.to(dtype)`` would have them.

    Returns:
        The result: `rows`, a table when printed, a picture in a notebook and by `save`.

    Raises:
        TypeError, ValueError: an argument cannot be met; the message names it.
    """
    chosen = settings(optimizers, storages, weight_bits)
    return measure(model, chosen, weight_bits, dtype_of(dtype))


def measure(
    model: nn.Module | Iterable[Tensor],
    chosen: Sequence[Setting],
    weight_bits: int | None = None,
    dtype: torch.dtype | None = None,
    name: str = "",
) -> Memory:
    """Counts, once all arguments have been checked.

    Raises:
        TypeError, ValueError: the model cannot be read, or an optimizer cannot step it.
    """
    parts = footprint.read(model, dtype)
    name = name or (type(model).__name__ if isinstance(model, nn.Module) else "")
    cast = None if dtype is None else dtype_name(dtype)
    return Memory(footprint.count(parts, chosen), parts, cast, weight_bits, name)


def _titled(row: Row) -> str:
    return f"{row.optimizer} with {row.storage} state" if row.storage else row.optimizer


def _dtypes(parts: Parts) -> str:
    """The dtypes of the parameters, the one with the most bytes first: ``bfloat16 and float32``."""
    held: dict[str, int] = {}
    for kind, count in parts.kinds.items():
        name = dtype_name(kind.dtype)
        held[name] = held.get(name, 0) + count * kind.bytes
    return " and ".join(sorted(held, key=lambda name: -held[name]))


def _with_lab(module: str) -> None:
    """Imports what draws pictures.

    Raises:
        ModuleNotFoundError: a package is missing; the message says how to install it.
    """
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the picture needs {error.name}: pip install 'thalweg[lab]'", name=error.name
        ) from None
