"""Tests on a GPU, most of which Triton's interpreter can run too (`THALWEG_TEST_TRITON=1`)."""

from __future__ import annotations

import pytest
import torch
from interpreter import INTERPRETED

from thalweg.rule import hyper
from thalweg.stepping.scaling import Scaling

HAS_GPU = torch.cuda.is_available() and not INTERPRETED


def pytest_collection_modifyitems(items):
    if HAS_GPU or INTERPRETED:
        return
    skip = pytest.mark.skip(reason="torch sees no GPU, and THALWEG_TEST_TRITON=1 is not set")
    for item in items:
        if item.path.parent.name == "gpu":
            item.add_marker(skip)


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda" if HAS_GPU else "cpu")


@pytest.fixture
def cuda() -> torch.device:
    """Give the device to tests of what only a GPU has."""
    if not HAS_GPU:
        pytest.skip("torch sees no GPU")
    return torch.device("cuda")


@pytest.fixture(autouse=True)
def tensors_stay_on_the_device(monkeypatch):
    """Treat tensors on the CPU as a GPU's where the interpreter runs: their values are not at hand."""
    if INTERPRETED:
        monkeypatch.setattr(hyper, "_is_at_hand", lambda tensor: False)
        monkeypatch.setattr(Scaling, "is_on_host", property(lambda self: self.found_inf is None))
