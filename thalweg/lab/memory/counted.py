"""What was counted, and how it is said in words and numbers; needs nothing but torch."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from thalweg.lab.judging.quantities import byte_unit, size
from thalweg.lab.memory.footprint import Row
from thalweg.lab.memory.parts import Parts
from thalweg.storage.codecs.plain import dtype_name

ITS_OWN = "its own"
"""The storage of an optimizer that cannot be asked for one."""


@dataclass(frozen=True, repr=False)
class Counted:
    """The bytes that training takes, as text.

    Attributes:
        rows: the bytes of each optimizer with each storage.
        parts: the model as far as its bytes are concerned.
        dtype: what floating-point parameters were counted as; None for what they are.
        weight_bits: the bits in which the optimizers keep 16-bit weights, if that was asked for.
        name: of the model.
        in_backward: whether steps in backward were asked for.
    """

    rows: Sequence[Row]
    parts: Parts
    dtype: str | None = None
    weight_bits: int | None = None
    name: str = ""
    in_backward: bool = False

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
        most = (
            " Of gradients of thalweg's optimizers, the most that steps in backward hold."
            if self.in_backward
            else ""
        )
        return (
            f"Sizes in {self.unit}, counted on real tensors after one step. "
            f"Activations and temporary memory come on top.{most}{buffers}"
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
            "in_backward": self.in_backward,
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


def _titled(row: Row) -> str:
    return f"{row.optimizer} with {row.storage} state" if row.storage else row.optimizer


def _dtypes(parts: Parts) -> str:
    """The dtypes of the parameters, the one with the most bytes first: ``bfloat16 and float32``."""
    held: dict[str, int] = {}
    for kind, count in parts.kinds.items():
        name = dtype_name(kind.dtype)
        held[name] = held.get(name, 0) + count * kind.bytes
    return " and ".join(sorted(held, key=lambda name: -held[name]))
