"""All that is random in a process, seeded for a run."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_all(seed: int) -> None:
    """Seeds torch's, NumPy's and Python's global generators."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextmanager
def left_alone(device: torch.device | None = None) -> Iterator[None]:
    """Puts the global generators back to where they were, for whoever goes on in this process."""
    numpys, pythons = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=[device] if device and device.type == "cuda" else []):
            yield
    finally:
        np.random.set_state(numpys)
        random.setstate(pythons)
