"""What was assigned, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from thalweg.optimizer.groups.merging import Group
from thalweg.optimizer.groups.params import Param

SHOWN, WIDTH = 3, 60
"""How many names a line of the table shows, and about how many characters of them."""


def table(groups: list[Group], left_out: int) -> str:
    """Return a table of groups, with a line for each reason to be in one, and what they are in all."""
    lines = [("group", "rule", "options", "tensors", "parameters", "first names")]
    for i, group in enumerate(groups):
        for reason in dict.fromkeys(one.reason for one in group.members):
            tensors = [one.param for one in group.members if one.reason == reason]
            count = sum(param.tensor.numel() for param in tensors)
            lines.append(
                (str(i), reason, _options(group.options), str(len(tensors)), f"{count:,}", _listed(tensors))
            )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = [
        "  ".join(_aligned(i, cell, width) for i, (cell, width) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    ]
    return "\n".join([*(row.rstrip() for row in rows), _total(groups, left_out)])


def _aligned(column: int, cell: str, width: int) -> str:
    return cell.rjust(width) if column in (3, 4) else cell.ljust(width)


def _options(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_value(value)}" for name, value in options.items()) or "the optimizer's"


def _value(value: Any) -> str:
    if isinstance(value, Tensor) and value.numel() == 1:
        return f"tensor({value.item():.6g})"
    return f"{value:.6g}" if isinstance(value, float) else repr(value)


def _listed(params: list[Param]) -> str:
    shown = [params[0].name]
    for param in params[1:SHOWN]:
        if len(", ".join([*shown, param.name])) <= WIDTH:
            shown.append(param.name)
    return ", ".join([*shown, "..."] if len(shown) < len(params) else shown)


def _total(groups: list[Group], left_out: int) -> str:
    tensors = [one.param.tensor for group in groups for one in group.members]
    text = f"{len(groups)} groups, {len(tensors)} tensors, {sum(t.numel() for t in tensors):,} parameters"
    return f"{text}; {left_out} frozen tensors left out" if left_out else text
