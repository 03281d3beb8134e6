"""Whether our step is right, before it is timed: it ends where torch's does."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from thalweg.bench.cases import Case, grad_of, grouped, make_params
from thalweg.bench.rivals import BFLOAT16, BITS24, FLOAT32, INT8, Make, oracle, ours

VERIFIED_STEPS = 3

TOLERANCES = {FLOAT32.name: 1e-3, BITS24.name: 0.02, INT8.name: 0.2}
"""How far our update may be off, ||ours - torch's|| / ||torch's||, after `VERIFIED_STEPS` steps."""

HALF_TOLERANCE = 2.0**-8
"""The same of bfloat16 weights rounded to nearest, but of the weights: their updates are mostly rounding."""


def verify(case: Case, device: torch.device) -> None:
    """Step our optimizer and torch's from the same weights, and compare where they end.

    torch's has float32 weights, whatever ours has.

    Raises:
        ArithmeticError: if they end too far apart.
    """
    error, most = error_of(case, ours(case.algorithm, case.storage), oracle(case.algorithm), device)
    if not error <= most:
        raise ArithmeticError(f"wrong results: {error:.2g} from torch's, allowed are {most:.2g}")


def error_of(case: Case, own: Make, other: Make, device: torch.device) -> tuple[float, float]:
    """Return how far two optimizers end from each other, and how far they may."""
    mine = make_params(case, device)
    theirs: list[Tensor] = [torch.nn.Parameter(p.detach().float().clone()) for p in mine]
    begun = [p.detach().clone() for p in theirs]
    for p, q in zip(mine, theirs, strict=True):
        q.grad = grad_of(p).float()
    a, b = own(grouped(mine, case.groups)), other(theirs)
    for _ in range(VERIFIED_STEPS):
        a.step()
        b.step()
    if case.storage is BITS24:
        mine = list(a.full_precision_weights().values())  # type: ignore[attr-defined]
        mine = _ungrouped(mine, case.groups)
    if case.storage is BFLOAT16:
        return distance(mine, theirs, [torch.zeros((), device=device)] * len(mine)), HALF_TOLERANCE
    return distance(mine, theirs, begun), TOLERANCES[case.storage.name]


def _ungrouped(values: Sequence[Tensor], count: int) -> list[Tensor]:
    """Return in their own order what was listed group after group."""
    order = [i for first in range(count) for i in range(first, len(values), count)]
    placed = dict(zip(order, values, strict=True))
    return [placed[i] for i in range(len(values))]


def distance(mine: Sequence[Tensor], theirs: Sequence[Tensor], begun: Sequence[Tensor]) -> float:
    """Return ||mine - theirs|| / ||theirs - begun||, over all tensors."""
    apart = walked = 0.0
    with torch.no_grad():
        for p, q, start in zip(mine, theirs, begun, strict=True):
            apart += float((p.float() - q).norm().double() ** 2)
            walked += float((q - start).norm().double() ** 2)
    return (apart / walked) ** 0.5
