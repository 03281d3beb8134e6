"""Batches that gradients and the Hessian are taken on: independent ones, where the task has such."""

import time
from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.lab.workload import Workload, chance
from thalweg.lab.workload.batches import leaves


def sampled(workload: Workload, seed: int, count: int, check: Callable[[float], Any]) -> list[Any]:
    """Batches that do not depend on each other: the first of each of as many orders of the data.

    Those of one order have no example in common, which makes their mean less random than that of independent
    ones. Where every order begins with the same batch, they are taken from one.

    Args:
        workload: whose.
        seed: from which theirs come.
        count: how many, at least 2.
        check: is told, after the first, how many seconds the others will take.
    """
    began, first, *others = time.perf_counter(), *map(int, np.random.SeedSequence(seed).generate_state(count))
    found = [_first_batch(workload, first)]
    check((count - 1) * (time.perf_counter() - began))
    found.append(_first_batch(workload, others[0]))
    if not _alike(*found):
        return [*found, *(_first_batch(workload, one) for one in others[1:])]
    chance.seed_all(first)
    return list(islice(workload.batches(first), count))


def _first_batch(workload: Workload, seed: int) -> Any:
    chance.seed_all(seed)
    return next(iter(workload.batches(seed)))


def _alike(first: Any, second: Any) -> bool:
    pairs = zip(leaves(first), leaves(second), strict=False)
    return all(
        torch.equal(a, b)
        if isinstance(a, Tensor) and isinstance(b, Tensor)
        else a is b or bool(np.all(a == b))
        for a, b in pairs
    )
