"""What a process has switched globally: torch's default dtype, its precision and checks, NumPy's.

A task's file may set them when it is imported, which training processes do not do; and what a run sets must
not reach the next.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def _flag(owner: Any, name: str) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    return lambda: getattr(owner, name), lambda value: setattr(owner, name, value)


SWITCHES: Mapping[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "default device": (torch.get_default_device, torch.set_default_device),
    "matmul precision": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "determinism": (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    "gradients": (torch.is_grad_enabled, torch.set_grad_enabled),
    "anomalies": (
        lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        lambda value: torch.autograd.set_detect_anomaly(*value),
    ),
    "cuDNN": _flag(torch.backends.cudnn, "enabled"),
    "cuDNN's benchmark": _flag(torch.backends.cudnn, "benchmark"),
    "cuDNN's determinism": _flag(torch.backends.cudnn, "deterministic"),
    "NumPy's errors": (np.geterr, lambda value: np.seterr(**value)),
}
"""By name: how one is read, and how it is set."""


def now() -> dict[str, Any]:
    """How all of them are set in this process."""
    return {name: read() for name, (read, _) in SWITCHES.items()}


def restore(found: Mapping[str, Any]) -> None:
    """Sets those that are not as `now` has found them."""
    for name, (read, set_to) in SWITCHES.items():
        if read() != found[name]:
            set_to(found[name])


@contextmanager
def kept() -> Iterator[None]:
    """What is set meanwhile lasts no longer."""
    found = now()
    try:
        yield
    finally:
        restore(found)


AS_IT_STARTS = now()
"""How they are set in a process in which nobody has touched them, as this one when the lab was imported."""


def touched() -> dict[str, str]:
    """Those that are not as a process starts with, in words."""
    return {name: str(value) for name, value in now().items() if value != AS_IT_STARTS[name]}
