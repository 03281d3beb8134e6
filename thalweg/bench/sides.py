"""The two sides of the whole update, on the same memory: ours, and three calls of torch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from thalweg.bench.cases import Case, grad_of, grouped, moved_bytes
from thalweg.bench.measure import Work
from thalweg.bench.rivals import Storage, oracle, ours
from thalweg.bench.steps import sharing, slots_of, traffic

T = TypeVar("T")

MAX_NORM, DECAY = 1.0, 0.999

FLOAT32 = Storage("float32", torch.float32, {"max_norm": MAX_NORM, "average": DECAY})

PACKED = Storage(
    "int8 and bfloat16",
    torch.float32,
    {"max_norm": MAX_NORM, "average": DECAY, "state": "int8", "average_state": "bfloat16"},
)

STORAGES = (FLOAT32, PACKED)


class ThreeCalls:
    """Clipping, the step and the averages as people do them with torch, one after the other.

    Args:
        optimizer: torch's.
        decay: of the averages.
        averages: of the parameters; the first step's weights if there are none yet.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, decay: float = DECAY, averages: list[Tensor] | None = None
    ) -> None:
        self.optimizer = optimizer
        self.params: list[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
        self.decay, self.averages = decay, averages
        self.norm = torch.zeros(())
        """Of the last step's gradients, before they were clipped."""

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self.optimizer.zero_grad()

    def step(self) -> None:
        """Clip the gradients where they lie, take a step and update the averages."""
        self.norm = nn.utils.clip_grad_norm_(self.params, MAX_NORM, foreach=True)
        self.optimizer.step()
        with torch.no_grad():
            if self.averages is None:
                self.averages = [p.clone() for p in self.params]
            else:
                torch._foreach_lerp_(self.averages, self.params, 1 - self.decay)


class Sides(NamedTuple):
    """Our update and the three calls, on the same parameters and gradients, and what makes these new.

    The three calls scale gradients where they lie, so that there would be nothing left to clip.
    """

    ours: torch.optim.Optimizer
    theirs: ThreeCalls
    refill: Work


def both(case: Case, params: list[Tensor], shared: bool = True) -> Sides:
    """Return both ways to update `params`, each of which has been run.

    Args:
        case: what is measured.
        params: the parameters.
        shared: whether state that is stored alike is the same memory, should it matter where that lies.
    """
    shared = shared and case.storage is FLOAT32
    theirs = ThreeCalls(oracle(case.algorithm)(grouped(params, case.groups)))
    gradients = [grad_of(p) for p in params]
    fresh = [g.clone() for g in gradients]

    def refill() -> None:
        torch._foreach_copy_(gradients, fresh)

    theirs.step()
    own = ours(case.algorithm, case.storage)(grouped(params, case.groups))
    if shared:
        sharing(own, theirs.optimizer)
    refill()
    own.step()
    if shared:
        theirs.averages = [own.state[p]["average"] for p in params]
    return Sides(own, theirs, refill)


def after(first: Work, timed: Callable[[Work], T]) -> Callable[[Work], T]:
    """Return what times a work after another one, which is not timed."""

    def both(work: Work) -> T:
        first()
        return timed(work)

    return both


def traffic_of(sides: Sides, param: Tensor) -> tuple[torch.optim.Optimizer, int]:
    """Return a step that reads and writes the slots and averages of the three calls, and its bytes."""
    assert sides.theirs.averages is not None, "both steps it"
    return traffic(param, [*slots_of(sides.theirs.optimizer, param), *sides.theirs.averages])


def bytes_of(sides: Sides) -> tuple[int, int]:
    """Return the bytes that our update and the three calls have to read and write."""
    params = sides.theirs.params
    gradients = sum(grad_of(p).nbytes for p in params)
    averaged = sum(p.nbytes for p in params)
    # The norm reads gradients. Ours holds the average among its state; torch's scales gradients where they
    # lie, and reads averages and weights once more.
    own = gradients + moved_bytes(params, sides.ours)
    return own, 3 * gradients + moved_bytes(params, sides.theirs.optimizer) + 3 * averaged
