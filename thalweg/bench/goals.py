"""What steps on a GPU have to reach."""

from __future__ import annotations

from dataclasses import replace

from thalweg.bench.cases import Case
from thalweg.bench.rivals import ADAMW, BFLOAT16, BITS24, FLOAT32, INT8, RMSPROP
from thalweg.bench.table import Row

MOST_HOST = 100e-6
MOST_PEAK = 0.01
LEAST_SHARE = 0.92
FLAT = 1.25
"""Host time with a group for each parameter, as a multiple of that with one group, which still is flat."""


def goals(case: Case, row: Row) -> list[tuple[str, bool]]:
    """Return what a row has to reach, and whether it does."""
    assert row.loop is not None
    assert row.host is not None
    assert row.peak is not None
    found = []
    least = least_ratio(case, row.rival)
    if least is not None:
        found.append((f"ratio >= {least:g}", row.loop.ratio >= least))
    if case.set == "one 1e8 tensor" and (case.algorithm, case.storage) == (ADAMW, FLOAT32):
        found.append((f"copy >= {LEAST_SHARE:g}", (row.share or 0.0) >= LEAST_SHARE))
    if len(case.shapes) == 161:
        found.append((f"host <= {MOST_HOST * 1e6:.0f} us", row.host.ours <= MOST_HOST))
    return [*found, (f"peak <= {MOST_PEAK:.0%}", row.peak <= MOST_PEAK)]


def least_ratio(case: Case, rival: str) -> float | None:
    """Return by how much a case has to be faster than a rival, if anything is said about that."""
    if not rival.startswith("torch f") or case.groups > 1 or case.storage in (BFLOAT16, BITS24):
        return None
    if case.storage is INT8:
        # Of 28 bytes an element 16 are left with AdamW; the others have fewer to lose.
        return 1.7 if case.algorithm is ADAMW and rival == "torch fused" and len(case.shapes) == 1 else None
    if case.algorithm is RMSPROP:
        return 3.0
    return _FUSED.get(case.set) if rival == "torch fused" else None


_FUSED = {
    "one 1e8 tensor": 1.0,
    "ResNet-50": 1.1,
    "GPT-2 small": 1.1,
    "400 x 1,000": 3.0,
    "4,000 x 64": 3.0,
}
"""Least ratios over torch's fused step with float32 state."""


def judged_flat(row: Row, first: float | None) -> Row:
    """Return a row with the goal of a host time that does not grow with groups, beside that of one group."""
    if row.host is None or first is None:
        return row
    return replace(
        row, goals=[*row.goals, (f"host <= {FLAT:g} x one group's", row.host.ours <= FLAT * first)]
    )
