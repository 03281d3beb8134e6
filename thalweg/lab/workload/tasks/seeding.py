"""Whether a task seeds a global generator that the lab has seeded for the run."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from thalweg.lab.workload.chance import seed_all, states
from thalweg.lab.workload.errors import Doubt

MARK = 977_315_204
"""A seed that no task is likely to choose itself."""

_OWNERS = {"torch": "torch's", "numpy": "NumPy's", "python": "Python's"}


@contextmanager
def watched() -> Iterator[set[str]]:
    """Seeds the global generators; at its end, the set names those that were seeded anew and not put back."""
    seeded = set[str]()
    seed_all(MARK)
    before, numpys, pythons = states(), np.random.seed, random.seed
    np.random.seed = _noting("numpy", numpys, seeded)
    random.seed = _noting("python", pythons, seeded)
    try:
        yield seeded
    finally:
        np.random.seed, random.seed = numpys, pythons
    if torch.initial_seed() != MARK:
        seeded.add("torch")
    after = states()
    seeded.difference_update([name for name in before if before[name] == after[name]])


def _noting(name: str, seed: Callable[..., Any], seeded: set[str]) -> Any:
    def noting(*arguments: Any, **named: Any) -> Any:
        seeded.add(name)
        return seed(*arguments, **named)

    return noting


def doubt(place: str, seeded: set[str]) -> tuple[Doubt, ...]:
    """What is to be told of a method that has seeded these; of no generator, nothing."""
    if not seeded:
        return ()
    named = " and ".join(_OWNERS[name] for name in sorted(seeded))
    text = (
        f"{place}: it seeds {named} global generator itself, so that training goes on with the same random "
        "numbers for all seeds (the order of a DataLoader, dropout): they vary less than they seem to. Draw "
        "from a generator of its own there, such as torch.Generator().manual_seed(0)."
    )
    return (Doubt("seeds", text),)
