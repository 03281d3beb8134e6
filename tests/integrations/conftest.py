"""Tests inside other people's frameworks, each beside torch.optim in the same place; skipped without them."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is to be looked up, let alone loaded

OPERATORS = torch.library.Library("torchvision", "FRAGMENT")


def declare_operators() -> None:
    """Declare the operators that importing torchvision asks for, where it could not load its own.

    PyPI's is built for CUDA and does not load beside torch for the CPU. It would raise, and with it timm,
    which needs it, and Lightning, which looks whether it is there.
    """
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    try:
        torch.ops.load_library(next(Path(spec.origin).parent.glob("_C*")))
    except (OSError, StopIteration):
        for name in ("nms", "qnms"):
            OPERATORS.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


declare_operators()


@pytest.fixture(autouse=True)
def one_thread():
    """Let equal runs be equal to the bit, and tiny models not wait for threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
