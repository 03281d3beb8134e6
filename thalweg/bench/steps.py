"""Optimizer steps alone, and the memory limit of the large case."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import thalweg
from thalweg.bench.measure import Comparison, in_turns
from thalweg.bench.shapes import SETS, Shapes
from thalweg.rule import LR, Rule, Slot

GOALS = {
    "AdamW": (1.0, 1.1, 6.0, 12.0),
    "SGD momentum": (1.0, 1.0, 3.0, 4.0),
    "RMSprop centered + momentum": (5.0, 5.0, 12.0, 18.0),
    "AdamW, int8 state": (1.3, 1.1, 6.0, 12.0),
    "AdamW, block8 state": (1.3, 1.1, 6.0, 12.0),
    "AdamW, bfloat16 state": (1.15, 1.1, 6.0, 12.0),
    "SGD momentum, int8 state": (1.1, 1.0, 3.0, 4.0),
}
"""The ratios to reach, in the order of `SETS`."""


@dataclass(frozen=True)
class Contest:
    """An algorithm of ours and torch's best form of it.

    Args:
        name: as printed.
        ours: makes our optimizer.
        torch: makes torch's, fused where torch has that on the CPU.
        slots: tensors of state for each parameter.
        packed: whether ours are in fewer bytes than torch's, which are float32.
    """

    name: str
    ours: Callable[[Any], torch.optim.Optimizer]
    torch: Callable[[Any], torch.optim.Optimizer]
    slots: int
    packed: bool = False


CONTESTS = (
    Contest(
        "AdamW",
        lambda params: thalweg.AdamW(params, lr=1e-3),
        lambda params: torch.optim.AdamW(params, lr=1e-3, fused=True),
        slots=2,
    ),
    Contest(
        "SGD momentum",
        lambda params: thalweg.SGD(params, lr=1e-3, momentum=0.9),
        lambda params: torch.optim.SGD(params, lr=1e-3, momentum=0.9, fused=True),
        slots=1,
    ),
    Contest(
        "RMSprop centered + momentum",
        lambda params: thalweg.RMSprop(params, lr=1e-3, momentum=0.9, centered=True),
        lambda params: torch.optim.RMSprop(params, lr=1e-3, momentum=0.9, centered=True),
        slots=3,
    ),
    Contest(
        "AdamW, int8 state",
        lambda params: thalweg.AdamW(params, lr=1e-3, state="int8"),
        lambda params: torch.optim.AdamW(params, lr=1e-3, fused=True),
        slots=2,
        packed=True,
    ),
    Contest(
        "AdamW, block8 state",
        lambda params: thalweg.AdamW(params, lr=1e-3, state="block8"),
        lambda params: torch.optim.AdamW(params, lr=1e-3, fused=True),
        slots=2,
        packed=True,
    ),
    Contest(
        "AdamW, bfloat16 state",
        lambda params: thalweg.AdamW(params, lr=1e-3, state="bfloat16"),
        lambda params: torch.optim.AdamW(params, lr=1e-3, fused=True),
        slots=2,
        packed=True,
    ),
    Contest(
        "SGD momentum, int8 state",
        lambda params: thalweg.SGD(params, lr=1e-3, momentum=0.9, state="int8"),
        lambda params: torch.optim.SGD(params, lr=1e-3, momentum=0.9, fused=True),
        slots=1,
        packed=True,
    ),
)


@dataclass(frozen=True)
class StepResult:
    """One cell of the table.

    Attributes:
        contest: the algorithm.
        shapes: the set of tensors.
        comparison: torch against ours.
        goal: the ratio to reach.
        limit: share of the memory limit, where it was measured.
        bandwidth: bytes a second that the memory limit means, where it was measured.
    """

    contest: str
    shapes: str
    comparison: Comparison
    goal: float
    limit: float | None = None
    bandwidth: float | None = None


def measure(seconds: float) -> Iterator[StepResult]:
    """Measure every contest on every set, `seconds` for each cell."""
    for contest in CONTESTS:
        for (name, shapes), goal in zip(SETS.items(), GOALS[contest.name], strict=True):
            params = _params(shapes)
            theirs = contest.torch(params)
            theirs.step()
            ours = sharing(contest.ours(params), theirs)
            comparison = in_turns(theirs.step, ours.step, seconds)
            limit = bandwidth = None
            if len(shapes) == 1 and not contest.packed:
                limit, bandwidth = _memory_limit(contest, ours, params, seconds)
            yield StepResult(contest.name, name, comparison, goal, limit, bandwidth)


def _params(shapes: Shapes) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator)
    return params


def sharing(optimizer: torch.optim.Optimizer, other: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Give `optimizer` the very state tensors of `other`.

    Where in memory tensors happen to lie is worth several percent; both sides shall have the same luck.
    """
    for param, state in other.state.items():
        optimizer.state[param] = dict(state)
    return optimizer


def _memory_limit(
    contest: Contest,
    ours: torch.optim.Optimizer,
    params: list[torch.nn.Parameter],
    seconds: float,
) -> tuple[float, float]:
    """Return our step's share of the memory limit, and the limit in bytes a second.

    The limit is the time of a step that reads and writes the same tensors and does one addition for
    each (of a square, so that second moments stay what they are).
    """
    (param,) = params
    slots = slots_of(ours, param)
    assert len(slots) == contest.slots
    other, moved = traffic(param, slots)
    comparison = in_turns(other.step, ours.step, seconds)
    return comparison.ratio, moved / comparison.baseline


def slots_of(optimizer: torch.optim.Optimizer, param: Tensor) -> list[Tensor]:
    """Return the tensors of state that are as large as the parameter."""
    return [t for t in optimizer.state[param].values() if t.shape == param.shape]


def traffic(param: Tensor, slots: Sequence[Tensor]) -> tuple[torch.optim.Optimizer, int]:
    """Return a step that reads and writes float32 tensors and does next to no arithmetic, and its bytes."""
    names = [f"slot{i}" for i in range(len(slots))]
    found = _Traffic([param], names)
    found.state[param] = dict(zip(names, slots, strict=True))
    # p and every slot are read and written, g is read; 4 bytes each.
    return found, 4 * (2 * (1 + len(slots)) + 1) * param.numel()


class _Traffic(thalweg.Optimizer):
    """The memory traffic of an optimizer with such slots, and next to no arithmetic."""

    def __init__(self, params: Any, names: list[str]) -> None:
        self.rule = Rule(  # type: ignore[misc]
            name="traffic",
            update=lambda g, *rest: (-g, *(slot + g * g for slot in rest[:-2])),
            scalars=lambda h, t: {},
            flags=lambda h: {},
            slots=tuple(map(Slot, names)),
            hypers=(LR,),
            counters=(),
        )
        super().__init__(params, {"lr": 0.0, "maximize": False, "differentiable": False})
