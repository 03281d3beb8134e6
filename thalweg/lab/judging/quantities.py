"""Times, sizes and hyperparameters as a reader wants them: few digits, a fitting unit."""

from collections.abc import Mapping
from typing import Any

NBSP = "\N{NO-BREAK SPACE}"


def amount(value: float) -> str:
    """A time or a count to three digits, without an exponent: ``1,240``, ``66``, ``0.0581``."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 0.001 or value == 0 else f"{value:.6f}"


def byte_unit(largest: float) -> tuple[str, float]:
    """The unit in which sizes up to `largest` read well, and how many bytes it is."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if largest >= factor:
            return unit, factor
    return "bytes", 1.0


def size(count: float) -> str:
    """A number of bytes: ``48.7 kB``."""
    unit, factor = byte_unit(count)
    return f"{count / factor:.3g}{NBSP}{unit}"


def hyperparameter(value: object) -> str:
    """A hyperparameter to four digits: ``0.01``, ``(0.9, 0.999)``."""
    if isinstance(value, tuple):
        return f"({', '.join(map(hyperparameter, value))})"
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def hyperparameters(settings: Mapping[str, Any]) -> str:
    """All of them: ``lr=0.01, momentum=0.9``."""
    return ", ".join(f"{key}={hyperparameter(value)}" for key, value in settings.items())
