"""What torch's own test suite runs, which takes seconds to import."""

from __future__ import annotations

from typing import Any

import torch
from support import NAMES
from torch.testing._internal.common_optimizers import optim_db


def _configurations() -> list[tuple[str, dict[str, Any]]]:
    found = []
    for info in optim_db:
        if info.optim_cls.__name__ in NAMES:
            inputs = info.optim_inputs_func(device="cpu", dtype=torch.float64)
            found += [(info.optim_cls.__name__, dict(one.kwargs)) for one in inputs]
    return found


CONFIGURATIONS = _configurations()
"""As (name, constructor's arguments)."""
