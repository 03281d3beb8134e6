"""All that is random in a process, seeded for a run."""

import hashlib
import pickle
import random
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch

from thalweg.lab.workload import switches


def seed_all(seed: int) -> None:
    """Seeds torch's, NumPy's and Python's global generators."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextmanager
def left_alone(device: torch.device | None = None) -> Iterator[None]:
    """Puts global generators and switches back to where they were, for whoever goes on in this process."""
    numpys, pythons = np.random.get_state(), random.getstate()
    devices = [device] if device and device.type == "cuda" else []
    try:
        with switches.kept(), torch.random.fork_rng(devices=devices):
            yield
    finally:
        np.random.set_state(numpys)
        random.setstate(pythons)


GLOBAL = ("torch", "numpy", "python")
"""The global generators of a process, beside that of a GPU."""


def states(names: Collection[str] = GLOBAL, device: torch.device | None = None) -> dict[str, bytes]:
    """Where these global generators are, and that of a GPU as ``cuda``: the same bytes at the same place."""
    found = {}
    if "torch" in names:
        found["torch"] = torch.get_rng_state().numpy().tobytes()
    if "numpy" in names:
        found["numpy"] = pickle.dumps(np.random.get_state())
    if "python" in names:
        found["python"] = pickle.dumps(random.getstate())
    if device is not None and device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(device).numpy().tobytes()
    return found


def digest(device: torch.device | None = None) -> str:
    """Twelve digits of where all of them are."""
    found = states(device=device)
    return hashlib.sha256(b"".join(found[name] for name in sorted(found))).hexdigest()[:12]


def restore(found: Mapping[str, bytes], device: torch.device | None = None) -> None:
    """Puts generators to where `states` has found them."""
    if "torch" in found:
        torch.set_rng_state(_words(found["torch"]))
    if "numpy" in found:
        np.random.set_state(pickle.loads(found["numpy"]))
    if "python" in found:
        random.setstate(pickle.loads(found["python"]))
    if "cuda" in found and device is not None:
        torch.cuda.set_rng_state(_words(found["cuda"]), device)


def _words(state: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(state), dtype=torch.uint8)
